//! The source files of the repository, read once.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// One Rust file.
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Its lines, including comments.
    pub lines: Vec<String>,
}

impl Source {
    /// Lines with their numbers (from 1), without comments and without what follows `#[cfg(test)]`.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.all_code().take_while(|(_, l)| l.trim() != "#[cfg(test)]")
    }

    /// Lines with their numbers (from 1), without comments.
    pub fn all_code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.lines.iter().enumerate().map(|(i, l)| (i + 1, l.as_str()));
        numbered.map(|(i, l)| (i, strip_comment(l))).filter(|(_, l)| !l.trim().is_empty())
    }

    /// Whether the file is under `folder`.
    pub fn under(&self, folder: &str) -> bool {
        self.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether `word` occurs in its code.
    pub fn mentions(&self, word: &str) -> bool {
        self.all_code().any(|(_, l)| l.contains(word))
    }
}

/// A line up to `//`. (A `//` inside a string literal truncates the line too, which does not matter to the rules.)
fn strip_comment(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}

/// All Rust files under the given folders of `root`, sorted by path. A missing folder counts as empty.
pub fn read(root: &Path, folders: &[&str]) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for folder in folders {
        walk(root, folder, &mut files)?;
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(root: &Path, folder: &str, files: &mut Vec<Source>) -> Result<()> {
    for (name, is_folder) in entries(root, folder)? {
        let path = format!("{folder}/{name}");
        if is_folder {
            walk(root, &path, files)?;
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
            files.push(Source { path, lines: text.lines().map(str::to_owned).collect() });
        }
    }
    Ok(())
}

/// Names in a folder and whether each is a folder, sorted; empty if the folder does not exist.
pub fn entries(root: &Path, folder: &str) -> Result<Vec<(String, bool)>> {
    let path = root.join(folder);
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| format!("cannot read {folder}"))? {
        let entry = entry?;
        names.push((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_dir()));
    }
    names.sort();
    Ok(names)
}
