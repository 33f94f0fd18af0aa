//! The record of a run on a GPU: written again after everything that was measured, so that a run that is cut off leaves what
//! it has, and the next one goes on from there.

use super::peaks::Peaks;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tubelet::driver::Gpu;
use tubelet::error::{ErrorKind, Result};

/// A record and its file.
pub struct Record {
    path: PathBuf,
    value: Map<String, Value>,
}

impl Record {
    /// The record at `path`, or a new one for `gpu`. One of another GPU is refused.
    pub fn open(path: &Path, gpu: &Gpu) -> Result<Record> {
        let read = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let mut value = match read {
            Some(Value::Object(value)) => value,
            _ => Map::new(),
        };
        let device = json!(gpu.name());
        if value.get("device").is_some_and(|d| *d != device) {
            let other = value["device"].to_string();
            let what = format!("{} is of the device {other}, and this one is {device}", path.display());
            return Err(ErrorKind::Driver { action: "open the record", what }.into());
        }
        value.insert("device".into(), device);
        value.insert("compute_capability".into(), json!(gpu.compute_capability()));
        Ok(Record { path: path.to_owned(), value })
    }

    /// The peaks in it.
    pub fn peaks(&self) -> Option<Peaks> {
        Peaks::read(self.value.get("peaks")?)
    }

    /// A field that is an object, or an empty one.
    pub fn object(&self, key: &str) -> Map<String, Value> {
        self.value.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// Sets a field.
    pub fn set(&mut self, key: &str, value: Value) -> Result<()> {
        self.value.insert(key.into(), value);
        self.write()
    }

    /// Whether a case of this name was measured.
    pub fn has(&self, name: &str) -> bool {
        let cases = self.value.get("cases").and_then(Value::as_array);
        cases.is_some_and(|cases| cases.iter().any(|case| case["name"] == name && case["error"].is_null()))
    }

    /// Adds a case.
    pub fn add(&mut self, case: Value) -> Result<()> {
        let cases = self.value.entry("cases").or_insert_with(|| json!([]));
        if let Value::Array(cases) = cases {
            cases.retain(|c| c["name"] != case["name"]); // an error of before
            cases.push(case);
        }
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text = format!("{:#}\n", Value::Object(self.value.clone()));
        let temporary = self.path.with_extension("new");
        let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &self.path));
        written.map_err(|e| {
            let what = format!("{}: {e}", self.path.display());
            ErrorKind::Driver { action: "write the record", what }.into()
        })
    }
}
