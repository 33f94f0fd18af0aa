//! The record of what was scored: every recipe that was tried on the folds, and every scoring of the test set.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An entry of the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// A hash of the data set's lists.
    pub set: String,
    /// `folds`; `folds, pre-trained once`, where all folds had one network; or `test`.
    pub part: String,
    /// The method.
    pub method: String,
    /// A hash of its options and of the probe's penalties.
    pub recipe: String,
    /// Its options.
    pub options: String,
    /// Number of seeds.
    pub seeds: u64,
    /// When it was scored, in UTC.
    pub date: String,
    /// The commit of this project, with `-dirty` if files differ from it.
    pub commit: String,
    /// The folder of the results: its name, and a hash of its path.
    pub out: String,
}

/// All entries, in a file.
pub struct Record {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Record {
    /// The record in a file, which need not exist.
    ///
    /// # Errors
    /// When it cannot be read or is no record.
    pub fn open(path: &Path) -> Result<Record> {
        let entries = match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is no record", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(Record { path: path.to_owned(), entries })
    }

    /// Entries of the same recipe on the same part of the same data.
    fn same<'a>(&'a self, of: &'a Entry) -> impl DoubleEndedIterator<Item = &'a Entry> {
        let key = |e: &'a Entry| (&e.set, &e.part, &e.method, &e.recipe);
        self.entries.iter().filter(move |e| key(e) == key(of))
    }

    /// Refuses to score a recipe on the test set that was scored before, unless the results are in the same folder, where
    /// they are read instead.
    ///
    /// # Errors
    /// With the date and the commit of the earlier scoring.
    pub fn first_time(&self, of: &Entry) -> Result<()> {
        let Some(before) = self.same(of).next_back() else { return Ok(()) };
        if before.out == of.out && before.seeds >= of.seeds {
            return Ok(());
        }
        bail!(
            "{} with these options was scored on the test set on {}, at commit {}, with {} seeds, in {}: a frozen recipe is \
             scored once; give that folder, or --again to score it a second time, which the record will show",
            of.method,
            before.date,
            before.commit,
            before.seeds,
            before.out
        )
    }

    /// Adds an entry, unless the last one of the recipe is of the same folder and as many seeds.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, entry: Entry) -> Result<()> {
        let known = self.same(&entry).next_back().is_some_and(|e| e.out == entry.out && e.seeds >= entry.seeds);
        if known {
            return Ok(());
        }
        self.entries.push(entry);
        let text = format!("{}\n", serde_json::to_string_pretty(&self.entries)?);
        let temporary = self.path.with_extension("tmp");
        let write = || fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &self.path));
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// How many recipes of a method were tried on the folds of a data set.
    #[must_use]
    pub fn trials(&self, set: &str, method: &str) -> usize {
        let of = |e: &&Entry| e.set == set && e.part.starts_with("folds") && e.method == method;
        let mut recipes: Vec<&str> = self.entries.iter().filter(of).map(|e| e.recipe.as_str()).collect();
        recipes.sort_unstable();
        recipes.dedup();
        recipes.len()
    }

    /// How often a recipe was scored on the test set of a data set.
    #[must_use]
    pub fn scorings(&self, of: &Entry) -> usize {
        self.same(of).count()
    }
}

/// The date in UTC, and the commit of `root`.
///
/// # Errors
/// When `date` cannot be run.
pub fn now(root: &Path) -> Result<[String; 2]> {
    let said = |program: &str, args: &[&str]| -> Result<Option<String>> {
        let out = Command::new(program).args(args).current_dir(root).output().with_context(|| program.to_owned())?;
        Ok(out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    };
    let date = said("date", &["-u", "+%Y-%m-%d %H:%M"])?.context("`date` fails")?;
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"]).ok().flatten();
    let clean = said("git", &["status", "--porcelain", "--untracked-files=no"]).ok().flatten();
    let dirty = if clean.is_some_and(|text| !text.is_empty()) { "-dirty" } else { "" };
    Ok([date, commit.map_or("unknown".to_owned(), |commit| commit + dirty)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_scored_once() {
        let path = std::env::temp_dir().join(format!("tubelet-protocol-record-{}.json", std::process::id()));
        let _ = fs::remove_file(&path);
        let text = |t: &str| t.to_owned();
        let entry = |part: &str, recipe: &str, out: &str, seeds| Entry {
            set: text("s"),
            part: text(part),
            method: text("maclr"),
            recipe: text(recipe),
            options: String::new(),
            seeds,
            date: text("2026-01-02 03:04"),
            commit: text("abc"),
            out: text(out),
        };
        let mut record = Record::open(&path).unwrap();
        let first = entry("test", "r", "a", 5);
        assert!(record.first_time(&first).is_ok());
        record.add(first.clone()).unwrap();
        record.add(entry("folds", "r", "a", 1)).unwrap();
        record.add(entry("folds", "q", "a", 1)).unwrap();
        record.add(entry("folds", "q", "b", 1)).unwrap();
        let mut record = Record::open(&path).unwrap();
        // An interrupted scoring goes on in its folder; elsewhere, or with more seeds, it would be a second one.
        assert!(record.first_time(&first).is_ok() && record.first_time(&entry("test", "other", "b", 5)).is_ok());
        for again in [entry("test", "r", "b", 5), entry("test", "r", "a", 6)] {
            let e = record.first_time(&again).unwrap_err().to_string();
            assert!(e.contains("2026-01-02 03:04") && e.contains("commit abc") && e.contains("--again"), "{e}");
        }
        record.add(first.clone()).unwrap();
        assert_eq!((record.scorings(&first), record.trials("s", "maclr"), record.trials("s", "mcl")), (1, 2, 0));
        record.add(entry("test", "r", "b", 5)).unwrap();
        assert_eq!(record.scorings(&first), 2);
        fs::write(&path, "{").unwrap();
        assert!(Record::open(&path).is_err());
        fs::remove_file(&path).unwrap();
    }
}
