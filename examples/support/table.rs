//! Tables as CSV files.

use anyhow::Result;
use std::path::Path;
use tubelet::train::folder::write_atomic;

/// A table with named columns.
pub struct Table(String);

impl Table {
    /// An empty one.
    pub fn new<const N: usize>(columns: [&str; N]) -> Table {
        Table(columns.join(",") + "\n")
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, fields: [&str; N]) {
        let quoted = fields.map(field);
        self.0 += &(quoted.join(",") + "\n");
    }

    /// Writes it to `path`, atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(write_atomic(path, self.0.as_bytes())?)
    }
}

/// A field by the rules of CSV: quoted if it holds a comma, a quote or a line break, with quotes doubled.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// The fields of a line that is written so.
pub fn fields(line: &str) -> Vec<String> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    all.push(field);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_field_is_quoted() {
        let mut table = Table::new(["file", "class"]);
        table.row(["a,b/c.mp4", "the \"first\""]);
        table.row(["plain name.mp4", ""]);
        assert_eq!(table.0, "file,class\n\"a,b/c.mp4\",\"the \"\"first\"\"\"\nplain name.mp4,\n");
        let rows: Vec<_> = table.0.lines().skip(1).map(fields).collect();
        assert_eq!(rows, [["a,b/c.mp4", "the \"first\""], ["plain name.mp4", ""]]);
    }
}
