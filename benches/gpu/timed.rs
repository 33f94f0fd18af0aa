//! What `run.sh` of a bundle measures, within seconds that it says: modules, peaks and cases, into one record.

use super::cases::{Case, layers, random};
use super::record::Record;
use super::{once, result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tubelet::driver::Gpu;
use tubelet::error::{ErrorKind, Result};
use tubelet::ops::conv3d::{self, Operator, on_tile};
use tubelet::tensor::{DType, Device};

/// Runs of a case: at most so many, or until they took so long.
const RUNS: usize = 10;
const LONG_ENOUGH: Duration = Duration::from_millis(60);

/// What is measured.
pub enum Part {
    /// What the kernels for Hopper assume of hardware, and no document says.
    Assumptions,
    /// How long each module takes to load, or why the driver refuses it.
    Modules,
    /// The peaks of the device.
    Peaks,
    /// Every kernel of a step of each method.
    Launches(Duration),
    /// Cases whose names contain the text, until the time is over.
    Cases(String, Duration),
}

impl Part {
    /// Parses `--assumptions FILE`, `--modules FILE`, `--peaks FILE`, `--launches FILE SECONDS` or `--timed FILE TEXT SECONDS`.
    pub fn parse(args: &[&str]) -> Option<(Part, PathBuf)> {
        match args {
            ["--assumptions", file] => Some((Part::Assumptions, file.into())),
            ["--launches", file, seconds] => {
                Some((Part::Launches(Duration::from_secs(seconds.parse().ok()?)), file.into()))
            }
            ["--modules", file] => Some((Part::Modules, file.into())),
            ["--peaks", file] => Some((Part::Peaks, file.into())),
            ["--timed", file, text, seconds] => {
                let time = Duration::from_secs(seconds.parse().ok()?);
                Some((Part::Cases((*text).to_owned(), time), file.into()))
            }
            _ => None,
        }
    }

    /// Measures it, and writes the record after each figure.
    pub fn run(&self, gpu: &Gpu, mut record: Record) -> Result<()> {
        match self {
            Part::Assumptions => assumptions(gpu, &mut record),
            Part::Launches(time) => super::launches::measure(gpu, &mut record, *time),
            Part::Modules => modules(gpu, &mut record),
            Part::Peaks => {
                let peaks = super::Peaks::measure(gpu)?.json();
                println!("{}: {peaks}", gpu.name());
                record.set("peaks", peaks)
            }
            Part::Cases(text, time) => cases(gpu, &mut record, text, *time),
        }
    }
}

/// Whether wgmma reads operands that begin at any row of a tile, as the kernels with halos take them.
fn assumptions(gpu: &Gpu, record: &mut Record) -> Result<()> {
    const NAME: &str = "wgmma operands begin at any row";
    if gpu.compute_capability() != (9, 0) {
        println!("{NAME}: not needed on this device");
        return record.set("assumptions", json!({NAME: "not needed"}));
    }
    let answer = conv3d::operands_begin(gpu);
    let passes = answer.as_ref().is_ok_and(conv3d::Begins::anywhere);
    let detail = match &answer {
        Ok(begins) => {
            conv3d::FORMS.iter().zip(begins.wrong).map(|(form, wrong)| format!("{form}: {wrong:?}")).collect()
        }
        Err(error) => vec![error.to_string()],
    };
    let verdict = if passes { "PASS" } else { "FAIL" };
    println!("{NAME}: {verdict}; wrong numbers by row: {}", detail.join(", "));
    record.set("assumptions", json!({NAME: verdict, "wrong numbers by row": detail}))?;
    all_well("read operands of wgmma as the kernels with halos assume", usize::from(!passes), 1)
}

/// Loads every module: the milliseconds that each takes, or the driver's reason for refusing it.
fn modules(gpu: &Gpu, record: &mut Record) -> Result<()> {
    let mut all: Vec<(&str, &'static str)> = tubelet::ops::kernels().iter().map(|k| (k.module, k.ptx)).collect();
    all.sort_unstable();
    all.dedup();
    let (mut took, mut refused) = (serde_json::Map::new(), 0);
    for (name, ptx) in all {
        let start = Instant::now();
        // SAFETY: no addresses are passed to it.
        let loaded = unsafe { gpu.raw_driver() }.load(ptx);
        let ms = (start.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        let outcome = loaded.map_or_else(|error| json!(error.to_string()), |_| json!(ms));
        refused += usize::from(outcome.is_string());
        println!("{name}: {outcome}");
        took.insert(name.to_owned(), outcome);
        record.set("modules", Value::Object(took.clone()))?;
    }
    all_well("load every module", refused, took.len())
}

/// An error when some failed, so that the part is not taken for passed.
fn all_well(action: &'static str, failed: usize, of: usize) -> Result<()> {
    if failed == 0 {
        return Ok(());
    }
    Err(ErrorKind::Driver { action, what: format!("{failed} of {of} failed") }.into())
}

/// The hot layers with every tile: `conv3d/<pass>/<layer>/bf16/tile<i>`. Passes that have no such tile are left out.
fn tiles(gpu: &Gpu, clips: usize) -> impl Iterator<Item = Case> {
    let passes = [("fprop", Operator::Fprop), ("dgrad", Operator::Dgrad), ("wgrad", Operator::Wgrad)];
    layers(clips).flat_map(move |row| {
        let p = row.problem();
        let operands = move |pass| match pass {
            Operator::Fprop => [p.x_shape(), p.w_shape()],
            Operator::Dgrad => [p.y_shape(), p.w_shape()],
            Operator::Wgrad => [p.x_shape(), p.y_shape()],
        };
        passes.into_iter().flat_map(move |(name, pass)| {
            // A stem has no gradient by its input.
            let tiles =
                if row.x[4] <= 3 && pass == Operator::Dgrad { 0 } else { conv3d::tiles(gpu, &p, pass).unwrap_or(0) };
            (0..tiles).map(move |tile| {
                let [a, b] = operands(pass);
                Case {
                    name: format!("conv3d/{name}/{}/bf16/tile{tile}", row.name),
                    dtype: DType::BF16,
                    problem: Value::Null,
                    flops: p.flops(),
                    bytes: 2 * (p.x_shape().len() + p.w_shape().len() + p.y_shape().len()) as u64,
                    make: Box::new(move |device: &Device| {
                        let (a, b) = (random(a, DType::BF16, device, 1)?, random(b, DType::BF16, device, 2)?);
                        Ok(Box::new(move || {
                            let (a, b) = (a.clone(), b.clone());
                            Ok(Box::new(move || {
                                let y = on_tile(&p, pass, tile, [&a, &b])?;
                                Ok(y.map_or(Device::Cpu, |y| y.device()))
                            }))
                        }))
                    }),
                }
            })
        })
    })
}

fn cases(gpu: &Gpu, record: &mut Record, text: &str, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    let Some(peaks) = record.peaks() else {
        let what = "the record has no peaks yet; measure those first".into();
        return Err(ErrorKind::Driver { action: "time cases", what }.into());
    };
    let mut failed = 0;
    let all = super::all().into_iter().chain(tiles(gpu, super::CLIPS));
    let wanted: Vec<Case> = all.filter(|case| case.name.contains(text) && !record.has(&case.name)).collect();
    for (i, case) in wanted.iter().enumerate() {
        if Instant::now() >= end {
            println!("{} of {} cases are left for another run", wanted.len() - i, wanted.len());
            break;
        }
        let device = Device::Cuda(gpu.clone());
        let mut runs = Vec::new();
        let measured = (case.make)(&device).and_then(|mut work| {
            once(gpu, &mut work)?; // loads modules, and leaves memory in the pool
            let start = Instant::now();
            while runs.len() < RUNS && (runs.len() < 3 || start.elapsed() < LONG_ENOUGH) {
                runs.push(once(gpu, &mut work)?);
            }
            Ok(())
        });
        let row = match measured {
            Ok(()) => result(case, &mut runs, &peaks),
            Err(error) => {
                failed += 1;
                Some(json!({"name": case.name, "error": error.to_string()}))
            }
        };
        if let Some(row) = row {
            println!("{}: {}", case.name, row.get("ms").or(row.get("error")).unwrap_or(&Value::Null));
            record.add(row)?;
        }
        // A fault ends the context: nothing that follows would be measured.
        gpu.synchronize()?;
    }
    all_well("time every case", failed, wanted.len())
}
