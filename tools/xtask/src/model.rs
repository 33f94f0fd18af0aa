//! `cargo xtask model` and `cargo xtask scaling`: predict the time of training steps on a GPU, and on many of them, without one.
//! `benches/model.rs` does it; this checks the options, then builds and runs that program.

use anyhow::{Context, Result, bail};
use std::path::{Path, absolute};
use std::process::{Command, ExitCode};

/// Options that are checked, with absolute paths: the program runs in another folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Options(pub Vec<String>);

impl Options {
    /// Parses the arguments after `model`.
    ///
    /// # Errors
    /// When an option is unknown or has no value.
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options = Vec::new();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            options.push(name.clone());
            let mut value = || args.next().with_context(|| format!("{name} needs a value"));
            let file = |path: &String| -> Result<String> { Ok(absolute(path)?.to_string_lossy().into_owned()) };
            match name.as_str() {
                "--launches" | "--json" | "--known" | "--kernels" => {}
                "--net" => options.push(value()?.clone()),
                "--device" => {
                    let device = value()?;
                    if !["h200", "h100", "a100"].contains(&device.as_str()) {
                        bail!("--device {device}: it is h200, h100 or a100");
                    }
                    options.push(device.clone());
                }
                "--calibration" => options.push(file(value()?)?),
                "--calibrate" => {
                    let record = file(value()?)?;
                    let out = file(args.next().context("--calibrate needs RECORD and OUT")?)?;
                    options.extend([record, out]);
                }
                _ => bail!("model has no option {name}"),
            }
        }
        if options.iter().any(|o| o == "--calibrate") && options.len() != 3 {
            bail!("--calibrate RECORD OUT stands alone");
        }
        Ok(Options(options))
    }

    /// Parses the arguments after `scaling`.
    ///
    /// # Errors
    /// When an option is unknown or has no value.
    pub fn of_ranks(args: &[String]) -> Result<Self> {
        let Options(mut options) = Options::parse(args)?;
        if let Some(other) = options.iter().find(|o| o.starts_with("--") && !OF_RANKS.contains(&o.as_str())) {
            bail!("scaling has no option {other}");
        }
        options.push("--ranks".to_owned());
        Ok(Options(options))
    }
}

/// The options of `scaling`.
const OF_RANKS: [&str; 3] = ["--json", "--device", "--calibration"];

/// Runs the program; its exit status is this command's.
///
/// # Errors
/// When `cargo` cannot be started.
pub fn run(root: &Path, Options(options): &Options) -> Result<ExitCode> {
    let mut command = Command::new("cargo");
    command.args(["bench", "--quiet", "--bench", "model", "--"]).args(options).current_dir(root);
    let status = command.status().context("cannot run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
