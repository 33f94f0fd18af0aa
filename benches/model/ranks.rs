//! Steps of many GPUs, by the model of one and what they exchange: `cargo xtask scaling`. `docs/ranks.md` describes it.

use super::conv::{self, Pass};
use super::cost::{Priced, price, total};
use super::device::Device;
use super::fabric::Fabric;
use super::recorder;
use super::steps::{self, Step};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use tubelet::dist::sum::{BUCKET, Wire};
use tubelet::error::{ErrorKind, Result};
use tubelet::nn::{Params, Role};
use tubelet::ssl::traffic::{Sent, Traffic};
use tubelet::train::{maclr, mcl};

/// How many GPUs.
const RANKS: [usize; 4] = [1, 8, 64, 512];
/// Videos that are trained on: UCF101's first split, Kinetics-400.
const DATA: [(&str, usize); 2] = [("UCF101", 9537), ("Kinetics-400", 240_000)];
/// The largest batch for which a rate in proportion to it was shown to train as well as a small one, with SGD and a warm-up, on
/// ImageNet (Goyal et al. 2017, arXiv 1706.02677).
const LARGEST: usize = 8192;
/// Numbers of a report: the loss and its parts. Its size does not matter; that there is one does.
const REPORTED: usize = 12;

/// A method's step on one of many GPUs.
pub struct Run {
    name: &'static str,
    /// Its launches in order, and what a step takes on one GPU, in seconds.
    launches: Vec<Priced>,
    alone: f64,
    /// Videos of a GPU and step, and clips of each.
    videos: usize,
    clips: usize,
    keys: usize,
    queue: usize,
    /// The recipe's batch and the rate for it.
    batch: usize,
    rate: f32,
    /// Lengths of the codes whose keys are gathered, and how many exchanges that takes.
    codes: Vec<usize>,
    /// Parameters that are trained, in the order in which their gradients are complete: numbers, and whether it is a filter.
    trained: Vec<(usize, bool)>,
    /// Batch norms of the forward passes that have gradients, and of the others.
    norms: [usize; 2],
}

/// What a step of so many GPUs takes.
pub struct Scaled {
    ranks: usize,
    sent: Sent,
    /// Seconds of the exchanges of gradients, and of those after the end of the backward pass.
    gradients: f64,
    exposed: f64,
    keys: f64,
    notes: f64,
    step: f64,
    /// What statistics of batch norm over all ranks would add.
    statistics: f64,
}

/// Both methods.
///
/// # Errors
/// Those of the steps.
pub fn all(device: &Device) -> Result<Vec<Run>> {
    let (on, _) = recorder::device();
    let steps = steps::all()?;
    let find = |name: &str| {
        let missing = || ErrorKind::Driver { action: "model", what: format!("no step is called {name}") };
        steps.iter().find(|step| step.name == name).ok_or_else(|| tubelet::Error::from(missing()))
    };
    let recipe = maclr::Recipe::paper()?;
    let pathways = recipe.pathways(recipe.training.queue_cap, 1, &on)?;
    let networks: Vec<&Params> =
        [Some(&pathways.visual), pathways.motion.as_ref()].into_iter().flatten().map(|p| p.query()).collect();
    let of_maclr = Run {
        name: "maclr",
        clips: 4,
        keys: 1,
        queue: recipe.training.queue_cap,
        batch: recipe.training.batch,
        rate: recipe.training.lr,
        codes: vec![recipe.code; 2],
        ..Run::of(find("step/maclr")?, &networks, 1, device)?
    };
    let recipe = mcl::Recipe::paper();
    let (network, _) = recipe.network(recipe.training.queue_cap, 1, &on)?;
    let of_mcl = Run {
        name: "mcl",
        clips: 4,
        keys: mcl::KEYS,
        queue: recipe.training.queue_cap,
        batch: recipe.training.batch,
        rate: recipe.training.lr,
        codes: vec![recipe.heads.code; 3 * mcl::KEYS],
        ..Run::of(find("step/mcl")?, &[network.query()], mcl::KEYS, device)?
    };
    Ok(vec![of_maclr, of_mcl])
}

impl Run {
    fn of(step: &Step, networks: &[&Params], key_passes: usize, device: &Device) -> Result<Run> {
        let launches = price(&step.launches()?, device);
        let params = || networks.iter().flat_map(|params| params.iter().map(|(_, p)| p));
        // The network that ran last comes first, and its last layer.
        let all = params().filter(|p| p.role.trains());
        let mut trained: Vec<_> = all.map(|p| (p.value.shape().len(), p.role == Role::ConvWeight)).collect();
        trained.reverse();
        let norms = params().filter(|p| p.role == Role::NormScale).count();
        Ok(Run {
            name: "",
            alone: total(&launches, device).stream,
            launches,
            videos: step.samples,
            clips: 0,
            keys: 0,
            queue: 0,
            batch: 0,
            rate: 0.0,
            codes: Vec::new(),
            trained,
            norms: [norms, norms * key_passes],
        })
    }

    /// Seconds from the start of the step until each launch has ended: their own times, stretched to that of the step.
    fn ends(&self) -> Vec<f64> {
        let sum: f64 = self.launches.iter().map(|l| l.cost.seconds).sum();
        let mut at = 0.0;
        let add = |l: &Priced| {
            at += l.cost.seconds / sum * self.alone;
            at
        };
        self.launches.iter().map(add).collect()
    }

    /// Buckets of gradients: numbers, and seconds until they are complete. Filters are complete in the order of the launches that
    /// compute them, which are shared out equally; what is between two filters is with the next one.
    fn buckets(&self) -> Vec<(usize, f64)> {
        let ends: Vec<f64> = self
            .launches
            .iter()
            .zip(self.ends())
            .filter(|(l, _)| conv::pass(&l.launch.name) == Some(Pass::Wgrad))
            .map(|(_, end)| end)
            .collect();
        let filters = self.trained.iter().filter(|(_, filter)| *filter).count();
        let (mut all, mut filled, mut done) = (Vec::new(), 1, 0); // the loss comes first
        let mut ready = 0.0;
        for &(numbers, filter) in &self.trained {
            if filled + numbers > BUCKET {
                all.push((filled, ready));
                filled = 0;
            }
            filled += numbers;
            done += usize::from(filter);
            ready = ends[(done.max(1) * ends.len() / filters).clamp(1, ends.len()) - 1];
        }
        all.push((filled, ready));
        all
    }

    /// The step of so many GPUs.
    pub fn on(&self, ranks: usize, wire: Wire, device: &Device) -> Scaled {
        let fabric = Fabric(ranks);
        let traffic = Traffic {
            ranks,
            videos: self.videos,
            codes: self.codes.clone(),
            trained: self.trained.iter().map(|(numbers, _)| *numbers).collect(),
            wire,
            bucket: BUCKET,
            reported: REPORTED,
            normalised: [0, 0],
        };
        let mut scaled = Scaled {
            ranks,
            sent: traffic.sent(),
            gradients: 0.0,
            exposed: 0.0,
            keys: 0.0,
            notes: 0.0,
            step: self.alone,
            statistics: 0.0,
        };
        if ranks == 1 {
            return scaled;
        }
        let buckets = self.buckets();
        let (_, end) = buckets[buckets.len() - 1];
        let mut free = 0.0f64;
        for (numbers, ready) in buckets {
            let takes = fabric.sums(numbers as f64, wire, device);
            scaled.gradients += takes;
            free = free.max(ready) + takes;
        }
        scaled.exposed = free - end;
        scaled.keys = self.codes.iter().map(|d| fabric.all_gather((4 * self.videos * d) as f64)).sum();
        scaled.step += scaled.exposed + scaled.keys;
        // Reports are shared once a second or in 64 steps, as the training loop does it.
        scaled.notes = fabric.note() / (1.0 / scaled.step).floor().clamp(1.0, 64.0);
        scaled.step += scaled.notes;
        // A mean and two sums, or two sums of gradients, for some hundred channels.
        let [with, without] = self.norms;
        scaled.statistics = (2 * with + without) as f64 * fabric.all_gather(3.0 * 4.0 * 512.0);
        scaled
    }

    /// What breaks, in the order of the numbers of GPUs at which it does.
    fn limits(&self, scaled: &[Scaled]) -> Vec<String> {
        let mut found: Vec<(&str, String)> = Vec::new();
        for s in scaled {
            let (n, keys) = (s.ranks * self.videos, s.ranks * self.videos * self.keys);
            // Each limit once, where it begins.
            let mut say = |limit: &'static str, breaks: bool, what: String| {
                if breaks && found.iter().all(|(other, _)| *other != limit) {
                    found.push((limit, format!("from {} GPUs on, {what}", s.ranks)));
                }
            };
            let rate = self.rate * n as f32 / self.batch as f32;
            let what = format!(
                "a batch of {n} is beyond {LARGEST}, the largest for which a rate in proportion (here {rate:.2}) is known to work"
            );
            say("rate", n > LARGEST, what);
            say("queue", keys > self.queue, format!("a step makes {keys} keys, and the queue holds {}", self.queue));
            for (data, videos) in DATA {
                say(data, videos / n < 10, format!("an epoch of {data} has {} steps of {n} videos", videos / n));
            }
            let parts = [
                ("notes by TCP take", s.notes),
                ("gathering keys takes", s.keys),
                ("gradients that are not hidden take", s.exposed),
                ("statistics of batch norm over all ranks would take", s.statistics),
            ];
            for (what, seconds) in parts {
                let share = 100.0 * seconds / self.alone;
                say(what, share > 10.0, format!("{what} {:.1} ms, {share:.0} % of the step of one GPU", 1e3 * seconds));
            }
        }
        found.into_iter().map(|(_, what)| what).collect()
    }
}

const MEGA: f64 = 1e-6;

/// Tables, and what breaks.
pub fn table(runs: &[Run], device: &Device) -> String {
    let mut text = format!(
        "Predicted for {}s, milliseconds per step; no number is measured. Nodes of 8 with NVLink, 400 Gb/s for each GPU between them; \
         NCCL for tensors, TCP for notes.\n",
        device.name
    );
    for run in runs {
        let numbers: usize = run.trained.iter().map(|(numbers, _)| numbers).sum();
        let _ = write!(
            text,
            "\n{}: {} videos on each GPU, {:.1} million parameters, {} buckets; a step of one GPU takes {:.1} ms.\n\n",
            run.name,
            run.videos,
            numbers as f64 * MEGA,
            run.buckets().len(),
            1e3 * run.alone
        );
        text += "| GPUs | wire | step | efficiency | videos/s | gradients | not hidden | keys | notes | MB sent | clips/s of a node's loaders |\n";
        text += "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
        for ranks in RANKS {
            for wire in [Wire::F32, Wire::Bf16].into_iter().take(if ranks == 1 { 1 } else { 2 }) {
                let s = run.on(ranks, wire, device);
                let per_second = (ranks * run.videos) as f64 / s.step;
                let [step, gradients, exposed, keys, notes] =
                    [s.step, s.gradients, s.exposed, s.keys, s.notes].map(|t| 1e3 * t);
                let _ = writeln!(
                    text,
                    "| {ranks} | {} | {step:.1} | {:.0} % | {per_second:.0} | {gradients:.1} | {exposed:.1} | {keys:.2} | {notes:.2} | {:.1} | {:.0} |",
                    wire.dtype().name(),
                    100.0 * run.alone / s.step,
                    s.sent.total() as f64 * MEGA,
                    per_second * run.clips as f64 / ranks as f64 * ranks.min(8) as f64
                );
            }
        }
        text += "\nWhat breaks first:\n\n";
        let scaled: Vec<Scaled> = RANKS.iter().map(|&ranks| run.on(ranks, Wire::F32, device)).collect();
        for line in run.limits(&scaled) {
            let _ = writeln!(text, "* {line}");
        }
    }
    text
}

/// The same numbers by method, GPUs and wire.
pub fn json(runs: &[Run], device: &Device) -> Value {
    let ms = |seconds: f64| (seconds * 1e6).round() / 1e3;
    let one = |run: &Run, ranks: usize, wire: Wire| {
        let s = run.on(ranks, wire, device);
        json!({
            "step_ms": ms(s.step), "alone_ms": ms(run.alone), "gradients_ms": ms(s.gradients), "exposed_ms": ms(s.exposed),
            "keys_ms": ms(s.keys), "notes_ms": ms(s.notes), "sync_bn_ms": ms(s.statistics), "bytes": s.sent.total(),
            "videos_per_second": ((ranks * run.videos) as f64 / s.step).round(),
        })
    };
    let of_run = |run: &Run| {
        let rows = RANKS.iter().map(|&ranks| {
            let wires = [Wire::F32, Wire::Bf16].map(|wire| (wire.dtype().name().to_owned(), one(run, ranks, wire)));
            (ranks.to_string(), Value::Object(wires.into_iter().collect()))
        });
        (run.name.to_owned(), Value::Object(rows.collect::<Map<_, _>>()))
    };
    runs.iter().map(of_run).collect::<Map<_, _>>().into()
}
