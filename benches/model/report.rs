//! The predictions as tables and as JSON.

use super::conv::{self, Pass};
use super::cost::{Priced, Resource, Total, price, total};
use super::device::Device;
use super::floor::Fusion;
use super::known::Known;
use super::steps::Step;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use tubelet::error::Result;

/// The peer is predicted to reach this share of the floor of compiled code: what PyTorch reaches for ResNet-50 on an A100,
/// 63 to 68 %; the middle.
const PEER: [f64; 3] = [0.63, 0.655, 0.68];

/// A step with its predictions, in seconds.
pub struct Predicted {
    pub name: String,
    pub samples: usize,
    pub launches: Vec<Priced>,
    pub total: Total,
    pub floor_epilogue: f64,
    pub floor_full: f64,
    pub floor_compiled: f64,
    /// Bytes of the activations at the floor with batch norm's sums in epilogues.
    pub floor_bytes: f64,
}

impl Predicted {
    /// Runs the step on the recorder and prices it.
    ///
    /// # Errors
    /// Those of the step.
    pub fn of(step: &Step, device: &Device) -> Result<Predicted> {
        let launches = price(&step.launches()?, device);
        let floor = |fusion| step.floor(fusion, device);
        Ok(Predicted {
            name: step.name.clone(),
            samples: step.samples,
            total: total(&launches, device),
            launches,
            floor_epilogue: floor(Fusion::Epilogue)?,
            floor_full: floor(Fusion::Full)?,
            floor_compiled: floor(Fusion::Compiled)?,
            floor_bytes: step.floor_bytes(Fusion::Epilogue)?,
        })
    }

    /// Bytes that the step has to read and write in HBM once.
    pub fn bytes(&self) -> f64 {
        self.launches.iter().map(|l| l.demand.hbm).sum()
    }

    /// Seconds of the peer.
    pub fn peer(&self) -> f64 {
        self.floor_compiled / PEER[1]
    }
}

/// Milliseconds with the digits worth having.
fn ms(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

/// The object of the contract: milliseconds by step.
pub fn json(all: &[Predicted]) -> Value {
    let row = |p: &Predicted| {
        let [slow, _, fast] = PEER.map(|share| ms(p.floor_compiled / share));
        let kinds: Map<String, Value> = by_kind(&p.launches)
            .into_iter()
            .map(|(kind, share)| (kind, json!({"ms": ms(share.seconds), "launches": share.launches})))
            .collect();
        json!({
            "ms": ms(p.total.stream), "floor_epi_ms": ms(p.floor_epilogue), "floor_full_ms": ms(p.floor_full),
            "peer_ms": ms(p.peer()), "peer_range_ms": [fast, slow], "graph_ms": ms(p.total.graph),
            "reusing_l2_ms": ms(p.total.reusing), "samples": p.samples, "launches": p.launches.len(), "kinds": kinds,
            "hbm_gb": ms(p.bytes() * 1e-12), "floor_epi_gb": ms(p.floor_bytes * 1e-12),
        })
    };
    all.iter().map(|p| (p.name.clone(), row(p))).collect::<Map<_, _>>().into()
}

/// What a kernel belongs to, by its name.
pub fn kind(name: &str) -> String {
    let of_conv = |pass| match pass {
        Pass::Fprop => "conv fprop",
        Pass::Dgrad => "conv dgrad",
        Pass::Wgrad => "conv wgrad",
    };
    if let Some(pass) = conv::pass(name) {
        return of_conv(pass).to_owned();
    }
    let known = [
        ("conv3d_merge", "conv partial sums"),
        ("conv3d_pad", "conv padding"),
        ("conv3d_pack", "conv padding"),
        ("batch_norm_backward", "batch norm backward"),
        ("batch_norm", "batch norm forward"),
        ("cross_entropy", "cross-entropy"),
        ("l2_norm", "L2 norm"),
        ("infonce", "InfoNCE"),
        ("pool3d", "pool"),
        ("sgd", "update"),
        ("ema", "update"),
    ];
    let found = known.into_iter().find(|(start, _)| name.starts_with(start)).map(|(_, kind)| kind);
    found.or(name.split('_').next()).unwrap_or(name).to_owned()
}

/// Launches of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    pub launches: usize,
    pub seconds: f64,
    pub hbm: f64,
    /// Seconds by what bounds them, in the order of [`BOUNDS`].
    pub bounds: [f64; 7],
}

const BOUNDS: [Resource; 7] = [
    Resource::Hbm,
    Resource::L2,
    Resource::Tensor,
    Resource::Fma,
    Resource::Shared,
    Resource::Issue,
    Resource::Latency,
];

impl Share {
    /// What bounds most of its time.
    fn bound(&self) -> (&'static str, f64) {
        let (r, s) = BOUNDS.into_iter().zip(self.bounds).max_by(|a, b| a.1.total_cmp(&b.1)).expect("seven bounds");
        (r.name(), s / self.seconds)
    }
}

/// The launches by kind.
pub fn by_kind(launches: &[Priced]) -> BTreeMap<String, Share> {
    let mut all: BTreeMap<String, Share> = BTreeMap::new();
    for l in launches {
        let share = all.entry(kind(&l.launch.name)).or_default();
        share.launches += 1;
        share.seconds += l.cost.seconds;
        share.hbm += l.demand.hbm;
        share.bounds[BOUNDS.iter().position(|b| *b == l.cost.bound).unwrap_or(0)] += l.cost.seconds;
    }
    all
}

/// One line per step, then its split.
pub fn table(all: &[Predicted], device: &Device) -> String {
    let mut text = format!("Predicted for an {}, milliseconds per step; no number is measured. ", device.name);
    text += "Training steps of others take 1.1 to 1.3 times as long as the model predicts (--known), and ours may; the peer's time \
             is not by the model, but what PyTorch reaches of the floor of compiled code for another network.\n\n";
    text += "| step | launches | ms | in a graph | samples/s | floor epi | floor full | peer (range) | peer / ours | HBM GB | epi GB |\n";
    text += "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for p in all {
        let [slow, peer, fast] = PEER.map(|share| 1e3 * p.floor_compiled / share);
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} | {peer:.2} ({fast:.2} to {slow:.2}) | {:.2} | {:.1} | {:.1} |",
            p.name,
            p.launches.len(),
            1e3 * p.total.stream,
            1e3 * p.total.graph,
            p.samples as f64 / p.total.stream,
            1e3 * p.floor_epilogue,
            1e3 * p.floor_full,
            p.peer() / p.total.stream,
            p.bytes() * 1e-9,
            p.floor_bytes * 1e-9
        );
    }
    for p in all {
        split(p, &mut text);
    }
    text
}

fn split(p: &Predicted, text: &mut String) {
    let _ = write!(text, "\n{}, by kind of kernel:\n\n", p.name);
    *text += "| kernels | launches | ms | % | HBM GB | bound by (% of their time) |\n|---|--:|--:|--:|--:|---|\n";
    let mut kinds: Vec<_> = by_kind(&p.launches).into_iter().collect();
    kinds.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let busy: f64 = kinds.iter().map(|(_, share)| share.seconds).sum();
    for (kind, share) in kinds {
        let (bound, part) = share.bound();
        let _ = writeln!(
            text,
            "| {kind} | {} | {:.3} | {:.1} | {:.2} | {bound} ({:.0}) |",
            share.launches,
            1e3 * share.seconds,
            100.0 * share.seconds / busy,
            share.hbm * 1e-9,
            100.0 * part
        );
    }
}

/// The dearest launches of a step; equal ones share a line.
pub fn launches(p: &Predicted, most: usize) -> String {
    let mut same: BTreeMap<String, (usize, &Priced)> = BTreeMap::new();
    for l in &p.launches {
        let key = format!("{} {:?} {:.0}", l.launch.name, l.launch.spread, l.demand.hbm);
        same.entry(key).or_insert((0, l)).0 += 1;
    }
    let mut rows: Vec<(usize, &Priced)> = same.into_values().collect();
    rows.sort_by(|a, b| (b.0 as f64 * b.1.cost.seconds).total_cmp(&(a.0 as f64 * a.1.cost.seconds)));
    let mut text = format!("\n{}, its dearest launches (times in µs of one of them):\n\n", p.name);
    text += "| kernel | of | x | µs | bound | HBM MB | L2 MB | GFLOP | HBM | L2 | tensor | FMA | shared | issue | waves |\n";
    text += "|---|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for (count, l) in rows.into_iter().take(most) {
        let micro: Vec<String> = l.cost.by.iter().map(|s| format!("{:.1}", s * 1e6)).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {count} | {:.1} | {} | {:.1} | {:.1} | {:.1} | {} | {:.2} |",
            l.launch.name,
            problem(l),
            l.cost.seconds * 1e6,
            l.cost.bound.name(),
            l.demand.hbm * 1e-6,
            l.demand.l2 * 1e-6,
            l.demand.operations() * 1e-9,
            micro.join(" | "),
            l.cost.waves
        );
    }
    text
}

/// A convolution's extents, or the grid.
fn problem(l: &Priced) -> String {
    let by = |v: [usize; 3]| v.map(|v| v.to_string()).join("x");
    match conv::problem(&l.launch) {
        Some((_, p)) => {
            let ([c, k], stride) = (p.channels, by(p.stride));
            let stride = if stride == "1x1x1" { String::new() } else { format!("/{stride}") };
            format!("{}x{} c{c} k{k} {}{stride}", p.n, by(p.input), by(p.kernel))
        }
        None => format!("{:?}", l.launch.spread.grid),
    }
}

/// What others measured, beside the model.
pub fn known(all: &[Known]) -> String {
    let mut text = "| known | device | measured | predicted | ratio | within 20 % | source |\n".to_owned();
    text += "|---|---|--:|--:|--:|---|---|\n";
    for k in all {
        let digits = if k.unit == "ms" { 2 } else { 0 };
        let _ = writeln!(
            text,
            "| {} | {} | {:.digits$} {} | {:.digits$} | {:.2} | {} | {} |",
            k.name,
            k.device,
            k.measured,
            k.unit,
            k.predicted,
            k.ratio(),
            if k.reproduced() { "yes" } else { "no" },
            k.source
        );
    }
    for k in all.iter().filter(|k| !k.reproduced()) {
        let _ = write!(text, "\n{}: {}.\n", k.name, k.why);
    }
    text
}
