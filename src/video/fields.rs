//! The fields of a line of a list, and what a list is read into.

use std::path::Path;

use crate::error::{Error, Result};

/// Maximum length of a list: a guard against passing a video as a list.
pub(super) const MAX_LIST_BYTES: u64 = 256 << 20;

/// Characters of a line that are shown.
const MOST_SHOWN: usize = 200;

/// What is right where some videos of a list have labels.
pub(super) const ALL_OR_NONE: &str = "give each video a label, or none";

/// One line of a list.
pub(super) struct Line {
    pub number: u64,
    pub path: String,
    /// `None` in a list of paths alone.
    pub label: Option<String>,
}

/// A line that cannot be read.
pub(super) struct Malformed {
    pub number: u64,
    /// The line, or as much of it as a message holds.
    pub text: String,
    /// Why, in words that follow the text.
    pub why: String,
}

impl Malformed {
    pub(super) fn new(number: u64, line: &str, why: impl Into<String>) -> Malformed {
        let mut text: String = line.chars().take(MOST_SHOWN).collect();
        if text.len() < line.len() {
            text.push('…');
        }
        Malformed { number, text, why: why.into() }
    }

    pub(super) fn error(&self, list: &Path) -> Error {
        let Malformed { number, text, why } = self;
        Error::content(list, format!("line {number}, `{text}`, {why}"))
    }
}

/// A list of `path label` lines, or of paths alone, and what is unusual about it.
pub(super) struct List {
    pub lines: Vec<Line>,
    /// Lines that could not be read, in their order.
    pub malformed: Vec<Malformed>,
    pub warnings: Vec<String>,
    /// For paths that are names of files, which may lie anywhere below the list's folder: how they are called.
    pub names: Option<&'static str>,
}

/// What separates the fields of a line.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Separator {
    Tab,
    Comma,
    Semicolon,
    Blank,
}

impl Separator {
    pub(super) const ALL: [Separator; 4] = [Separator::Tab, Separator::Comma, Separator::Semicolon, Separator::Blank];

    pub(super) fn byte(self) -> u8 {
        match self {
            Separator::Tab => b'\t',
            Separator::Comma => b',',
            Separator::Semicolon => b';',
            Separator::Blank => b' ',
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Separator::Tab => "a tab",
            Separator::Comma => "a comma",
            Separator::Semicolon => "a semicolon",
            Separator::Blank => "a blank",
        }
    }
}

/// One interpretation of a line.
#[derive(Clone, PartialEq)]
pub(super) struct Reading {
    pub path: String,
    pub label: String,
}

impl Reading {
    pub(super) fn new(path: &str, label: &str) -> Option<Reading> {
        let (path, label) = (path.trim(), label.trim());
        (!path.is_empty() && !label.is_empty()).then(|| Reading { path: path.into(), label: label.into() })
    }
}

/// Refuses a list of no lines.
pub(super) fn whole(path: &Path, list: List) -> Result<List> {
    if list.lines.is_empty() && list.malformed.is_empty() {
        Err(Error::data(path, "the list names no video"))
    } else {
        Ok(list)
    }
}

/// The fields of a line by the rules of CSV, without the blanks around them.
pub(super) fn fields(line: &str, separator: Separator) -> std::result::Result<Vec<String>, String> {
    let at = char::from(separator.byte());
    if !line.contains('"') {
        // The same without creating a reader per line, since there may be hundreds of thousands.
        return Ok(line.split(at).map(|field| field.trim().to_owned()).collect());
    }
    // A second record reveals an unterminated quote, which would contain that record too.
    let text = format!("{}\n.\n", quotes_first(line, at));
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .delimiter(separator.byte())
        .buffer_capacity(text.len())
        .from_reader(text.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().filter_map(|r| r.ok()).collect();
    match &records[..] {
        [record, _] => Ok(record.iter().map(str::to_owned).collect()),
        _ => Err("has a quote that does not end".to_owned()),
    }
}

/// `a, "b, c"` as `a,"b, c"`: in CSV, a quote after a blank does not start a quoted field.
fn quotes_first(line: &str, separator: char) -> String {
    let (mut out, mut blanks) = (String::with_capacity(line.len()), String::new());
    let (mut first, mut quoted, mut inside) = (true, false, false);
    for c in line.chars() {
        if first && c != separator && c.is_whitespace() {
            blanks.push(c);
            continue;
        }
        quoted = if first { c == '"' } else { quoted };
        if !quoted {
            out.push_str(&blanks);
        }
        blanks.clear();
        inside ^= quoted && c == '"';
        first = c == separator && !inside;
        out.push(c);
    }
    out
}
