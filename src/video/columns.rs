//! Lists of videos with a header: which column says what.

use std::path::Path;

use super::fields::{Line, List, Reading, Separator, fields, whole};
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
                (cut || names.iter().any(|n| is(&PATHS, n))) && names.iter().any(|n| is(&LABELS, n))
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
    let Some(label_at) = best(&LABELS) else {
        return Err(Error::data(list, "the header names no column of labels"));
    };
    let mut out = Vec::with_capacity(lines.len());
    for (number, line) in lines {
        let bad = |why: String| Error::format(list, *number, format!("line {number}, `{line}`, {why}"));
        let mut fields = fields(line, separator).map_err(bad)?;
        while fields.len() > names.len() && fields.last().is_some_and(String::is_empty) {
            fields.pop();
        }
        if fields.len() > names.len() {
            let (n, m) = (fields.len(), names.len());
            return Err(bad(format!("has {n} fields, the header {m}: quote what holds {}", separator.name())));
        }
        let field = |at: usize| fields.get(at).map(String::as_str).unwrap_or_default();
        let Some(Reading { path, label }) = Reading::new(field(path_at), field(label_at)) else {
            return Err(bad(format!("has no `{}` or no `{}`", names[path_at], names[label_at])));
        };
        let path = match cut {
            None => path,
            Some([start, end]) => match (seconds(field(start)), seconds(field(end))) {
                (Some(start), Some(end)) => format!("{path}_{start:06}_{end:06}.mp4"),
                _ => return Err(bad(format!("has no whole seconds as `{}` and `{}`", names[start], names[end]))),
            },
        };
        out.push(Line { number: *number, path, label });
    }
    let unused: Vec<&str> = (0..names.len())
        .filter(|&i| i != path_at && i != label_at && !cut.is_some_and(|at| at.contains(&i)) && !names[i].is_empty())
        .map(|i| names[i].as_str())
        .collect();
    let mut warnings = Vec::new();
    if !unused.is_empty() {
        let (list, unused) = (list.display(), unused.join(", "));
        warnings.push(format!("{list}: `{}` and `{}` are used, not {unused}", names[path_at], names[label_at]));
    }
    whole(list, List { lines: out, warnings, cut: cut.is_some() })
}

/// Whole seconds: `20`, or `20.0` as some tables have them.
fn seconds(text: &str) -> Option<u64> {
    text.split_once('.')
        .map_or(Some(text), |(whole, rest)| rest.bytes().all(|b| b == b'0').then_some(whole))?
        .parse()
        .ok()
}

/// Refuses a first line that looks like a header which names videos, and no label.
pub(super) fn refuse_nameless(list: &Path, first: &str) -> Result<()> {
    let names: Vec<String> = first.split(',').map(|n| n.trim().trim_matches('"').to_lowercase()).collect();
    if !CUT.iter().all(|column| names.iter().any(|n| n == column)) {
        return Ok(());
    }
    let what = "its header is that of Kinetics without `label`, and a list must say the class of each video: take one with the \
                columns label, youtube_id, time_start, time_end, or write lines of `path label`";
    Err(Error::data(list, what))
}
