//! `metrics.jsonl`: one JSON object a line, appended as the run goes, cut back to the checkpoint when it is resumed.

use crate::error::{Error, Result};
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

    /// The `epoch` and `loss` of every step logged so far.
    ///
    /// # Errors
    /// `Io`.
    pub fn losses(&self) -> Result<Vec<(u64, f64)>> {
        let text = fs::read_to_string(&self.path).map_err(Error::io("read", &self.path))?;
        let of = |line: &str| {
            let v: serde_json::Value = serde_json::from_str(line).ok()?;
            Some((v.get("epoch")?.as_u64()?, v.get("loss")?.as_f64()?))
        };
        Ok(text.lines().filter_map(of).collect())
    }
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
