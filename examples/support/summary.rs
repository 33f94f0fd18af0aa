//! `summary.json`: one flat object, written after all other files, and printed as the last line.

use super::output::say;
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// The figures of a run, by name.
#[derive(Default)]
pub struct Summary(Map<String, Value>);

impl Summary {
    /// Sets `name`. A value is a number, a string, a boolean or null (for NaN); it must not be nested.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        debug_assert!(!value.is_object() && !value.is_array(), "the summary is flat");
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Writes `dir/summary.json` (to a temporary file, synced, renamed) and prints it as one line.
    pub fn finish(self, dir: &Path) -> Result<()> {
        let line = Value::Object(self.0).to_string();
        let (path, temporary) = (dir.join("summary.json"), dir.join("summary.json.tmp"));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            writeln!(file, "{line}")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        say(line);
        Ok(())
    }
}
