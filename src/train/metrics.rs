//! `metrics.jsonl`: one JSON object per line, appended during the run, and cut back to the checkpoint when it is
//! resumed.

use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The open log.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    lacking: Option<String>,
}

impl Metrics {
    /// Opens `path`, keeping only the lines whose `step` is before `step`: later ones belong to work that was not saved
    /// before an interruption, and that will be done again. An incomplete last line is dropped too.
    ///
    /// # Errors
    /// `Io`.
    pub fn resume(path: &Path, step: u64) -> Result<Metrics> {
        let old = match fs::read(path) {
            Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()), // a line that is not UTF-8 is not JSON either
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        let (mut kept, mut steps) = (String::new(), BTreeSet::new());
        for line in old.iter().flat_map(|text| text.lines()) {
            let Ok(v) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let Some(at) = v.get("step").and_then(|s| s.as_u64()).filter(|s| *s < step) else { continue };
            kept.extend([line, "\n"]);
            if v.get("loss").is_some() {
                steps.insert(at);
            }
        }
        let lost = step - steps.len() as u64;
        let lacking = (lost > 0).then(|| {
            let first = (0..step).find(|s| !steps.contains(s)).unwrap_or(0);
            let what = match old {
                None => format!("is gone, and with it the metrics of the {step} steps before the checkpoint"),
                Some(_) => {
                    format!("lacks {lost} of the {step} steps before the checkpoint, the first of them step {first}")
                }
            };
            format!("{} {what}: the run goes on, and its curves and mean losses are made without them", path.display())
        });
        super::folder::write_atomic(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("write", path))?;
        Ok(Metrics { path: path.to_owned(), file, lacking })
    }

    /// Which lines are missing of the steps before the one at which the log was resumed, in a sentence; `None` if none
    /// are.
    pub(crate) fn lacking(&self) -> Option<&str> {
        self.lacking.as_deref()
    }

    /// Appends one object.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&mut self, line: &serde_json::Value) -> Result<()> {
        writeln!(self.file, "{line}").map_err(Error::io("write", &self.path))
    }

    /// The mean over each epoch of the number called `name`, over the logged steps that have it; no entry for an epoch
    /// without any.
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
            m.write(&serde_json::json!({"loss": 1.5, "step": step})).unwrap();
        }
        m.write(&serde_json::json!({"probe_top1": 0.5, "step": 4})).unwrap();
        drop(m);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"step\": 3, \"lo").unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        assert_eq!(Metrics::resume(&path, 3).unwrap().lacking(), None);
        let line = |step: u64| format!("{{\"loss\":1.5,\"step\":{step}}}\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), [0, 1, 2].map(line).concat());
        // Truncated in the middle of a line, with a line missing, not UTF-8, and deleted.
        let cut = whole.lines().take(5).map(|l| l.len() + 1).sum::<usize>() - 4;
        let lacks = |bytes: Option<&[u8]>| {
            match bytes {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let said = Metrics::resume(&path, 5).unwrap().lacking().map(str::to_owned).unwrap_or_default();
            assert!(said.starts_with(&path.display().to_string()), "{said}");
            said
        };
        assert!(
            lacks(Some(&whole.as_bytes()[..cut]))
                .contains("lacks 1 of the 5 steps before the checkpoint, the first of them step 4")
        );
        assert!(lacks(Some(line(3).as_bytes())).contains("lacks 4 of the 5"));
        assert!(lacks(Some(b"\xff\xfe\n")).contains("lacks 5 of the 5"));
        assert!(lacks(None).contains("is gone"));
    }
}
