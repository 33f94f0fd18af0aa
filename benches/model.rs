//! Predicts the time of training steps on a GPU, without one: `cargo xtask model`. Each step runs on a driver that records
//! its launches; `model/cost.rs` prices them.
//!
//!     cargo bench --bench model -- [--net TEXT..] [--launches] [--json] [--known] [--device h200|h100|a100]
//!                                  [--calibration FILE]
//!     cargo bench --bench model -- --kernels [--device ..] [--calibration FILE]
//!     cargo bench --bench model -- --ranks [--json] [--device ..] [--calibration FILE]
//!     cargo bench --bench model -- --calibrate RECORD OUT

#[path = "model/mod.rs"]
mod model;

use model::device::Device;
use model::report::{self, Predicted};
use model::{calibrate, known, ranks, single, steps};
use serde_json::Value;
use std::process::ExitCode;

/// Lines of `--launches` per step.
const DEAREST: usize = 30;

struct Options {
    /// Parts of names of steps; every step if there are none.
    nets: Vec<String>,
    launches: bool,
    json: bool,
    known: bool,
    kernels: bool,
    ranks: bool,
    device: Device,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match run(&args) {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<String, String> {
    if let [flag, record, out] = args
        && flag == "--calibrate"
    {
        let calibration = calibrate::from_record(&read(record)?)?;
        std::fs::write(out, format!("{calibration:#}\n")).map_err(|e| format!("cannot write {out}: {e}"))?;
        return Ok(format!("{calibration:#}"));
    }
    let options = parse(args)?;
    if options.known {
        return Ok(report::known(&known::all().map_err(|e| e.to_string())?));
    }
    if options.kernels {
        let all = single::all(&options.device).map_err(|e| e.to_string())?;
        return Ok(single::table(&all, &options.device));
    }
    if options.ranks {
        let all = ranks::all(&options.device).map_err(|e| e.to_string())?;
        let json = || format!("{:#}", ranks::json(&all, &options.device));
        return Ok(if options.json { json() } else { ranks::table(&all, &options.device) });
    }
    let all = steps::all().map_err(|e| e.to_string())?;
    let chosen: Vec<_> =
        all.iter().filter(|s| options.nets.is_empty() || options.nets.iter().any(|n| s.name.contains(n))).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
        return Err(format!("no step has {:?} in its name; there are {}", options.nets, names.join(", ")));
    }
    let mut predicted = Vec::new();
    for (i, step) in chosen.iter().enumerate() {
        eprintln!("{} of {}: {}", i + 1, chosen.len(), step.name);
        predicted.push(Predicted::of(step, &options.device).map_err(|e| format!("{}: {e}", step.name))?);
    }
    if options.json {
        return Ok(format!("{:#}", report::json(&predicted)));
    }
    let mut text = report::table(&predicted, &options.device);
    if options.launches {
        predicted.iter().for_each(|p| text += &report::launches(p, DEAREST));
    }
    Ok(text)
}

fn read(path: &str) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"))?;
    serde_json::from_str(&text).map_err(|e| format!("{path} is not JSON: {e}"))
}

fn parse(args: &[String]) -> Result<Options, String> {
    let device = Device::all()[0].clone();
    let mut options =
        Options { nets: Vec::new(), launches: false, json: false, known: false, kernels: false, ranks: false, device };
    let mut calibration = None;
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or(format!("{name} needs a value"));
        match name.as_str() {
            "--net" => options.nets.push(value()?.clone()),
            "--launches" => options.launches = true,
            "--json" => options.json = true,
            "--known" => options.known = true,
            "--kernels" => options.kernels = true,
            "--ranks" => options.ranks = true,
            "--device" => {
                let name = value()?;
                options.device = Device::named(name).ok_or(format!("--device {name}: it is h200, h100 or a100"))?;
            }
            "--calibration" => calibration = Some(read(value()?)?),
            _ => return Err(format!("there is no option {name}")),
        }
    }
    if let Some(file) = calibration {
        options.device = options.device.calibrated(&file)?;
    }
    Ok(options)
}
