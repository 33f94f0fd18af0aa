//! Lists in JSON, in the form of Something-Something v2: an array of objects with `id`, `template` and `label`.
//!
//! A video is called by its `id`. Its class is the template without brackets, as in the set's list of labels; the label tells what
//! `[something]` is, and stands for the class where there is no template. In the list of test videos there is neither.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::fields::{ALL_OR_NONE, Line, List, MAX_LIST_BYTES, Malformed, whole};
use crate::error::{Error, Result};
use crate::files;

/// How the files of such lists are called.
const NAMES: &str = "a list in JSON names files by their `id`, such as 78687.webm, below its folder or in 20bn-something-something-v2 beside it";

#[derive(Deserialize)]
struct Entry {
    id: Value,
    template: Option<String>,
    label: Option<String>,
}

/// Whether a list is in JSON, by its extension.
pub(super) fn is_json(list: &Path) -> bool {
    list.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"))
}

/// The path and the label of an entry.
fn read_entry(entry: Value) -> std::result::Result<(String, Option<String>), &'static str> {
    let Ok(Entry { id, template, label }) = serde_json::from_value(entry) else {
        return Err("is no object with an `id`, and a `template` or `label` of text");
    };
    let path = match id {
        Value::String(id) if !id.trim().is_empty() => id.trim().to_owned(),
        Value::Number(id) => id.to_string(),
        _ => return Err("has an `id` that is neither text nor a number"),
    };
    Ok((path, template.map(|t| t.replace(['[', ']'], "")).or(label).map(|l| l.trim().to_owned())))
}

/// Reads such a list, one entry at a time. What is no JSON ends it.
pub(super) fn read(list: &Path) -> Result<List> {
    let bytes = files::read_bounded(list, MAX_LIST_BYTES, "a list of videos")?;
    let bad = |line: u64, what: String| Error::content(list, format!("line {line}: {what}"));
    let (mut lines, mut malformed, mut at, mut line) = (Vec::<Line>::new(), Vec::new(), 0, 1);
    // Past blanks and the next of `wanted`; what it is.
    let skip = |at: &mut usize, wanted: &[u8]| {
        while let Some(byte) = bytes.get(*at) {
            let found = wanted.contains(byte).then_some(*byte);
            if found.is_none() && !byte.is_ascii_whitespace() {
                return None;
            }
            *at += 1;
            if found.is_some() {
                return found;
            }
        }
        None
    };
    if skip(&mut at, b"[").is_none() {
        let what = "this is no array of videos, as in something-something-v2-train.json".to_owned();
        return Err(bad(1, what));
    }
    let mut counted = 0;
    loop {
        let mut entries = serde_json::Deserializer::from_slice(&bytes[at..]).into_iter::<Value>();
        if lines.is_empty() && malformed.is_empty() && skip(&mut at.clone(), b"]").is_some() {
            break;
        }
        let blanks = bytes[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        line += bytes[counted..at + blanks].iter().filter(|byte| **byte == b'\n').count() as u64;
        counted = at + blanks;
        let Some(Ok(entry)) = entries.next() else {
            return Err(bad(line, "this is no JSON".to_owned()));
        };
        let shown = entry.to_string();
        match read_entry(entry) {
            Ok((_, label)) if lines.first().is_some_and(|first| first.label.is_some() != label.is_some()) => {
                let why = format!("has a label or none unlike the first: {ALL_OR_NONE}");
                malformed.push(Malformed::new(line, &shown, why));
            }
            Ok((path, label)) => lines.push(Line { number: line, path, label }),
            Err(why) => malformed.push(Malformed::new(line, &shown, why)),
        }
        at += entries.byte_offset();
        match skip(&mut at, b",]") {
            Some(b',') => {}
            Some(_) => break,
            None => return Err(bad(line, "the array does not go on or end after this object".to_owned())),
        }
    }
    whole(list, List { lines, malformed, warnings: Vec::new(), names: Some(NAMES) })
}

/// The classes in their order, from the list of labels beside the list: `{"Doing something": "0", …}`. `None` where it is absent.
pub(super) fn classes(list: &Path) -> Result<Option<Vec<String>>> {
    let files = ["something-something-v2-labels.json", "labels.json"].map(|name| list.with_file_name(name));
    let Some(file) = files.into_iter().find(|file| file.is_file()) else { return Ok(None) };
    let bytes = files::read_bounded(&file, MAX_LIST_BYTES, "a list of labels")?;
    let bad = |what: &str| Error::content(&file, what.to_owned());
    let Ok(Value::Object(labels)) = serde_json::from_slice(&bytes) else {
        return Err(bad("this is no object of labels and their numbers"));
    };
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let mut numbered: Vec<(Option<u64>, String)> = labels.iter().map(|(name, n)| (number(n), name.clone())).collect();
    numbered.sort();
    if !numbered.iter().enumerate().all(|(i, (n, _))| *n == Some(i as u64)) {
        return Err(bad("the numbers of its labels are not 0, 1, 2 and so on"));
    }
    Ok(Some(numbered.into_iter().map(|(_, name)| name).collect()))
}
