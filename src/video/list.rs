//! Reading the layouts a data set may have: lists and trees of folders.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::dataset::{Found, Labelled, Source};
use crate::error::{Error, Result};

const VIDEO_EXTENSIONS: [&str; 15] =
    ["avi", "mp4", "mkv", "webm", "mov", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv", "ts", "mts", "gif"];
const FRAME_EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];
/// Folders nest no deeper than this (guards against loops of symbolic links).
const MAX_DEPTH: usize = 8;
/// Lists are no longer than this: a guard against naming a video as a list.
const MAX_LIST_BYTES: u64 = 256 << 20;

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.iter().any(|x| x.eq_ignore_ascii_case(e)))
}

/// Whether a file is a frame by its name.
pub(super) fn is_frame(path: &Path) -> bool {
    has_extension(path, &FRAME_EXTENSIONS)
}

/// One line of a list.
struct Line {
    number: u64,
    path: String,
    label: Option<String>,
}

/// The lines of a list with their numbers from 1, without empty ones and `#` comments.
fn read_lines(list: &Path) -> Result<Vec<(u64, String)>> {
    let size = std::fs::metadata(list).map_err(Error::io("read", list))?.len();
    if size > MAX_LIST_BYTES {
        return Err(Error::format(list, 0, format!("{size} bytes are too many for a list of videos")));
    }
    let bytes = std::fs::read(list).map_err(Error::io("read", list))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::format(list, e.utf8_error().valid_up_to() as u64, "a list must be UTF-8 text"))?;
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    Ok(lines
        .map(|(i, line)| (i as u64 + 1, line.trim().to_owned()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect())
}

/// Splits `path label` at the last comma, tab or blank (in that order of preference), so that paths may hold blanks.
fn split_label(line: &str) -> (&str, Option<&str>) {
    for separator in [',', '\t', ' '] {
        if let Some((path, label)) = line.rsplit_once(separator) {
            let unquoted = path.trim().trim_matches('"');
            return (unquoted, Some(label.trim().trim_matches('"')).filter(|l| !l.is_empty()));
        }
    }
    (line, None)
}

fn read_list(list: &Path, label_required: bool) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (number, line) in read_lines(list)? {
        let (path, label) = match split_label(&line) {
            // Without a label, a blank belongs to the path.
            (_, Some(label)) if !label_required && is_media_name(label) => (line.as_str(), None),
            pair => pair,
        };
        if lines.is_empty() && path.eq_ignore_ascii_case("path") {
            continue; // the header of a CSV file
        }
        if path.is_empty() || (label_required && label.is_none()) {
            return Err(Error::format(list, number, format!("line {number}, `{line}`, is not `path label`")));
        }
        lines.push(Line { number, path: path.to_owned(), label: label.map(str::to_owned) });
    }
    if lines.is_empty() {
        return Err(Error::data(list, "the list names no video"));
    }
    Ok(lines)
}

fn is_media_name(name: &str) -> bool {
    has_extension(Path::new(name), &VIDEO_EXTENSIONS)
}

/// One error for all absent files of a list: the first and how many.
fn refuse_absent(list: &Path, total: usize, absent: &[(u64, String)]) -> Result<()> {
    match absent.first() {
        None => Ok(()),
        Some((line, first)) => Err(Error::data(
            list,
            format!("{} of the {total} videos it names are absent, the first is {first} in line {line}", absent.len()),
        )),
    }
}

/// The video a path leads to: a file, a folder of frames, or a folder of frames named like the file without its
/// extension.
fn source_at(path: &Path) -> Option<Source> {
    if path.is_file() {
        return Some(Source::File(path.to_owned()));
    }
    [path.to_owned(), path.with_extension("")].into_iter().find(|p| p.is_dir()).map(Source::Folder)
}

/// `train.csv` and `test.csv`, or the same with `.txt`.
pub(super) fn named_pair(dir: &Path) -> Option<(PathBuf, PathBuf)> {
    ["csv", "txt"]
        .map(|e| (dir.join(format!("train.{e}")), dir.join(format!("test.{e}"))))
        .into_iter()
        .find(|(train, test)| train.is_file() && test.is_file())
}

/// `path label` lists; paths are relative to the list's folder. Labels are numbers or names.
pub(super) fn plain(train: &Path, test: Option<&Path>) -> Result<Found> {
    let read = |list: &Path| -> Result<Vec<Labelled>> {
        let lines = read_list(list, true)?;
        let (total, base) = (lines.len(), list.parent().unwrap_or(Path::new("")));
        let (mut videos, mut absent) = (Vec::with_capacity(total), Vec::new());
        for line in lines {
            match source_at(&base.join(&line.path)) {
                Some(source) => {
                    videos.push(Labelled { source, class: line.label.unwrap_or_default(), name: line.path });
                }
                None => absent.push((line.number, line.path)),
            }
        }
        refuse_absent(list, total, &absent)?;
        Ok(videos)
    };
    let layout = match test {
        Some(test) => format!("lists {} and {}", train.display(), test.display()),
        None => format!("list {}", train.display()),
    };
    Ok(Found { classes: None, train: read(train)?, test: test.map(read).transpose()?, layout })
}

/// UCF101's three lists, the videos anywhere below `dir`, found by the last two parts of their path.
pub(super) fn ucf101(dir: &Path) -> Result<Found> {
    let classes = read_classes(&dir.join("classInd.txt"))?;
    let mut places: HashMap<String, Vec<Source>> = HashMap::new();
    let (mut files, mut frames) = (Vec::new(), Vec::new());
    walk(dir, 0, &mut files, &mut frames)?;
    for source in files.into_iter().map(Source::File).chain(frames.into_iter().map(Source::Folder)) {
        let path = match &source {
            Source::File(p) | Source::Folder(p) => p,
            Source::Procedural(_) => continue,
        };
        places.entry(last_two(path)).or_default().push(source);
    }
    let read = |list: &Path| -> Result<Vec<Labelled>> {
        let lines = read_list(list, false)?;
        let total = lines.len();
        let (mut videos, mut absent) = (Vec::with_capacity(total), Vec::new());
        for line in lines {
            let name = last_two(Path::new(&line.path));
            let class = ucf101_class(list, &line, &name, classes.as_deref())?;
            let stem = last_two(&Path::new(&line.path).with_extension(""));
            match places.get(&name).or_else(|| places.get(&stem)).map(Vec::as_slice) {
                Some([source]) => videos.push(Labelled { source: source.clone(), class, name }),
                Some(several) => {
                    let what = format!("{name}, in line {} of the list, is there {} times", line.number, several.len());
                    return Err(Error::data(dir, what));
                }
                None => absent.push((line.number, line.path)),
            }
        }
        refuse_absent(list, total, &absent)?;
        Ok(videos)
    };
    Ok(Found {
        train: read(&dir.join("trainlist01.txt"))?,
        test: Some(read(&dir.join("testlist01.txt"))?),
        classes,
        layout: format!("UCF101 lists trainlist01.txt and testlist01.txt of {}", dir.display()),
    })
}

/// The class of a line: by its number where there is one, else by its folder.
fn ucf101_class(list: &Path, line: &Line, name: &str, classes: Option<&[String]>) -> Result<String> {
    let folder = name.split_once('/').map(|(folder, _)| folder);
    let bad = |what: String| Error::format(list, line.number, format!("line {}: {what}", line.number));
    let by_number = match (&line.label, classes) {
        (Some(label), Some(classes)) => {
            let number = label.parse::<usize>().ok().and_then(|n| classes.get(n.wrapping_sub(1)));
            Some(number.ok_or_else(|| bad(format!("class {label} is not one of 1 to {}", classes.len())))?)
        }
        _ => None,
    };
    match (by_number, folder) {
        (Some(class), Some(folder)) if class != folder && classes.is_some_and(|c| c.iter().any(|x| x == folder)) => {
            Err(bad(format!("the number says class {class}, the folder says {folder}")))
        }
        (Some(class), _) => Ok(class.clone()),
        (None, Some(folder)) => Ok(folder.to_owned()),
        (None, None) => Err(bad(format!("`{}` has neither a class number nor a class folder", line.path))),
    }
}

/// `classInd.txt`: `1 name` for each class, numbers from 1 without gaps. `None` when there is no such file.
fn read_classes(path: &Path) -> Result<Option<Vec<String>>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut classes = Vec::new();
    for (number, line) in read_lines(path)? {
        let parsed =
            line.split_once(char::is_whitespace).and_then(|(n, name)| Some((n.parse::<usize>().ok()?, name.trim())));
        match parsed {
            Some((n, name)) if n == classes.len() + 1 && !name.is_empty() => classes.push(name.to_owned()),
            _ => {
                let what = format!("line {number}, `{line}`, should be `{} name`", classes.len() + 1);
                return Err(Error::format(path, number, what));
            }
        }
    }
    Ok(Some(classes))
}

fn last_two(path: &Path) -> String {
    let mut parts: Vec<_> = path.components().rev().take(2).map(|c| c.as_os_str().to_string_lossy()).collect();
    parts.reverse();
    parts.join("/")
}

/// A tree of class folders, perhaps below `train` and `test` (or `val`).
pub(super) fn folders(dir: &Path) -> Result<Found> {
    let held = ["test", "val", "validation"].map(|n| dir.join(n)).into_iter().find(|p| p.is_dir());
    if let (Some(test), true) = (held, dir.join("train").is_dir()) {
        let layout = format!("class folders in {} and {}", dir.join("train").display(), test.display());
        let (train, test) = (class_folders(&dir.join("train"))?, class_folders(&test)?);
        return Ok(Found { classes: None, train, test: Some(test), layout });
    }
    let layout = format!("class folders in {}", dir.display());
    Ok(Found { classes: None, train: class_folders(dir)?, test: None, layout })
}

fn class_folders(dir: &Path) -> Result<Vec<Labelled>> {
    let (mut files, mut frames) = (Vec::new(), Vec::new());
    walk(dir, 0, &mut files, &mut frames)?;
    let mut videos = BTreeMap::new();
    for source in files.into_iter().map(Source::File).chain(frames.into_iter().map(Source::Folder)) {
        let path = match &source {
            Source::File(p) | Source::Folder(p) => p.clone(),
            Source::Procedural(_) => continue,
        };
        let parent = path.parent().filter(|p| *p != dir && path != dir).and_then(Path::file_name);
        let Some(class) = parent.map(|p| p.to_string_lossy().into_owned()) else {
            let what = format!("{} lies in no class folder; give a `path label` list instead", path.display());
            return Err(Error::data(dir, what));
        };
        videos.insert(path.clone(), Labelled { source, class, name: last_two(&path) });
    }
    if videos.is_empty() {
        let what = "there is no video in it: expected UCF101 lists, train.csv and test.csv, or folders named after \
                    classes with video files or folders of frames";
        return Err(Error::data(dir, what));
    }
    Ok(videos.into_values().collect())
}

/// All video files and all folders of frames below `dir`.
fn walk(dir: &Path, depth: usize, files: &mut Vec<PathBuf>, frames: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::data(dir, format!("folders nest deeper than {MAX_DEPTH}")));
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(Error::io("read", dir))?);
        // Frames come by the million: only links are followed to see what they are.
        let is_dir = kind.is_dir() || (kind.is_symlink() && path.is_dir());
        entries.push((path, is_dir));
    }
    entries.sort();
    let mut has_frames = false;
    for (path, is_dir) in entries {
        if path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        if is_dir {
            walk(&path, depth + 1, files, frames)?;
        } else if has_extension(&path, &VIDEO_EXTENSIONS) {
            files.push(path);
        } else {
            has_frames |= is_frame(&path);
        }
    }
    if has_frames {
        frames.push(dir.to_owned());
    }
    Ok(())
}
