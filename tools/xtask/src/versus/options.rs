//! What was asked for on the command line.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// Options of `cargo xtask versus`.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Texts that a case's name must have, all of them.
    pub only: Vec<String>,
    /// Whether cases are compared too that are left out otherwise, because they double others.
    pub all: bool,
    /// Turns of each side.
    pub rounds: u32,
    /// Seconds of a turn, at least.
    pub seconds: f64,
    /// Threads of each side.
    pub threads: usize,
    /// Whether processor time is taken instead of the clock's: for a machine that does other work too.
    pub processor_time: bool,
    /// The Python that has PyTorch.
    pub python: PathBuf,
    /// Where `{case: {ours_ms, peer_ms, ratio}}` is written.
    pub json: Option<PathBuf>,
    /// Where that is written with versions, peaks and means.
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
            processor_time: false,
            python: "python3".into(),
            json: None,
            record: None,
        }
    }
}

impl Options {
    /// Reads the arguments after `versus`.
    ///
    /// # Errors
    /// When an option is unknown or its value cannot be.
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
                "--processor-time" => options.processor_time = true,
                "--python" => options.python = value()?.into(),
                "--json" => options.json = Some(value()?.into()),
                "--record" => options.record = Some(value()?.into()),
                _ => bail!("there is no option {name}"),
            }
        }
        Ok(options)
    }

    /// Whether a case of this name is compared; an `extra` one only with `--all`.
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
