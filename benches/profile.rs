//! Where the time of a training step on the CPU goes: `cargo xtask profile`. Runs steps of one network and prints, as one JSON
//! object, what each kind of pass read and wrote (counted by [`tubelet::cpu::traffic`]) with its time in the fastest step, and
//! the bytes of the network's activations at several degrees of fusion.
//!
//!     cargo bench --bench profile -- NET [--precision P] [--clips N] [--steps N]

#[path = "versus/clock.rs"]
mod clock;
#[path = "model/device.rs"]
#[allow(dead_code, reason = "the model of a GPU uses it")]
mod device;
#[path = "model/floor.rs"]
#[allow(dead_code, reason = "the model of a GPU uses all of it")]
mod floor;
#[path = "versus/nets.rs"]
mod nets;
#[path = "versus/noise.rs"]
mod noise;
#[path = "versus/peaks.rs"]
mod peaks;
#[path = "versus/step.rs"]
mod step;

use clock::Clock;
use floor::Fusion;
use nets::nets;
use noise::noise;
use peaks::Peaks;
use serde_json::{Value, json};
use std::process::ExitCode;
use step::Step;
use tubelet::cpu::traffic::{self, Report, Row};
use tubelet::error::Result;
use tubelet::nn::{Net, Precision, Trunk};

/// The columns of performance models, by what is computed together.
const COLUMNS: [(&str, Fusion); 3] = [("eager", Fusion::Eager), ("epi", Fusion::Epilogue), ("full", Fusion::Full)];

struct Options {
    name: String,
    net: Net,
    clip: [usize; 3],
    precision: Precision,
    clips: usize,
    steps: usize,
}

fn main() -> ExitCode {
    // This thread is part of the pool, so that it begins every pass, and computes parts of it.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("nobody asked for the pool before");
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match parse(&args).and_then(|options| profile(&options).map_err(|e| e.to_string())) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> std::result::Result<Options, String> {
    let all = nets();
    let names = all.each_ref().map(|(name, ..)| *name).join(", ");
    let (asked, mut rest) =
        args.split_first().ok_or(format!("which network? There are {names}")).map(|(n, r)| (n, r.iter()))?;
    let found = all.into_iter().find(|(name, ..)| name == asked);
    let (name, net, clip) = found.ok_or(format!("there is no network {asked}; there are {names}"))?;
    let mut options = Options { name: name.to_owned(), net, clip, precision: Precision::F32, clips: 2, steps: 5 };
    while let Some(option) = rest.next() {
        let value = rest.next().ok_or(format!("{option} needs a value"))?;
        let number = || {
            value
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or(format!("{option} is {value}; it must be a whole number from 1"))
        };
        match option.as_str() {
            "--precision" => options.precision = value.parse()?,
            "--clips" => options.clips = number()?,
            "--steps" => options.steps = number()?,
            _ => return Err(format!("there is no option {option}")),
        }
    }
    Ok(options)
}

fn profile(o: &Options) -> Result<Value> {
    let [t, h, w] = o.clip;
    let mut step = Step::new(&o.net, noise([o.clips, t, h, w, 3], 1), o.precision)?;
    step.run()?; // memory is taken from the system
    let peaks = Peaks::probe(Clock::new(false));
    let mut best: Option<Report> = None;
    for _ in 0..o.steps {
        let (done, report) = traffic::record(|| step.run());
        done?;
        if best.as_ref().is_none_or(|best| report.time < best.time) {
            best = Some(report);
        }
    }
    let report = best.expect("there is a step");
    Ok(json!({
        "net": o.name, "precision": o.precision.name(), "clip": o.clip, "clips": o.clips, "steps": o.steps,
        "threads": rayon::current_num_threads(),
        "peaks": {"f32_gflops": giga(peaks.f32), "bf16_gflops": giga(peaks.bf16), "copy_gb_per_s": giga(peaks.copy)},
        "ms": ms(report.time), "outside_bytes": report.outside,
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
        "columns": columns(o)?,
    }))
}

fn giga(rate: f64) -> f64 {
    (rate * 1e-9).round()
}

fn ms(time: std::time::Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

fn row(r: &Row) -> Value {
    let of = r.temporary;
    json!({
        "pass": r.kind, "calls": r.calls, "flops": r.flops, "read": r.read, "wrote": r.wrote,
        "temporary": {"filters": of.filters, "layout": of.layout, "normalised": of.normalised, "sums": of.sums},
        "cached": r.cached, "tasks": r.tasks, "ms": ms(r.time), "busy_ms": ms(r.busy),
    })
}

/// Bytes of a step at each degree of fusion, in the precision's data type: those of activations and their gradients, and of
/// weights, which are read by fprop and dgrad, whose gradients are written in f32, and updated from three arrays to two.
fn columns(o: &Options) -> Result<Value> {
    let size = o.precision.dtype().size();
    let (_, params) = Trunk::with_params(&o.net, 1);
    let weights: usize = params.trainable().map(|(_, p)| p.value.shape().len()).sum();
    let of_weights = (weights * (2 * size + 4 + 5 * 4)) as f64;
    let mut columns = json!({"weights": of_weights});
    for (name, fusion) in COLUMNS {
        // The tables are for numbers of two bytes.
        let activations = floor::bytes(&o.net, o.clip, fusion, true, o.clips)? * size as f64 / 2.0;
        columns[name] = (activations + of_weights).into();
    }
    Ok(columns)
}
