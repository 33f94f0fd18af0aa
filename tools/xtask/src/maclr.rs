//! Compares complete MaCLR trainings, alternating between this crate's `pretrain_maclr` and PyTorch's
//! `benches/peers/maclr.py`: the same recipe on the same videos, both starting with empty caches of their own.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Command-line options.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Videos in UCF101's layout.
    pub data: PathBuf,
    /// Folder of caches and runs; finished runs are repeated, caches are kept.
    pub folder: PathBuf,
    /// This crate's precisions; the peer's is f32 for all except bf16.
    pub precisions: Vec<String>,
    /// Epochs per run.
    pub epochs: u32,
    /// Runs of each side.
    pub rounds: u32,
    /// Threads of each side.
    pub threads: u32,
    /// The Python interpreter that has PyTorch and OpenCV.
    pub python: PathBuf,
    /// Where to write `{case: {ours_ms, peer_ms, ratio}}`.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Parses the arguments after `versus-maclr`.
    ///
    /// # Errors
    /// When data or folder is missing, an option is unknown or its value invalid.
    pub fn parse(args: &[String]) -> Result<Self> {
        let [data, folder, rest @ ..] = args else { bail!("versus-maclr needs DATA and DIR") };
        ensure!(!data.starts_with('-') && !folder.starts_with('-'), "versus-maclr needs DATA and DIR first");
        let mut options = Options {
            data: data.into(),
            folder: folder.into(),
            precisions: Vec::new(),
            epochs: 4,
            rounds: 3,
            threads: 2,
            python: "python3".into(),
            json: None,
        };
        let mut rest = rest.iter();
        while let Some(name) = rest.next() {
            let value = rest.next().with_context(|| format!("{name} needs a value"))?;
            let number = || match value.parse() {
                Ok(n) if (1..=1000).contains(&n) => Ok(n),
                _ => bail!("{name} is {value}; it must be a number from 1 to 1000"),
            };
            match name.as_str() {
                "--precision" if PRECISIONS.contains(&value.as_str()) => options.precisions.push(value.clone()),
                "--precision" => bail!("--precision is {value}; it must be one of {}", PRECISIONS.join(", ")),
                "--epochs" => options.epochs = number()?,
                "--rounds" => options.rounds = number()?,
                "--threads" => options.threads = number()?,
                "--python" => options.python = value.into(),
                "--json" => options.json = Some(value.into()),
                _ => bail!("there is no option {name}"),
            }
        }
        if options.precisions.is_empty() {
            options.precisions.push("f32".into());
        }
        Ok(options)
    }
}

/// Values of `--precision`.
const PRECISIONS: [&str; 5] = ["f32", "fma", "bf16", "bf16x3", "bf16x6"];

/// The runs of one side in one precision.
#[derive(Default)]
struct Runs(Vec<Value>);

impl Runs {
    /// The minimum of a field over the runs.
    fn best(&self, name: &str) -> f64 {
        self.0.iter().filter_map(|run| run[name].as_f64()).fold(f64::INFINITY, f64::min)
    }

    /// A field of the first run, which built the cache.
    fn first(&self, name: &str) -> f64 {
        self.0.first().and_then(|run| run[name].as_f64()).unwrap_or(f64::NAN)
    }
}

/// Runs the comparison, prints its table and writes the JSON file if requested.
///
/// # Errors
/// When one side does not build or fails; when a file cannot be written.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    ensure!(options.data.exists(), "there is no {}", options.data.display());
    let build = ["build", "--quiet", "--release", "--example", "pretrain_maclr"];
    let built = Command::new("cargo").args(build).current_dir(root).status()?;
    ensure!(built.success(), "the example does not build");
    fs::create_dir_all(&options.folder)?;
    let folder = options.folder.canonicalize()?;
    let fresh = ["ours", "peer"].iter().all(|side| !folder.join(format!("cache-{side}")).exists());
    let mut all: Vec<(&str, [Runs; 2])> = options.precisions.iter().map(|p| (p.as_str(), Default::default())).collect();
    for round in 0..options.rounds {
        for (precision, [ours, peer]) in &mut all {
            ours.0.push(our_run(root, options, &folder, precision)?);
            peer.0.push(peer_run(root, options, &folder, precision)?);
            println!(
                "round {} of {}, {precision}: a step in {}",
                round + 1,
                options.rounds,
                times(ours, peer, "step_ms")
            );
        }
    }
    let mut cases = Map::new();
    for (precision, [ours, peer]) in &all {
        let case = |pass: &str| format!("maclr/gestures-small/{pass}{precision}/cpu");
        let loss = |runs: &Runs| [runs.first("loss_first"), runs.first("loss_last")];
        let mut step = figures(ours.best("step_ms"), peer.best("step_ms"));
        (step["ours_loss"], step["peer_loss"]) = (json!(loss(ours)), json!(loss(peer)));
        step["ours_loading_ms"] = json!(1e3 * ours.best("loading_seconds") / ours.first("steps"));
        step["peer_loading_ms"] = json!(1e3 * peer.best("loading_seconds") / peer.first("steps"));
        cases.insert(case(""), step);
        cases.insert(case("run/"), figures(1e3 * ours.best("seconds"), 1e3 * peer.best("seconds")));
    }
    if fresh && let Some((_, [ours, peer])) = all.first() {
        let [ours, peer] = [ours, peer].map(|runs| 1e3 * runs.first("cache_seconds"));
        cases.insert("maclr/gestures-small/prepare/cpu".into(), figures(ours, peer));
    }
    println!("\n{:<44} {:>10} {:>10} {:>6}", "case", "ours ms", "peer ms", "ratio");
    for (case, row) in &cases {
        let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        println!("{case:<44} {:>10.1} {:>10.1} {:>6.2}", number("ours_ms"), number("peer_ms"), number("ratio"));
    }
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", Value::from(cases));
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn figures(ours: f64, peer: f64) -> Value {
    let rounded = |n: f64| (n * 1e3).round() / 1e3;
    json!({"ours_ms": rounded(ours), "peer_ms": rounded(peer), "ratio": rounded(peer / ours)})
}

fn times(ours: &Runs, peer: &Runs, name: &str) -> String {
    let last = |runs: &Runs| runs.0.last().and_then(|run| run[name].as_f64()).unwrap_or(f64::NAN);
    format!("{:.1} ms, the peer's in {:.1} ms", last(ours), last(peer))
}

fn our_run(root: &Path, options: &Options, folder: &Path, precision: &str) -> Result<Value> {
    let out = folder.join(format!("run-{precision}"));
    if out.exists() {
        fs::remove_dir_all(&out)?; // a finished run would not be done again
    }
    let mut command = Command::new(root.join("target/release/examples/pretrain_maclr"));
    command.arg("--data").arg(&options.data).args(["--preset", "small", "--no-flip", "--device", "cpu"]);
    command.args(["--probe-clips", "1", "--precision", precision, "--epochs", &options.epochs.to_string()]);
    command.args(["--threads", &options.threads.to_string(), "--cache"]).arg(folder.join("cache-ours"));
    ended(command.arg("--out").arg(out), "our side")
}

fn peer_run(root: &Path, options: &Options, folder: &Path, precision: &str) -> Result<Value> {
    let mut command = Command::new(&options.python);
    let precision = if precision == "bf16" { "bf16" } else { "f32" };
    command.arg(root.join("benches/peers/maclr.py")).arg(&options.data).args(["--precision", precision]);
    command.args(["--epochs", &options.epochs.to_string(), "--threads", &options.threads.to_string()]);
    command.env("OMP_NUM_THREADS", options.threads.to_string());
    let run = ended(command.arg("--cache").arg(folder.join("cache-peer")), "the peer");
    run.with_context(|| {
        format!("{} does not run the peer: name one with PyTorch and OpenCV by --python PATH", options.python.display())
    })
}

/// The JSON in the last line of a process's output.
fn ended(command: &mut Command, name: &str) -> Result<Value> {
    let done = command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{name} failed: {}", errors.trim().lines().last().unwrap_or_default());
    let text = String::from_utf8_lossy(&done.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("{name} says {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_or_refused() {
        let parse = |line: &str| Options::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let options = parse("videos out --precision bf16x3 --precision bf16 --rounds 2").unwrap();
        assert_eq!((options.precisions.len(), options.rounds, options.epochs), (2, 2, 4));
        assert_eq!(parse("videos out").unwrap().precisions, ["f32"]);
        for (line, word) in [
            ("videos", "DIR"),
            ("--rounds 2", "first"),
            ("a b --rounds 0", "1 to 1000"),
            ("a b --x 1", "--x"),
            ("a b --precision f31", "bf16x6"),
        ] {
            assert!(parse(line).unwrap_err().to_string().contains(word), "{line}");
        }
    }

    #[test]
    fn the_best_run_counts_and_the_first_fills_the_cache() {
        let runs =
            Runs(vec![json!({"step_ms": 3.0, "cache_seconds": 9.0}), json!({"step_ms": 2.0, "cache_seconds": 0.1})]);
        assert_eq!((runs.best("step_ms"), runs.first("cache_seconds")), (2.0, 9.0));
        assert_eq!(figures(2.0, 5.0)["ratio"], 2.5);
    }
}
