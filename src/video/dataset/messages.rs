//! How videos and lists are named, and what is said of those that are absent or not used.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Messages about lists that exist and are not `used`.
pub(super) fn unused(lists: Vec<PathBuf>, used: &[&Path]) -> Option<String> {
    let left: Vec<PathBuf> = lists.into_iter().filter(|l| !used.contains(&l.as_path())).collect();
    let first = left.first()?.display();
    Some(match left.len() {
        1 => format!("{first} looks like a list of a split, and is not used"),
        n => format!("{first} looks like a list of a split, and is not used; so it is with {} more", n - 1),
    })
}

/// One error for all missing files of a list: the first and how many.
pub(super) fn refuse_absent(list: &Path, total: usize, absent: &[(u64, String)]) -> Result<()> {
    let Some((line, first)) = absent.first() else { return Ok(()) };
    let hint = if first.starts_with('~') { "; in a list `~` does not stand for a folder" } else { "" };
    let n = absent.len();
    let what = format!("{n} of the {total} videos it names are absent, the first is {first} in line {line}{hint}");
    Err(Error::data(list, what))
}

/// A warning about missing videos of a list that names files wherever they are: of such data sets, parts are no longer
/// available.
pub(super) fn absent_of_names(list: &Path, total: usize, absent: &[(u64, String)]) -> Option<String> {
    let (line, first) = absent.first()?;
    let (n, list) = (absent.len(), list.display());
    Some(format!(
        "{n} of the {total} videos that {list} names are absent and left out, the first is {first} in line {line}"
    ))
}

/// Refuses such a list where none of its videos is there; `names` says how they are called.
pub(super) fn refuse_absent_of_names(list: &Path, total: usize, absent: &[(u64, String)], names: &str) -> Result<()> {
    let Some((line, first)) = absent.first() else { return Ok(()) };
    let what = format!(
        "none of the {total} videos it names is below its folder, the first is {first} in line {line}: {names}; of other \
         names write lines of `path label`"
    );
    Err(Error::data(list, what))
}

/// The last component of a path.
pub(super) fn last(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The last two components of a path.
pub(super) fn last_two(path: &Path) -> String {
    let mut parts: Vec<_> = path.components().rev().take(2).map(|c| c.as_os_str().to_string_lossy()).collect();
    parts.reverse();
    parts.join("/")
}
