//! Every operation on a GPU, timed with the device's events, with its L2 cache flushed before each run, as a fraction
//! of the peaks of a copy and of multiply-adds measured on the same device.
//!
//!     cargo bench --bench gpu [FILTER]            Criterion, if there is a GPU
//!     cargo bench --bench gpu -- --cases          the list of cases, for benches/peers/gpu.py
//!     cargo bench --bench gpu -- --assumptions FILE   what the kernels for Hopper assume, into a record: PASS or FAIL
//!     cargo bench --bench gpu -- --architecture   the architecture whose cubins the GPU takes, or nothing
//!     cargo bench --bench gpu -- --modules FILE   loads every module from its cubin and from PTX, into a record
//!     cargo bench --bench gpu -- --peaks FILE     the device's peaks, into the same record
//!     cargo bench --bench gpu -- --launches FILE SECONDS      every kernel of a step of MaCLR and of MCL
//!     cargo bench --bench gpu -- --timed FILE TEXT SECONDS    cases with TEXT in their name, until the time is over
//!     cargo bench --bench gpu -- --report DIR     the results that `run.sh` of a bundle wrote to DIR, as a table and a record
//!
//! `TUBELET_GPU_RECORD=FILE` also writes the results as JSON. `TUBELET_TEST_CUBINS=DIR` names a folder of `cargo xtask cubins`, from
//! which modules are loaded.

#[path = "gpu/cases.rs"]
mod cases;
#[path = "scaling/home.rs"]
mod home;
#[path = "gpu/launches.rs"]
mod launches;
#[path = "gpu/methods.rs"]
mod methods;
#[path = "gpu/peaks.rs"]
mod peaks;
#[path = "gpu/record.rs"]
mod record;
#[path = "gpu/report.rs"]
mod report;
#[path = "gpu/step.rs"]
mod step;
#[path = "gpu/timed.rs"]
mod timed;

use cases::{Case, Work};
use criterion::{Criterion, Throughput};
use peaks::Peaks;
use record::Record;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;
use tubelet::driver::{Gpu, architecture};
use tubelet::error::Result;
use tubelet::tensor::{DType, Device, Tensor};

/// Clips per batch; the tables are for one or two.
const CLIPS: usize = 16;

/// Bytes written to flush the L2 cache, which also gives the host time to enqueue the next run.
const FLUSH: usize = 512 << 20;

fn main() -> ExitCode {
    if let Err(error) = home::go() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--cases", ..] => {
            println!("{}", listed());
            return ExitCode::SUCCESS;
        }
        ["--probe", ..] => return probe(Gpu::name),
        ["--architecture", ..] => {
            return probe(|gpu| architecture(gpu.compute_capability()).unwrap_or_default().into());
        }
        ["--report", folder, ..] => return report::write(folder.as_ref()),
        _ => {}
    }
    let part = timed::Part::parse(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let gpu = match Gpu::cuda(0).and_then(with_cubins) {
        Ok(gpu) => gpu,
        Err(reason) => {
            println!("nothing is timed: {reason}");
            // `cargo bench` goes on; who asked for a part has nothing.
            return if part.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let done = match part {
        Some((part, file)) => Record::open(&file, &gpu).and_then(|record| part.run(&gpu, record)),
        None => run(&gpu),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Every case.
fn all() -> Vec<Case> {
    let [maclr, mcl] = methods::METHODS;
    let ours = [step::maclr(DType::BF16), maclr.graph(), mcl.eager(), mcl.graph(), step::maclr(DType::F32)];
    let steps = ours.into_iter().chain(step::networks());
    cases::all(CLIPS).into_iter().chain([step::update()]).chain(steps).collect()
}

/// The list of cases for the peer.
fn listed() -> Value {
    all().iter().map(|c| json!({"name": c.name, "dtype": c.dtype.name(), "problem": c.problem})).collect()
}

/// A GPU with the cubins in the folder that `TUBELET_TEST_CUBINS` names, if it does.
fn with_cubins(gpu: Gpu) -> Result<Gpu> {
    match std::env::var_os("TUBELET_TEST_CUBINS") {
        // SAFETY: who sets the variable names a folder of `cargo xtask cubins`.
        Some(folder) => unsafe { gpu.with_cubins(folder) },
        None => Ok(gpu),
    }
}

/// Prints what `say` says of the GPU, or exits with status 3 and the reason why there is none.
fn probe(say: impl Fn(&Gpu) -> String) -> ExitCode {
    match Gpu::cuda(0) {
        Ok(gpu) => {
            println!("{}", say(&gpu));
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("{reason}");
            ExitCode::from(3)
        }
    }
}

fn run(gpu: &Gpu) -> Result<()> {
    let peaks = Peaks::measure(gpu)?;
    println!("{}: {}", gpu.name(), peaks.json());
    let mut criterion = Criterion::default().configure_from_args();
    let mut rows = Vec::new();
    for case in all() {
        rows.extend(time(gpu, &case, &peaks, &mut criterion));
    }
    criterion.final_summary();
    if let Some(file) = std::env::var_os("TUBELET_GPU_RECORD") {
        let record = json!({
            "device": gpu.name(),
            "compute_capability": gpu.compute_capability(),
            "peaks": peaks.json(),
            "cases": rows,
        });
        std::fs::write(&file, format!("{record:#}\n")).unwrap_or_else(|e| eprintln!("cannot write {file:?}: {e}"));
    }
    Ok(())
}

/// Times a case; `None` if the filter excludes it.
fn time(gpu: &Gpu, case: &Case, peaks: &Peaks, criterion: &mut Criterion) -> Option<Value> {
    let device = Device::Cuda(gpu.clone());
    let mut work: Option<Result<Work>> = None;
    let mut runs: Vec<f32> = Vec::new();
    let mut failed = None;
    let mut group = criterion.benchmark_group("gpu");
    group.sample_size(10).warm_up_time(Duration::from_millis(20)).measurement_time(Duration::from_millis(200));
    group.throughput(Throughput::Elements(case.flops));
    group.bench_function(format!("{}/cuda", case.name), |bench| {
        bench.iter_custom(|count| {
            let work = work.get_or_insert_with(|| (case.make)(&device));
            let mut total = Duration::ZERO;
            for _ in 0..count {
                match work.as_mut().map_err(|e| e.to_string()).and_then(|w| once(gpu, w).map_err(|e| e.to_string())) {
                    Ok(ms) => {
                        runs.push(ms);
                        total += Duration::from_secs_f32(ms * 1e-3);
                    }
                    Err(error) => {
                        failed = Some(error);
                        return Duration::from_millis(1) * count as u32; // Criterion needs a time
                    }
                }
            }
            total
        });
    });
    group.finish();
    if let Some(error) = failed {
        println!("    {}: {error}", case.name);
        return Some(json!({"name": case.name, "error": error}));
    }
    result(case, &mut runs, peaks)
}

/// The figures of a case from the milliseconds of its runs; `None` if there are none.
fn result(case: &Case, runs: &mut [f32], peaks: &Peaks) -> Option<Value> {
    runs.sort_by(f32::total_cmp);
    let (ms, best) = (milliseconds((*runs.get(runs.len() / 2)?).into()), milliseconds(runs[0].into()));
    let peak = if case.dtype == DType::BF16 { peaks.products() } else { peaks.f32 };
    let (matrix, copy) = (case.flops as f64 / ms * 1e3 / peak, case.bytes as f64 / ms * 1e3 / peaks.copy);
    println!("    median {ms:.4} ms, {:.0} % of arithmetic, {:.0} % of a copy", 100.0 * matrix, 100.0 * copy);
    Some(json!({
        "name": case.name, "ms": ms, "best_ms": best, "runs": runs.len(), "share_of_arithmetic": share(matrix),
        "share_of_copy": share(copy), "gflop": case.flops as f64 * 1e-9, "megabytes": case.bytes as f64 * 1e-6,
    }))
}

/// Milliseconds for the record, of events, whose clock is in f32: without digits of no meaning.
fn milliseconds(ms: f64) -> f64 {
    (ms * 1e6).round() / 1e6
}

/// A share for the record; `None` for cases without stated work.
fn share(share: f64) -> Option<f64> {
    (share > 0.0).then(|| (share * 1e4).round() / 1e4)
}

/// Milliseconds of one run between two events, with a cold cache.
fn once(gpu: &Gpu, work: &mut Work) -> Result<f32> {
    let timed = work()?;
    drop(Tensor::zeros_on(&Device::Cuda(gpu.clone()), [FLUSH / 4])?);
    let start = gpu.record_event()?;
    let place = timed()?;
    let end = gpu.record_event()?;
    if place == Device::Cpu {
        let what = "it was computed on the CPU: there is no kernel for it".into();
        return Err(tubelet::error::ErrorKind::Driver { action: "time a case", what }.into());
    }
    gpu.elapsed_ms(&start, &end)
}
