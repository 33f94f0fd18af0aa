//! A process that answers requests line by line.

use super::Options;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// One side of the comparison. Its process ends when this is dropped.
pub struct Side {
    name: &'static str,
    child: Child,
    to: Option<ChildStdin>,
    from: Lines<BufReader<ChildStdout>>,
}

impl Side {
    /// Builds and starts this crate's side.
    pub fn ours(root: &Path, options: &Options) -> Result<Self> {
        let mut command = Command::new("cargo");
        command.args(["bench", "--quiet", "--bench", "versus", "--"]).current_dir(root);
        Self::serving("our side", command, options)
    }

    /// Starts this crate's side of another commit, an executable.
    pub fn before(binary: &Path, options: &Options) -> Result<Self> {
        let started = Self::serving("the commit before", Command::new(binary), options);
        started.with_context(|| format!("cannot run --before {}", binary.display()))
    }

    fn serving(name: &'static str, mut command: Command, options: &Options) -> Result<Self> {
        command.arg("--serve").args(options.processor_time.then_some("--processor-time"));
        command.env("RAYON_NUM_THREADS", options.threads.to_string());
        Self::start(name, &mut command)
    }

    /// Starts the peer; also returns the versions that it reports.
    pub fn peer(root: &Path, options: &Options) -> Result<(Self, Value)> {
        let python = options.python.display();
        let mut command = Command::new(&options.python);
        let threads = options.threads.to_string();
        command.arg(root.join("benches/peers/versus.py")).args(["--threads", &threads]);
        command.env("OMP_NUM_THREADS", &threads);
        if options.processor_time {
            command.env("OMP_WAIT_POLICY", "passive"); // a thread that spins while it waits would be counted as work
        }
        let advice = "name one with PyTorch by --python PATH";
        let mut side =
            Self::start("the peer", &mut command).with_context(|| format!("cannot run {python}: {advice}"))?;
        let hello = side.answer().with_context(|| format!("{python} does not run the peer: {advice}"))?;
        if let Some(error) = hello["error"].as_str() {
            bail!("{python} has no PyTorch to compare with ({error}): {advice}");
        }
        Ok((side, hello))
    }

    /// Builds and starts the program around scirs2-vision; also returns its version.
    pub fn scirs2(root: &Path) -> Result<(Self, Value)> {
        let (manifest, folder) = (root.join("benches/peers/scirs2/Cargo.toml"), root.join("target/scirs2"));
        let mut build = Command::new("cargo");
        build.args(["build", "--quiet", "--release", "--locked", "--manifest-path"]).arg(&manifest);
        let built = build.arg("--target-dir").arg(&folder).status();
        let advice = "scirs2-vision is not here to compare with: its crates come from crates.io when it is first built";
        ensure!(built.is_ok_and(|status| status.success()), advice);
        let mut command = Command::new(folder.join("release/scirs2-peer"));
        let mut side = Self::start("scirs2-vision", &mut command)?;
        let version = side.answer()?;
        Ok((side, json!({"scirs2-vision": version["version"]})))
    }

    fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take();
        let from = child.stdout.take().context("the process has no output")?;
        Ok(Side { name, child, to, from: BufReader::new(from).lines() })
    }

    /// The answer to `request`; an answer may have a field `error`.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        let to = self.to.as_mut().context("the process has no input")?;
        writeln!(to, "{request}").and_then(|()| to.flush()).with_context(|| format!("{} has ended", self.name))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let line = self.from.next().with_context(|| format!("{} has ended", self.name))??;
        serde_json::from_str(&line).with_context(|| format!("{} says {line:?}", self.name))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.to.take()); // closing its input ends the process
        let _ = self.child.wait();
    }
}
