//! Lists of videos with a header: which column says what.

use std::path::Path;

use super::fields::{Line, List, Malformed, Separator, fields, whole};
use crate::error::{Error, Result};

/// Names that columns have in the headers of lists, the better ones first.
const PATHS: [&str; 13] = [
    "path",
    "video_path",
    "clip_path",
    "file_path",
    "filepath",
    "file",
    "filename",
    "file_name",
    "video",
    "video_name",
    "clip",
    "clip_name",
    "name",
];
const LABELS: [&str; 9] =
    ["label", "class", "class_name", "label_name", "category", "action", "target", "tag", "class_id"];

/// Columns that say what a video was cut from, as in Kinetics' lists.
const CUT: [&str; 3] = ["youtube_id", "time_start", "time_end"];

/// How the files of such lists are called.
const NAMES: &str =
    "a list with Kinetics' columns means files called youtube_id_start_end.mp4, the seconds with six digits";

/// Whether a header names a column of labels.
pub(super) fn has_labels(names: &[String]) -> bool {
    names.iter().any(|name| LABELS.contains(&name.as_str()))
}

/// Whether a first line is the header of a list of paths alone.
pub(super) fn is_path_column(line: &str) -> bool {
    PATHS.contains(&&*line.to_lowercase().replace([' ', '-'], "_"))
}

/// The names of the columns where a first line has them, and what separates them. Between blanks only `path label` is known.
pub(super) fn header(line: &str) -> Option<(Separator, Vec<String>)> {
    Separator::ALL.into_iter().find_map(|separator| {
        let fields = match separator {
            Separator::Blank => line.split_whitespace().map(str::to_owned).collect(),
            _ => fields(line, separator).ok()?,
        };
        let names: Vec<String> = fields.iter().map(|f| f.to_lowercase().replace([' ', '-'], "_")).collect();
        let is = |known: &[&str], name: &String| known.contains(&name.as_str());
        let found = match (separator, &names[..]) {
            (Separator::Blank, [path, label]) => is(&PATHS, path) && is(&LABELS, label),
            (Separator::Blank, _) => false,
            _ => {
                let cut = CUT.iter().all(|column| names.iter().any(|n| n == column));
                cut || (names.iter().any(|n| is(&PATHS, n)) && names.iter().any(|n| is(&LABELS, n)))
            }
        };
        found.then_some((separator, names))
    })
}

/// Reads lines below a header.
pub(super) fn by_columns(list: &Path, lines: &[(u64, String)], separator: Separator, names: &[String]) -> Result<List> {
    let best = |known: &[&str]| known.iter().find_map(|k| names.iter().position(|n| n == k));
    let cut = CUT.map(|column| names.iter().position(|n| n == column));
    let (path_at, cut) = match (best(&PATHS), cut) {
        (Some(at), _) => (at, None),
        (None, [Some(id), Some(start), Some(end)]) => (id, Some([start, end])),
        _ => return Err(Error::data(list, "the header names no column of paths")),
    };
    let label_at = best(&LABELS);
    let one = |line: &str| -> std::result::Result<(String, Option<String>), String> {
        let mut fields = fields(line, separator)?;
        while fields.len() > names.len() && fields.last().is_some_and(String::is_empty) {
            fields.pop();
        }
        if fields.len() > names.len() {
            let (n, m) = (fields.len(), names.len());
            return Err(format!("has {n} fields, the header {m}: quote what holds {}", separator.name()));
        }
        let field = |at: usize| fields.get(at).map(String::as_str).unwrap_or_default();
        let (path, label) = (field(path_at).trim(), label_at.map(|at| field(at).trim()));
        if path.is_empty() || label.is_some_and(str::is_empty) {
            let of_label = label_at.map(|at| format!(" or no `{}`", names[at])).unwrap_or_default();
            return Err(format!("has no `{}`{of_label}", names[path_at]));
        }
        let (path, label) = (path.to_owned(), label.map(str::to_owned));
        let path = match cut {
            None => path,
            Some([start, end]) => match (seconds(field(start)), seconds(field(end))) {
                (Some(start), Some(end)) => format!("{path}_{start:06}_{end:06}.mp4"),
                _ => return Err(format!("has no whole seconds as `{}` and `{}`", names[start], names[end])),
            },
        };
        Ok((path, label))
    };
    let (mut out, mut malformed) = (Vec::with_capacity(lines.len()), Vec::new());
    for (number, line) in lines {
        match one(line) {
            Ok((path, label)) => out.push(Line { number: *number, path, label }),
            Err(why) => malformed.push(Malformed::new(*number, line, why)),
        }
    }
    let unused: Vec<&str> = (0..names.len())
        .filter(|&i| {
            i != path_at && Some(i) != label_at && !cut.is_some_and(|at| at.contains(&i)) && !names[i].is_empty()
        })
        .map(|i| names[i].as_str())
        .collect();
    let mut warnings = Vec::new();
    if !unused.is_empty() {
        let used = match label_at {
            Some(at) => format!("`{}` and `{}` are", names[path_at], names[at]),
            None => format!("`{}` is", names[path_at]),
        };
        warnings.push(format!("{}: {used} used, not {}", list.display(), unused.join(", ")));
    }
    whole(list, List { lines: out, malformed, warnings, names: cut.map(|_| NAMES) })
}

/// Whole seconds: `20`, or `20.0` as some tables have them.
fn seconds(text: &str) -> Option<u64> {
    text.split_once('.')
        .map_or(Some(text), |(whole, rest)| rest.bytes().all(|b| b == b'0').then_some(whole))?
        .parse()
        .ok()
}
