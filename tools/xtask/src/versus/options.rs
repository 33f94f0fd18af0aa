//! Command-line options.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// Options of `cargo xtask versus`.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Substrings that a case's name must contain, all of them.
    pub only: Vec<String>,
    /// Whether to include cases that are skipped by default, because they duplicate others.
    pub all: bool,
    /// Turns per side.
    pub rounds: u32,
    /// Minimum seconds per turn.
    pub seconds: f64,
    /// Threads per side.
    pub threads: usize,
    /// Largest change of the probed rates during a case, in percent: beyond it the case is repeated.
    pub drift: f64,
    /// Attempts at a case before it is left without a ratio.
    pub tries: u32,
    /// Whether to measure processor time instead of wall time, for a machine with other load.
    pub processor_time: bool,
    /// The Python interpreter that has PyTorch.
    pub python: PathBuf,
    /// Instead of a peer, this crate's side at another commit: the binary that `cargo bench --bench versus --no-run` names.
    pub before: Option<PathBuf>,
    /// Instead of PyTorch and OpenCV, the optical flow of the crate scirs2-vision.
    pub scirs2: bool,
    /// Where to write `{case: {ours_ms, peer_ms, ratio}}`.
    pub json: Option<PathBuf>,
    /// Where to write the same with versions, peaks and means.
    pub record: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            only: Vec::new(),
            all: false,
            rounds: 4,
            seconds: 0.03,
            threads: 2,
            drift: 10.0,
            tries: 3,
            processor_time: false,
            python: "python3".into(),
            before: None,
            scirs2: false,
            json: None,
            record: None,
        }
    }
}

impl Options {
    /// Parses the arguments after `versus`.
    ///
    /// # Errors
    /// When an option is unknown or its value invalid.
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let mut value = || args.next().with_context(|| format!("{name} needs a value"));
            match name.as_str() {
                "--only" => options.only.push(value()?.clone()),
                "--all" => options.all = true,
                "--rounds" => options.rounds = number(name, value()?, 1, 1000)?,
                "--seconds" => options.seconds = number(name, value()?, 0.0, 60.0)?,
                "--threads" => options.threads = number(name, value()?, 1, 1024)?,
                "--drift" => options.drift = number(name, value()?, 0.0, 1000.0)?,
                "--tries" => options.tries = number(name, value()?, 1, 100)?,
                "--scirs2" => options.scirs2 = true,
                "--processor-time" => options.processor_time = true,
                "--python" => options.python = value()?.into(),
                "--before" => options.before = Some(value()?.into()),
                "--json" => options.json = Some(value()?.into()),
                "--record" => options.record = Some(value()?.into()),
                _ => bail!("there is no option {name}"),
            }
        }
        if options.scirs2 && options.before.is_some() {
            bail!("--before and --scirs2 each name another side: give one of them");
        }
        if options.scirs2 && options.processor_time {
            bail!("--scirs2 is timed by the clock alone, without --processor-time");
        }
        Ok(options)
    }

    /// Whether a case of this name is selected; `extra` ones only with `--all`.
    pub fn keeps(&self, name: &str, extra: bool) -> bool {
        (self.all || !extra) && self.only.iter().all(|text| name.contains(text))
    }
}

fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    name: &str,
    text: &str,
    least: T,
    most: T,
) -> Result<T> {
    match text.parse() {
        Ok(n) if n >= least && n <= most => Ok(n),
        _ => bail!("{name} is {text}; it must be a number from {least} to {most}"),
    }
}
