//! This crate's side of `cargo xtask versus`: a process that answers requests, one JSON line each, so that its runs and
//! a peer's can alternate within milliseconds. Started alone it prints the time of each case and its fraction of a
//! peak:
//!
//!     cargo bench --bench versus [-- TEXT..]      cases whose names contain every TEXT
//!     cargo bench --bench versus -- --all ..      also f32 with only multiply-adds, or only six products of bf16 terms
//!
//! The peak is that of arithmetic (f32 multiply-adds or bf16 matrix products) or of a copy through memory, whichever
//! bounds the case more; both are measured in this process.

#[path = "versus/block.rs"]
mod block;
#[path = "versus/case.rs"]
mod case;
#[path = "versus/clock.rs"]
mod clock;
#[path = "versus/conv.rs"]
mod conv;
#[path = "versus/exact.rs"]
mod exact;
#[path = "versus/glance.rs"]
mod glance;
#[path = "versus/layer.rs"]
mod layer;
#[path = "versus/layers.rs"]
mod layers;
#[path = "versus/memory.rs"]
mod memory;
#[path = "versus/nets.rs"]
mod nets;
#[path = "versus/noise.rs"]
mod noise;
#[path = "versus/peaks.rs"]
mod peaks;
#[path = "versus/step.rs"]
mod step;
#[path = "versus/train.rs"]
mod train;
#[path = "versus/video.rs"]
mod video;

use case::{Case, Turn, Unit, Work, best};
use clock::Clock;
use glance::Glance;
use peaks::Peaks;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::process::ExitCode;
use tubelet::error::Result;

fn main() -> ExitCode {
    // This thread is part of the pool, as in the peer, so that a call does not have to wake the pool.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("nobody asked for the pool before");
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.first().is_some_and(|a| a == "--serve") {
        return serve(args.iter().any(|a| a == "--processor-time"));
    }
    if let Some(other) = args.iter().find(|a| a.starts_with('-') && *a != "--all") {
        let usage = "cargo bench --bench versus -- [--all] [TEXT..]: cases whose names contain every TEXT";
        if ["--help", "-h"].contains(&other.as_str()) {
            println!("{usage}");
            return ExitCode::SUCCESS;
        }
        eprintln!("error: there is no option {other}: {usage}");
        return ExitCode::from(2);
    }
    let peaks = Peaks::probe(Clock::new(false));
    println!("{}", described(&peaks));
    let every = args.iter().any(|a| a == "--all");
    let texts = args.iter().filter(|a| *a != "--all");
    for case in all().iter().filter(|c| (every || !c.extra) && texts.clone().all(|text| c.name.contains(text))) {
        if let Err(error) = alone(case, &peaks) {
            println!("{}: {error}", case.name);
        }
    }
    ExitCode::SUCCESS
}

/// Every case.
fn all() -> Vec<Case> {
    let convolutions = layers::convolutions();
    let parts =
        [conv::cases(&convolutions), block::cases(), layer::cases(), video::cases(), train::cases(&convolutions)];
    parts.into_iter().flatten().collect()
}

fn described(peaks: &Peaks) -> String {
    let giga = |n: f64| n * 1e-9;
    let threads = rayon::current_num_threads();
    format!(
        "{threads} threads, f32 {:.0} GFLOP/s, bf16 {:.0} GFLOP/s, copy {:.1} GB/s",
        giga(peaks.f32),
        giga(peaks.bf16),
        giga(peaks.copy)
    )
}

fn alone(case: &Case, peaks: &Peaks) -> Result<()> {
    let mut work = (case.make)()?;
    let (ms, _) = best(&mut work.run, &Turn { seconds: 0.3, least: 4, processor: false })?;
    println!("{:<72} {ms:>9.3} ms {:>4.0} %", case.name, 100.0 * floor_ms(case, peaks) / ms);
    Ok(())
}

/// The minimum time by the peaks of arithmetic and memory.
fn floor_ms(case: &Case, peaks: &Peaks) -> f64 {
    let seconds = match case.unit {
        Unit::F32 => case.flops as f64 / peaks.f32,
        Unit::Bf16(products) => case.flops as f64 * f64::from(products) / peaks.bf16,
    };
    1e3 * seconds.max(case.bytes as f64 / peaks.copy)
}

/// Answers requests until its input is closed.
fn serve(processor: bool) -> ExitCode {
    let clock = Clock::new(processor);
    let (peaks, glance) = (Peaks::probe(clock), Glance::new(clock));
    let mut server = Server { cases: all(), peaks, glance, processor, works: BTreeMap::new() };
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
        let answer = serde_json::from_str(&line)
            .map_err(|e| e.to_string())
            .and_then(|request| server.answer(&request))
            .unwrap_or_else(|error| json!({"error": error}));
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE; // the reader has closed its end
        }
    }
    ExitCode::SUCCESS
}

struct Server {
    cases: Vec<Case>,
    peaks: Peaks,
    glance: Glance,
    processor: bool,
    /// Operands by the case's name, until they are dropped on request.
    works: BTreeMap<String, Work>,
}

impl Server {
    fn answer(&mut self, request: &Value) -> std::result::Result<Value, String> {
        match request["do"].as_str() {
            Some("list") => Ok(self.list()),
            Some("probe") => {
                let [f32, copy] = self.glance.take();
                Ok(json!({"f32": f32, "copy": copy}))
            }
            Some("forget") => {
                self.works.clear();
                Ok(json!({}))
            }
            Some("time") => {
                let turn = Turn {
                    seconds: request["seconds"].as_f64().unwrap_or(0.1),
                    least: request["least"].as_u64().unwrap_or(2),
                    processor: self.processor,
                };
                let (ms, runs) = best(&mut self.work(request)?.run, &turn).map_err(|e| e.to_string())?;
                Ok(json!({"ms": ms, "runs": runs}))
            }
            Some("check") => match &mut self.work(request)?.check {
                Some(check) => check().map_err(|e| e.to_string()),
                None => Ok(json!({})),
            },
            _ => Err(format!("no such request: {request}")),
        }
    }

    fn list(&self) -> Value {
        let peaks = &self.peaks;
        let giga = |n: f64| (n * 1e-9).round();
        let row = |case: &Case| {
            json!({
                "name": case.name, "problem": case.problem, "extra": case.extra, "gflop": case.flops as f64 * 1e-9,
                "floor_ms": floor_ms(case, peaks),
            })
        };
        json!({
            "threads": rayon::current_num_threads(),
            "peaks": {"f32_gflops": giga(peaks.f32), "bf16_gflops": giga(peaks.bf16), "copy_gb_per_s": giga(peaks.copy)},
            "cases": self.cases.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// The case's operands, created and run once if they do not exist yet.
    fn work(&mut self, request: &Value) -> std::result::Result<&mut Work, String> {
        let name = request["case"].as_str().unwrap_or_default();
        if !self.works.contains_key(name) {
            let case = self.cases.iter().find(|c| c.name == name).ok_or(format!("no such case: {name}"))?;
            let mut work = (case.make)().map_err(|e| e.to_string())?;
            (work.run)().map_err(|e| e.to_string())?;
            self.works.insert(name.to_owned(), work);
        }
        self.works.get_mut(name).ok_or(format!("no such case: {name}"))
    }
}
