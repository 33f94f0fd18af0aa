//! One pre-training run with a folder of its own: its command, its current phase, and its result.

use super::process::Process;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The methods, each of which has an example.
pub const METHODS: [&str; 2] = ["maclr", "mcl"];

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before the cache is built.
    Start,
    /// Decoding and flow.
    Cache,
    /// Between the cache and the first step: sheet of samples, probe of the untrained network.
    Before,
    /// Steps.
    Training,
    /// Writing a checkpoint.
    Checkpoint,
    /// The probe of the trained network.
    Probe,
    /// After the last checkpoint: curves, the summary.
    End,
}

/// All phases in order.
pub const PHASES: [Phase; 7] =
    [Phase::Start, Phase::Cache, Phase::Before, Phase::Training, Phase::Checkpoint, Phase::Probe, Phase::End];

impl Phase {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Start => "start",
            Phase::Cache => "cache",
            Phase::Before => "pictures and first probe",
            Phase::Training => "training",
            Phase::Checkpoint => "checkpoint",
            Phase::Probe => "probe",
            Phase::End => "end",
        }
    }
}

/// Epochs per run.
const EPOCHS: u64 = 3;

/// A run: a method, its folder, its cache.
#[derive(Clone)]
pub struct Run {
    /// One of [`METHODS`].
    pub method: &'static str,
    /// `--out`.
    pub out: PathBuf,
    /// `--cache`.
    pub cache: PathBuf,
    programs: PathBuf,
    data: PathBuf,
    /// Number of files of the complete cache, and of steps of the complete run, if known.
    whole: Option<(usize, u64)>,
}

/// The result of a finished run: every file and every number of the summary that must be the same.
#[derive(Default, PartialEq)]
pub struct Outcome {
    files: BTreeMap<String, Vec<u8>>,
    numbers: BTreeMap<String, Value>,
}

/// Fields of a summary that are times, or depend on the scheduling of threads.
const TIMES: [&str; 8] = [
    "seconds",
    "step_ms",
    "clips_per_second",
    "loading_seconds",
    "cache_seconds",
    "loader_videos_per_second",
    "memory_peak_bytes",
    "out",
];

impl Run {
    /// A run of `method` below `folder` with the programs in `programs` on the videos in `data`.
    pub fn new(method: &'static str, folder: &Path, programs: &Path, data: &Path) -> Run {
        let (out, cache) = (folder.join("out"), folder.join("cache"));
        Run { method, out, cache, programs: programs.to_owned(), data: data.to_owned(), whole: None }
    }

    /// The same run with another `--out`.
    pub fn beside(&self, out: &Path) -> Run {
        Run { out: out.to_owned(), ..self.clone() }
    }

    /// The same run, with the numbers of files and steps of the finished run `whole`.
    pub fn like(self, whole: &Run) -> Run {
        Run { whole: Some((whole.cached(), whole.steps())), ..self }
    }

    /// Its command.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.programs.join(format!("pretrain_{}", self.method)));
        command.arg("--data").arg(&self.data).arg("--out").arg(&self.out).arg("--cache").arg(&self.cache);
        command.args(["--preset", "tiny", "--batch", "4", "--frames", "4", "--stride", "1", "--side", "16"]);
        command.args(["--probe-clips", "1", "--probe-every", "1", "--threads", "2", "--device", "cpu", "--seed", "3"]);
        command.args(["--epochs", &EPOCHS.to_string()]);
        if self.method == "maclr" {
            command.args(["--motion-frames", "4"]);
        }
        command
    }

    /// Number of files in the cache.
    fn cached(&self) -> usize {
        names(&self.cache).iter().filter(|n| !n.starts_with('.') && !n.ends_with(".tmp")).count()
    }

    /// Number of steps in the metrics, and whether the last entry is a probe.
    fn metrics(&self) -> (u64, bool) {
        let text = fs::read_to_string(self.out.join("metrics.jsonl")).unwrap_or_default();
        let probed = text.lines().last().is_some_and(|l| l.contains("probe_top1"));
        (text.lines().filter(|l| !l.contains("probe_top1")).count() as u64, probed)
    }

    fn steps(&self) -> u64 {
        self.metrics().0
    }

    /// The step of the newest checkpoint.
    fn saved(&self) -> Option<u64> {
        let names = names(&self.out.join("checkpoints"));
        names.iter().filter_map(|n| n.strip_prefix("step-")?.trim_end_matches(".replaced").parse().ok()).max()
    }

    /// The current phase, determined from the files written so far.
    pub fn phase(&self) -> Phase {
        let (cached, steps) = self.whole.unwrap_or((0, 0));
        let checkpoints = names(&self.out.join("checkpoints"));
        let half = |n: &String| n.starts_with("writing-") || n.starts_with("removing-") || n.ends_with(".replaced");
        if checkpoints.iter().any(half) {
            return Phase::Checkpoint;
        }
        if !self.cache.exists() {
            return Phase::Start;
        }
        if self.cached() < cached || names(&self.cache).iter().any(|n| n.ends_with(".tmp")) {
            return Phase::Cache;
        }
        let (done, probed) = self.metrics();
        match self.saved() {
            Some(saved) if saved >= steps => Phase::End,
            None if done == 0 => Phase::Before,
            // A step is logged when it is done. At the end of an epoch the probe comes next, and then the checkpoint.
            saved if done > saved.unwrap_or(0) && done.is_multiple_of(steps / EPOCHS) => {
                if probed {
                    Phase::Checkpoint
                } else {
                    Phase::Probe
                }
            }
            _ => Phase::Training,
        }
    }

    /// Runs to completion.
    ///
    /// # Errors
    /// When it fails, with its error output.
    pub fn finish(&self, log: &Path) -> Result<Outcome> {
        let mut process = Process::start(&mut self.command(), log, None)?;
        let status = process.wait()?;
        ensure!(status.success(), "{} ended with {status}: {}", self.method, process.errors().trim());
        self.outcome()
    }

    /// The result of a finished run.
    ///
    /// # Errors
    /// When there is no summary.
    pub fn outcome(&self) -> Result<Outcome> {
        let text = fs::read_to_string(self.out.join("summary.json")).context("there is no summary")?;
        let mut numbers: BTreeMap<String, Value> = serde_json::from_str(&text)?;
        numbers.retain(|name, _| !TIMES.contains(&name.as_str()));
        let mut files = BTreeMap::new();
        collect(&self.out.join("checkpoints"), "checkpoints", &mut files)?;
        collect(&self.cache, "cache", &mut files)?;
        files.retain(|name, _| !name.starts_with("cache/."));
        files.insert("metrics.jsonl".to_owned(), fs::read(self.out.join("metrics.jsonl"))?);
        Ok(Outcome { files, numbers })
    }

    /// Every file below `--out`, with its bytes.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn everything(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        collect(&self.out, "", &mut files)?;
        Ok(files)
    }
}

impl Outcome {
    /// The differences from another result, one line each.
    pub fn differences(&self, other: &Outcome) -> Vec<String> {
        let mut found = Vec::new();
        for name in self.files.keys().chain(other.files.keys().filter(|name| !self.files.contains_key(*name))) {
            match (self.files.get(name), other.files.get(name)) {
                (Some(a), Some(b)) if a == b => {}
                (Some(_), Some(_)) => found.push(format!("{name} has other bytes")),
                (Some(_), None) => found.push(format!("{name} is missing")),
                _ => found.push(format!("{name} should not be there")),
            }
        }
        for (name, value) in &self.numbers {
            let came = other.numbers.get(name).unwrap_or(&Value::Null);
            if came != value {
                found.push(format!("{name} is {came} instead of {value}"));
            }
        }
        found
    }

    /// The length of the longest file.
    pub fn longest(&self) -> u64 {
        self.files.values().map(|bytes| bytes.len() as u64).max().unwrap_or(0)
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect()
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = format!("{prefix}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            collect(&path, &name, files)?;
        } else {
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named() {
        let outcome = |files: &[(&str, &[u8])], loss: f64| Outcome {
            files: files.iter().map(|(n, b)| ((*n).to_owned(), b.to_vec())).collect(),
            numbers: BTreeMap::from([("loss_last".to_owned(), loss.into())]),
        };
        let a = outcome(&[("a", b"1"), ("b", b"2")], 0.5);
        assert!(a.differences(&outcome(&[("a", b"1"), ("b", b"2")], 0.5)).is_empty());
        let found = a.differences(&outcome(&[("a", b"9"), ("c", b"2")], 0.25));
        let expected =
            ["a has other bytes", "b is missing", "c should not be there", "loss_last is 0.25 instead of 0.5"];
        assert_eq!(found, expected);
    }
}
