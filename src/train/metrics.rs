//! `metrics.jsonl`: one JSON object a line, appended as the run goes, cut back to the checkpoint when it is resumed.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The open log.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens `path`, keeping only the lines whose `step` lies before `step`: those after belong to work that a killed
    /// run had not saved and that will be done again. A last line cut by the kill is dropped too.
    ///
    /// # Errors
    /// `Io`.
    pub fn resume(path: &Path, step: u64) -> Result<Metrics> {
        let old = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        let before = |line: &&str| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|v| v.get("step").and_then(|s| s.as_u64()).is_some_and(|s| s < step))
        };
        let kept: String = old.lines().filter(before).flat_map(|l| [l, "\n"]).collect();
        super::folder::write_atomic(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("write", path))?;
        Ok(Metrics { path: path.to_owned(), file })
    }

    /// Appends one object.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&mut self, line: &serde_json::Value) -> Result<()> {
        writeln!(self.file, "{line}").map_err(Error::io("write", &self.path))
    }

    /// The mean over each epoch of the number called `name`, from the steps logged so far that have it; nothing for an
    /// epoch without.
    ///
    /// # Errors
    /// `Io`.
    pub fn means(&self, name: &str) -> Result<BTreeMap<u64, f64>> {
        means(&self.path, name)
    }
}

/// As [`Metrics::means`], of the log at `path`.
///
/// # Errors
/// `Io`.
pub fn means(path: &Path, name: &str) -> Result<BTreeMap<u64, f64>> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut epochs: BTreeMap<u64, (f64, u64)> = BTreeMap::new();
    for line in text.lines() {
        let Ok(v) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let number = |name: &str| v.get(name);
        let (Some(epoch), Some(x)) = (number("epoch").and_then(|e| e.as_u64()), number(name).and_then(|x| x.as_f64()))
        else {
            continue;
        };
        let (sum, count) = epochs.entry(epoch).or_default();
        (*sum, *count) = (*sum + x, *count + 1);
    }
    Ok(epochs.into_iter().map(|(epoch, (sum, count))| (epoch, sum / count as f64)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_drops_what_will_be_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut m = Metrics::resume(&path, 0).unwrap();
        for step in 0..5 {
            m.write(&serde_json::json!({"step": step})).unwrap();
        }
        drop(m);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"step\": 3, \"lo").unwrap();
        Metrics::resume(&path, 3).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":0}\n{\"step\":1}\n{\"step\":2}\n");
    }
}
