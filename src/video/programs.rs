//! Running `ffprobe` and `ffmpeg`, and what is said when that fails.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use super::pipe::{self, Failure, Patience};
use crate::error::{Error, Result};

/// Runs one of the programs, with little output.
pub(super) fn collect(
    name: &'static str,
    command: &mut Command,
    limit: usize,
    file: &Path,
    patience: Patience,
) -> Result<pipe::Output> {
    // FFREPORT makes both programs write log files.
    command.env_remove("FFREPORT");
    pipe::collect(command, limit, patience).map_err(|failure| failed(name, file, limit, patience, failure))
}

pub(super) fn failed(name: &'static str, file: &Path, limit: usize, patience: Patience, failure: Failure) -> Error {
    let (path, timeout) = (file.display(), patience.silence.as_secs_f64());
    let what = match failure {
        Failure::Stopped => return Error::stopped(file, format!("nothing is kept of {}", file.display())),
        Failure::Start(e) => {
            let hint = "; `apt-get install ffmpeg` brings ffmpeg and ffprobe";
            let hint = if e.kind() == ErrorKind::NotFound { hint } else { "" };
            return Error::not_run(name, format!("cannot be started ({e}), and video files need it{hint}"), e);
        }
        Failure::Read(e) => return Error::not_run(name, format!("its output about {path} cannot be read: {e}"), e),
        Failure::Killed => {
            let what = format!("was ended by a signal while reading {path}, as the system does where memory is short");
            return Error::not_run(name, what, std::io::Error::other("killed by a signal"));
        }
        Failure::Silent => format!("wrote nothing for {timeout} s while reading {path} and was stopped"),
        Failure::Flood => {
            format!("wrote more than the {limit} bytes that were asked for while reading {path} and was stopped")
        }
    };
    Error::program(name, what)
}

/// The first error in a program's messages, without the file's name and without memory addresses.
pub(super) fn reason(stderr: &str, path: &Path) -> String {
    let name = path.display().to_string();
    let complaint = |line: &str| {
        let line = line.replace(&format!("file:{name}"), "").replace(&name, "");
        let line = line.rsplit_once("] ").map_or(line.as_str(), |(_, text)| text).trim_matches([':', ' ']).to_owned();
        (!line.is_empty()).then_some(line)
    };
    stderr.lines().find_map(complaint).unwrap_or_else(|| "it gave no reason".to_owned())
}
