//! What `run.sh` of a bundle measures, within seconds that it says: modules, peaks and cases, into one record.

use super::cases::{Case, layers, random};
use super::record::Record;
use super::{once, result};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tubelet::driver::{Declared, Gpu, Origin};
use tubelet::error::{ErrorKind, Result};
use tubelet::ops::conv3d::{self, Conv3d, Operator, on_tile};
use tubelet::tensor::{DType, Device, Tensor};

/// Runs of a case: at most so many, or until they took so long.
const RUNS: usize = 10;
const LONG_ENOUGH: Duration = Duration::from_millis(60);

/// What is measured.
pub enum Part {
    /// What the kernels for Hopper assume of hardware, and no document says.
    Assumptions,
    /// How long each module takes to load, from its cubin and from PTX, or why the driver refuses it.
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

/// Loads every module from its cubin, if there is one, and from PTX: `cubin_ms` and `ptx_ms` of each, or the driver's reason
/// for refusing it. Times that are in the record are kept, because the driver has a cache of what it compiled.
fn modules(gpu: &Gpu, record: &mut Record) -> Result<()> {
    let kernels = [tubelet::ops::kernels(), tubelet::augment::kernels()].concat();
    let fits = |kernel: &Declared| gpu.compute_capability() == (9, 0) || !kernel.ptx.contains(".target sm_90a");
    let mut all: Vec<Declared> = kernels.into_iter().filter(fits).collect();
    all.sort_unstable_by_key(|kernel| kernel.module);
    all.dedup_by_key(|kernel| kernel.module);
    let mut modules = record.object("modules");
    let mut refused = 0;
    // Cubins first: all of them take less time than one module of PTX. What has none is compiled at once.
    for (key, gpu) in [("cubin_ms", gpu), ("ptx_ms", &Gpu::cuda(0)?)] {
        for kernel in &all {
            let known = |key: &str| modules.get(kernel.module).is_some_and(|module| module[key].is_number());
            if known("ptx_ms") || known(key) {
                continue;
            }
            for (key, outcome) in loaded(kernel, gpu) {
                println!("{} {key}: {outcome}", kernel.module);
                refused += usize::from(outcome.is_string());
                modules.entry(kernel.module).or_insert_with(|| json!({}))[key] = outcome;
            }
            record.set("modules", Value::Object(modules.clone()))?;
        }
    }
    all_well("load every module", refused, all.len())
}

/// The milliseconds in which a module was loaded, by what it was loaded from, or why the driver refused that.
fn loaded(kernel: &Declared, gpu: &Gpu) -> Vec<(&'static str, Value)> {
    if let Err(error) = kernel.load(gpu) {
        let of_driver = matches!(error.kind(), ErrorKind::Driver { .. });
        return vec![(if of_driver { "ptx_ms" } else { "cubin_ms" }, json!(error.to_string()))];
    }
    let Some(module) = gpu.modules().into_iter().find(|module| module.name == kernel.module) else {
        return Vec::new();
    };
    let ms = json!((module.took.as_secs_f64() * 1e4).round() / 10.0);
    match module.origin {
        Origin::Ptx => vec![("ptx_ms", ms)],
        Origin::Refused { file, why } => {
            vec![("cubin_ms", json!(format!("{}: {why}", file.display()))), ("ptx_ms", ms)]
        }
        _ => vec![("cubin_ms", ms)],
    }
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
    let last = Rc::new(RefCell::new(None));
    layers(clips).flat_map(move |row| {
        let (p, last) = (row.problem(), last.clone());
        passes.into_iter().flat_map(move |(name, pass)| {
            // A stem has no gradient by its input.
            let tiles =
                if row.x[4] <= 3 && pass == Operator::Dgrad { 0 } else { conv3d::tiles(gpu, &p, pass).unwrap_or(0) };
            let last: Rc<RefCell<Option<Operands>>> = last.clone();
            (0..tiles).map(move |tile| {
                let last = last.clone();
                Case {
                    name: format!("conv3d/{name}/{}/bf16/tile{tile}", row.name),
                    dtype: DType::BF16,
                    problem: Value::Null,
                    flops: p.flops(),
                    bytes: 2 * (p.x_shape().len() + p.w_shape().len() + p.y_shape().len()) as u64,
                    make: Box::new(move |device: &Device| {
                        // Making them takes longer than timing a tile, and one layer's tiles follow each other.
                        let same = last.take().filter(|operands| operands.of == (row.name, name));
                        let operands = same.map_or_else(|| Operands::make((row.name, name), &p, pass, device), Ok)?;
                        let [a, b] = operands.tensors.clone();
                        last.replace(Some(operands));
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

/// The operands of a pass of a layer.
struct Operands {
    /// The names of the layer and of the pass.
    of: (&'static str, &'static str),
    tensors: [Tensor; 2],
}

impl Operands {
    fn make(of: (&'static str, &'static str), p: &Conv3d, pass: Operator, device: &Device) -> Result<Operands> {
        let [a, b] = match pass {
            Operator::Fprop => [p.x_shape(), p.w_shape()],
            Operator::Dgrad => [p.y_shape(), p.w_shape()],
            Operator::Wgrad => [p.x_shape(), p.y_shape()],
        };
        Ok(Operands { of, tensors: [random(a, DType::BF16, device, 1)?, random(b, DType::BF16, device, 2)?] })
    }
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
