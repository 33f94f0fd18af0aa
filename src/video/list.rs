//! Lists of videos: lines of `path label`, in the formats in common use, or of paths alone.
//!
//! - Fields are separated by commas, tabs, semicolons or blanks, by the same in the whole list. The first three follow the rules
//!   of CSV: a field that holds a separator is quoted, and a quote inside of quotes is doubled.
//! - `path frames label`, with a number in the middle, is read too. The number is not used.
//! - A first line of names (`path,label`, in any order, beside others) says which column is which.
//! - The header of Kinetics (`label,youtube_id,time_start,time_end,split`) names videos by what they were cut from: a line means
//!   `<youtube_id>_<start>_<end>.mp4`, the seconds with six digits, wherever it is below the list's folder.
//! - JSON in the form of Something-Something v2 names videos by their `id`, wherever they are below the list's folder or in
//!   `20bn-something-something-v2` beside it.
//! - Between blanks, a path ends with the extension of a video, and the label is all of the rest.
//! - A line that is a path as a whole, to something that is there or with the extension of a video, has no label. It is quoted
//!   where it holds a separator. All lines have a label, or none has.
//! - A comment is a line that begins with `# `. Other lines may begin with `#`: some videos do.
//!
//! A line that cannot be read leaves the others as they are: [`read`] returns both.
//!
//! If a line can be read in two ways, the one whose file exists is used. If that does not decide, the list is refused
//! with both readings.

use std::path::Path;

use super::columns::{by_columns, has_labels, header, is_path_column};
pub(super) use super::fields::Line;
pub(super) use super::fields::Malformed;
use super::fields::{ALL_OR_NONE, List, MAX_LIST_BYTES, Reading, Separator, fields, whole};
use super::json_list;
use crate::error::{Error, Result};
use crate::files;

const VIDEO_EXTENSIONS: [&str; 24] = [
    "avi", "mp4", "mkv", "webm", "mov", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv", "ts", "mts", "gif", "m2ts",
    "m2v", "vob", "asf", "divx", "f4v", "3g2", "mxf", "mjpeg",
];
const FRAME_EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// So many lines at the beginning of a list say whether it has labels.
const FIRST: usize = 64;

/// Extensions of other files that are given for a list by mistake, and what they are.
const NO_LISTS: [(&[&str], &str); 4] = [
    (&FRAME_EXTENSIONS, "a picture"),
    (&["tbv", "tbf", "tbm"], "a file of the cache"),
    (&["safetensors", "pt", "pth"], "a file of weights"),
    (&["zip", "tar", "gz", "tgz", "bz2", "xz", "zst", "rar", "7z"], "an archive, which must be unpacked first"),
];

/// Refuses a folder, and what is no list by its name, such as a video; `wanted` says what is wanted.
pub(super) fn refuse_no_list(path: &Path, wanted: &str) -> Result<()> {
    let videos: (&[&str], &str) = (&VIDEO_EXTENSIONS, "a video");
    let is = std::iter::once(videos).chain(NO_LISTS).find(|(extensions, _)| has_extension(path, extensions));
    let is = if path.is_dir() { Some("a folder") } else { is.map(|(_, is)| is) };
    is.map_or(Ok(()), |is| Err(Error::data(path, format!("this is {is}: {wanted}"))))
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.iter().any(|x| x.eq_ignore_ascii_case(e)))
}

/// Whether a file is a frame by its name.
pub(super) fn is_frame(path: &Path) -> bool {
    has_extension(path, &FRAME_EXTENSIONS)
}

/// Whether a file is a video by its name.
pub(super) fn is_video(path: &Path) -> bool {
    has_extension(path, &VIDEO_EXTENSIONS)
}

/// Whether a list has no labels, as those of the test videos of Kinetics, by its header, and of Something-Something.
pub(super) fn lacks_labels(list: &Path) -> bool {
    if json_list::is_json(list) {
        return json_list::read(list).is_ok_and(|list| list.lines.iter().all(|line| line.label.is_none()));
    }
    let lines = lines_of(list).unwrap_or_default();
    lines.first().and_then(|(_, first)| header(first)).is_some_and(|(_, names)| !has_labels(&names))
}

/// The lines of a list with their numbers from 1, without empty lines and comments.
///
/// # Errors
/// Also the first that is no text.
pub(super) fn lines_of(list: &Path) -> Result<Vec<(u64, String)>> {
    let (lines, malformed) = lines(list)?;
    malformed.first().map_or(Ok(lines), |first| Err(first.error(list)))
}

/// Lines with their numbers, and those that are no text.
pub(super) type Lines = (Vec<(u64, String)>, Vec<Malformed>);

/// The lines of a list with their numbers from 1, without empty lines and comments, and those that are no text.
pub(super) fn lines(list: &Path) -> Result<Lines> {
    let bytes = files::read_bounded(list, MAX_LIST_BYTES, "a list of videos")?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::content(list, "this list is UTF-16 text, and must be UTF-8: save it as UTF-8"));
    }
    let (mut lines, mut malformed) = (Vec::new(), Vec::new());
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = std::str::from_utf8(line).map_err(|e| {
            let why = format!("is not UTF-8 text, for its byte {:#04x}: save the list as UTF-8", line[e.valid_up_to()]);
            Malformed::new(number, &line.trim_ascii().escape_ascii().to_string(), why)
        });
        match line.map(str::trim) {
            Ok(line) if line.is_empty() || line == "#" || line.starts_with("# ") => {}
            Ok(line) => lines.push((number, line.to_owned())),
            Err(bad) => malformed.push(bad),
        }
    }
    Ok((lines, malformed))
}

impl Reading {
    fn is_video(&self) -> bool {
        is_video(Path::new(&self.path))
    }

    /// Without blanks: one word each, as in most lists.
    fn is_plain(&self) -> bool {
        !self.path.contains(char::is_whitespace) && !self.label.contains(char::is_whitespace)
    }
}

/// Interpretation of a line with one separator.
enum Meaning {
    One(Reading),
    /// Two interpretations, and nothing decides between them.
    Two(Reading, Reading),
    /// Why there is no interpretation.
    Nothing(String),
}

/// Reads a list of `path label` lines, and notes those that are none. `exists` says whether a path of the list leads to something.
pub(super) fn read(list: &Path, exists: &dyn Fn(&str) -> bool) -> Result<List> {
    if json_list::is_json(list) {
        return json_list::read(list);
    }
    let (all, no_text) = lines(list)?;
    let mut list = read_lines(list, &all, exists)?;
    list.malformed.extend(no_text);
    list.malformed.sort_by_key(|bad| bad.number);
    Ok(list)
}

fn read_lines(list: &Path, all: &[(u64, String)], exists: &dyn Fn(&str) -> bool) -> Result<List> {
    let mut lines = all;
    if let Some((_, first)) = lines.first() {
        match header(first) {
            Some((Separator::Blank, _)) => lines = &lines[1..],
            Some((separator, names)) => return by_columns(list, &lines[1..], separator, &names),
            None if is_path_column(first) && !exists(first) => lines = &lines[1..],
            None => {}
        }
    }
    let bare = are_paths_alone(lines, exists);
    let separator = if bare { Separator::Blank } else { separator_of(list, lines, exists)? };
    let one = |line: &str| -> std::result::Result<(String, Option<String>), String> {
        match alone(line, exists) {
            Some(path) if bare => return Ok((path, None)),
            None if bare => return Err(format!("is no path to a video, and other lines are: {ALL_OR_NONE}")),
            _ => {}
        }
        match meaning(line, separator, exists) {
            Meaning::One(Reading { path, label }) => Ok((path, Some(label))),
            Meaning::Two(a, b) => Err(two_meanings(&a, &b)),
            Meaning::Nothing(_) if alone(line, exists).is_some() => {
                Err(format!("is not `path label`, and other lines are: {ALL_OR_NONE}"))
            }
            Meaning::Nothing(why) => Err(why),
        }
    };
    let (mut out, mut malformed) = (Vec::with_capacity(lines.len()), Vec::new());
    for (number, line) in lines {
        match one(line) {
            Ok((path, label)) => out.push(Line { number: *number, path, label }),
            Err(why) => malformed.push(Malformed::new(*number, line, why)),
        }
    }
    whole(list, List { lines: out, malformed, warnings: Vec::new(), names: None })
}

/// Whether the lines of a list are paths without labels: more of the first ones than have labels, or else the very first.
fn are_paths_alone(lines: &[(u64, String)], exists: &dyn Fn(&str) -> bool) -> bool {
    let (mut bare, mut labelled, mut first) = (0, 0, None);
    for (_, line) in &lines[..lines.len().min(FIRST)] {
        let is_bare = alone(line, exists).is_some();
        let has_label = |s: Separator| readings(line, s).map_or(true, |all| !all.is_empty());
        bare += usize::from(is_bare);
        labelled += usize::from(!is_bare && Separator::ALL.into_iter().any(has_label));
        first.get_or_insert(is_bare);
    }
    bare > labelled || (bare == labelled && first == Some(true))
}

/// The path in a line that is one as a whole: to something that is there, unless the line can also be read as such a path and a
/// label, or by the extension of a video, with separators between quotes only.
fn alone(line: &str, exists: &dyn Fn(&str) -> bool) -> Option<String> {
    let inside = line.strip_prefix('"').and_then(|l| l.strip_suffix('"'));
    let quoted = inside.map(|l| l.replace("\"\"", "\0")).filter(|l| !l.contains('"')).map(|l| l.replace('\0', "\""));
    let one = quoted.is_some() || !line.contains([',', ';', '\t', '"']);
    let path = quoted.unwrap_or_else(|| line.to_owned());
    let with_label = |s: Separator| readings(line, s).is_ok_and(|all| all.iter().any(|r| exists(&r.path)));
    let is = (one && is_video(Path::new(&path))) || (exists(&path) && !Separator::ALL.into_iter().any(with_label));
    is.then_some(path)
}

fn two_meanings(a: &Reading, b: &Reading) -> String {
    format!(
        "can mean the video `{}` with the label `{}`, or `{}` with `{}`: put quotes around them",
        a.path, a.label, b.path, b.label
    )
}

/// The separator of a list: the one with which most paths exist, then with which most are videos by their names. The
/// file system is queried only if several separators are possible.
fn separator_of(list: &Path, lines: &[(u64, String)], exists: &dyn Fn(&str) -> bool) -> Result<Separator> {
    let readable =
        |s: Separator| lines.iter().filter(|(_, line)| readings(line, s).map_or(true, |r| !r.is_empty())).count();
    let mut possible: Vec<(Separator, usize)> =
        Separator::ALL.into_iter().map(|s| (s, readable(s))).filter(|(_, n)| *n > 0).collect();
    if possible.len() < 2 {
        return Ok(possible.first().map_or(Separator::Blank, |(s, _)| *s));
    }
    let count = |s: Separator, is: &dyn Fn(&Reading) -> bool| {
        let one = |line: &str| matches!(meaning(line, s, exists), Meaning::One(reading) if is(&reading));
        lines.iter().filter(|(_, line)| one(line)).count()
    };
    let criteria: [&dyn Fn(&Reading) -> bool; 2] = [&|r| exists(&r.path), &|r| r.is_video()];
    for is in criteria {
        let counts: Vec<usize> = possible.iter().map(|(s, _)| count(*s, is)).collect();
        let most = counts.iter().copied().max().unwrap_or(0);
        let mut counts = counts.into_iter();
        possible.retain(|_| counts.next() == Some(most));
    }
    // Then the one with which most lines can be parsed; among equals the first, if it gives the same result as the
    // next.
    let most = possible.iter().map(|(_, n)| *n).max().unwrap_or(0);
    possible.retain(|(_, n)| *n == most);
    if let [(a, n), (b, _), ..] = possible[..]
        && n == lines.len()
    {
        for (number, line) in lines {
            if let (Meaning::One(x), Meaning::One(y)) = (meaning(line, a, exists), meaning(line, b, exists))
                && x != y
            {
                return Err(Malformed::new(*number, line, two_meanings(&x, &y)).error(list));
            }
        }
    }
    Ok(possible[0].0)
}

/// The interpretation whose file exists; if that does not decide, the one that is a video by its name; then the one of
/// two words.
fn meaning(line: &str, separator: Separator, exists: &dyn Fn(&str) -> bool) -> Meaning {
    let mut left = match readings(line, separator) {
        Ok(readings) => readings,
        Err(meaning) => return meaning,
    };
    let criteria: [&dyn Fn(&Reading) -> bool; 3] = [&|r| exists(&r.path), &|r| r.is_video(), &|r| r.is_plain()];
    for is in criteria {
        if left.len() < 2 {
            break;
        }
        if left.iter().any(is) {
            left.retain(is);
        }
    }
    match &left[..] {
        [] => Meaning::Nothing("is not `path label`".into()),
        [one] => Meaning::One(one.clone()),
        [a, b, ..] => Meaning::Two(a.clone(), b.clone()),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// All interpretations of a line with a separator, or the result if there is no choice.
fn readings(line: &str, separator: Separator) -> std::result::Result<Vec<Reading>, Meaning> {
    if separator == Separator::Blank {
        return Ok(between_blanks(line));
    }
    if !line.contains(char::from(separator.byte())) {
        return Ok(Vec::new());
    }
    let mut fields = fields(line, separator).map_err(Meaning::Nothing)?;
    // Tables may end in empty columns, and tabs are doubled for alignment.
    while fields.last().is_some_and(String::is_empty) {
        fields.pop();
    }
    if separator == Separator::Tab {
        fields.retain(|f| !f.is_empty());
    }
    match &fields[..] {
        [] | [_] => Ok(Vec::new()),
        [path, label] => Ok(Reading::new(path, label).into_iter().collect()),
        [path, frames, label] if is_number(frames) => Ok(Reading::new(path, label).into_iter().collect()),
        _ => {
            // Unquoted: it is undefined whether the name or the label contains the separator.
            let at = char::from(separator.byte());
            let cut = |pair: Option<(&str, &str)>| pair.and_then(|(path, label)| Reading::new(path, label));
            Err(match (cut(line.rsplit_once(at)), cut(line.split_once(at))) {
                (Some(a), Some(b)) if !line.contains('"') => Meaning::Two(a, b),
                _ => Meaning::Nothing(format!("has {} fields: quote what holds {}", fields.len(), separator.name())),
            })
        }
    }
}

/// All interpretations of a line of words between blanks.
fn between_blanks(line: &str) -> Vec<Reading> {
    if line.starts_with('"') {
        let fields = fields(line, Separator::Blank).unwrap_or_default();
        let mut fields = fields.into_iter().filter(|f| !f.is_empty());
        let (path, rest) = (fields.next().unwrap_or_default(), fields.collect::<Vec<_>>().join(" "));
        return label_of(&rest).and_then(|label| Reading::new(&path, label)).into_iter().collect();
    }
    let after: Vec<usize> = line.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(i, _)| i).collect();
    let cuts = after.into_iter().filter(|&i| !line[..i].ends_with(char::is_whitespace));
    let cuts: Vec<(&str, &str)> = cuts.map(|i| (&line[..i], line[i..].trim())).collect();
    let read = |(path, rest): &(&str, &str)| label_of(rest).and_then(|label| Reading::new(path, label));
    let of_videos: Vec<Reading> = cuts.iter().filter(|(path, _)| is_video(Path::new(path))).filter_map(read).collect();
    if !of_videos.is_empty() {
        return of_videos;
    }
    let mut found: Vec<Reading> = Vec::new();
    // Folders of frames: the path is the first word, or all but the label.
    for cut in cuts.first().into_iter().chain(cuts.iter().rev().take(2)) {
        let one_word = |label: &str| !label.contains(char::is_whitespace);
        let first = std::ptr::eq(cut, &cuts[0]);
        if let Some(reading) = read(cut)
            && (first || one_word(&reading.label))
            && !found.contains(&reading)
        {
            found.push(reading);
        }
    }
    found
}

/// The label in the rest of a line: `label`, `"label"`, or `frames label`.
fn label_of(rest: &str) -> Option<&str> {
    let rest = rest.trim();
    let label = match rest.split_once(char::is_whitespace) {
        Some((frames, label)) if is_number(frames) && !label.trim().contains(char::is_whitespace) => label.trim(),
        _ => rest,
    };
    let label = label.strip_prefix('"').and_then(|l| l.strip_suffix('"')).unwrap_or(label);
    // A label does not name a video.
    (!is_video(Path::new(label))).then_some(label)
}
