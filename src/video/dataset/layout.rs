//! The supported layouts of a data set, and detection of the layout of a path.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{json_list, list};
use super::messages::{last, last_two, unused};
use super::problems::Lacking;
use super::public::{self, Set};
use super::walk::{Tree, identity, looks_like_split, walk};
use super::{Found, Input, Labelled, Source};
use crate::error::{Error, Result};
use crate::files;

/// Names of folders and lists of held-out videos; the first that exists is used.
const HELD_OUT: [&str; 4] = ["test", "val", "validation", "validate"];
/// The names of Something-Something v2: of its folder of videos, and what the names of its lists begin with.
const SOMETHING: [&str; 2] = ["20bn-something-something-v2", "something-something-v2-"];

/// Detects the layout and reads it.
pub(super) fn open(Input { data: path, test, split }: Input<'_>) -> Result<Found> {
    let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_dir() {
        // The other list of a numbered split is beside it.
        return match (public::named(path, split), test) {
            (Some(found), None) => found,
            (Some(found), Some(test)) if public::is_partner(path, test) => found,
            (None, None) if list::is_video(path) => {
                files::check_regular(path, "a video")?;
                let (source, name) = (Source::File(path.to_owned()), last(path));
                let train = vec![Labelled { source, class: None, name, line: None }];
                Ok(Found { train, layout: format!("the video {}", path.display()), ..Found::default() })
            }
            _ => no_split(path, split).and_then(|()| plain(path, test)),
        };
    }
    if test.is_some() {
        return Err(Error::data(path, "a test list was given, but this is a folder and not a training list"));
    }
    let root = if public::is_list_folder(path) { public::above(path)? } else { path.to_owned() };
    if let Some(set) = Set::in_folder(path, split)? {
        return set.read(&root, walk(&root)?);
    }
    if let Some((train, held)) = list_pair(path).filter(|_| split.is_none()) {
        let mut found = plain(&train, Some(&held))?;
        found.warnings.extend(unused(direct_lists(path)?, &[&train, &held]));
        return Ok(found);
    }
    if split.is_none()
        && let Some(found) = folder_pair(path)?
    {
        return Ok(found);
    }
    let mut tree = walk(path)?;
    if let Some(set) = Set::below(&tree, split)? {
        return set.read(path, tree);
    }
    for set in Set::beside(path, split)? {
        if set.names_any(&tree)? {
            return set.read(path, tree);
        }
        tree.warnings.push(format!("the lists in {} name no video of {}", set.folder.display(), path.display()));
    }
    no_split(path, split)?;
    let lists = std::mem::take(&mut tree.lists);
    let (train, mut warnings) = folders(path, tree)?;
    warnings.extend(unused(lists, &[]));
    let of = if train.iter().all(|video| video.class.is_none()) { "videos" } else { "class folders" };
    let layout = format!("{of} in {}", path.display());
    Ok(Found { train, layout, warnings, ..Found::default() })
}

/// Refuses the number of a split for data without lists of such.
fn no_split(path: &Path, split: Option<u64>) -> Result<()> {
    let Some(split) = split else { return Ok(()) };
    let what = format!("--split {split} chooses one of the splits of UCF101 or HMDB51, and there are no such lists");
    Err(Error::data(path, what))
}

/// `train.csv` and `test.csv` or `val.csv`, or the same with `.txt`, or Something-Something's lists, also in a folder `labels`. Of
/// several lists of held-out videos the first with labels is used.
fn list_pair(dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let [_, something] = SOMETHING;
    let places = [("", "", "csv"), ("", "", "txt"), ("", something, "json"), ("labels", something, "json")];
    places.into_iter().find_map(|(folder, begin, kind)| {
        let list = |name: &str| Some(dir.join(folder).join(format!("{begin}{name}.{kind}"))).filter(|p| p.is_file());
        let held: Vec<PathBuf> = HELD_OUT.into_iter().filter_map(list).collect();
        let labelled = held.iter().find(|list| !list::lacks_labels(list));
        Some((list("train")?, labelled.or(held.first())?.clone()))
    })
}

/// Lists in `dir` itself.
fn direct_lists(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        if looks_like_split(Path::new(&entry.file_name())) && entry.path().is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The video of a path in a list: a file, a folder of frames, or a folder of frames named like the file without its
/// extension. `\` separates folders like `/`, and a path that starts with `/` may start at the list's folder.
fn source_at(base: &Path, path: &str) -> Option<Source> {
    let at = |path: &str| {
        let path = base.join(path);
        if path.is_file() {
            return Some(Source::File(path));
        }
        [path.clone(), path.with_extension("")].into_iter().find(|p| p.is_dir()).map(Source::Folder)
    };
    let forward = || Some(path.replace('\\', "/")).filter(|p| p != path).and_then(|p| at(&p));
    let below = || path.strip_prefix('/').filter(|p| !p.is_empty()).and_then(at);
    at(path).or_else(forward).or_else(below)
}

/// Lists of `path label` lines, or of paths alone.
pub(super) fn plain(train: &Path, test: Option<&Path>) -> Result<Found> {
    list::refuse_no_list(
        train,
        "give a folder of videos, or one with a folder of videos for each class, or a list of lines `path label`",
    )?;
    if let Some(test) = test {
        let wanted = "the videos for testing are given as a list of lines `path label`; without lists, as a folder `test` beside a \
                      folder `train`";
        list::refuse_no_list(test, wanted)?;
    }
    let (mut warnings, mut lacking, mut classes) = (Vec::new(), Vec::new(), None);
    let mut read = |path: &Path| -> Result<Vec<Labelled>> {
        let base = path.parent().unwrap_or(Path::new(""));
        let list = list::read(path, &|video| source_at(base, video).is_some())?;
        warnings.extend(list.warnings);
        let (total, path): (usize, Arc<Path>) = (list.lines.len(), path.into());
        let (mut videos, mut absent, mut irregular) = (Vec::with_capacity(total), Vec::new(), Vec::new());
        let below = if list.names.is_some() { by_stem(base)? } else { HashMap::new() };
        if list.names.is_some() && list.lines.iter().any(|line| line.label.is_some()) && json_list::is_json(&path) {
            classes = json_list::classes(&path)?;
        }
        for list::Line { number, path: name, label: class } in list.lines {
            match source_at(base, &name).or_else(|| below.get(stem(Path::new(&name))).cloned()) {
                Some(source) => videos.push(Labelled { source, class, name, line: Some((path.clone(), number)) }),
                None => {
                    let at = base.join(&name);
                    match files::check_regular(&at, "a video") {
                        Err(e) if e.is_of_the_machine() => return Err(e),
                        Err(e) if at.exists() => irregular.push((number, name, e)),
                        _ => absent.push((number, name)),
                    }
                }
            }
        }
        let (malformed, names) = (list.malformed, list.names);
        lacking.push(Lacking { list: path, total, malformed, absent, irregular, names });
        Ok(videos)
    };
    let layout = match test {
        Some(test) => format!("lists {} and {}", train.display(), test.display()),
        None => format!("list {}", train.display()),
    };
    if let Some(test) = test {
        refuse_same(train, test)?;
    }
    let (train, test) = (read(train)?, test.map(read).transpose()?);
    Ok(Found { classes, train, test, layout, warnings, lacking })
}

/// The videos below a folder, and in Something-Something's folder of videos beside it, by their names without extensions; of
/// several the first by its path.
fn by_stem(base: &Path) -> Result<HashMap<String, Source>> {
    let base = if base == Path::new("") { Path::new(".") } else { base };
    let mut videos = walk(base)?.videos(base);
    let [beside, _] = SOMETHING;
    let beside = public::above(base)?.join(beside);
    if beside.is_dir() {
        videos.extend(walk(&beside)?.videos(&beside));
    }
    videos.sort_by(|a, b| b.1.cmp(&a.1));
    Ok(videos.into_iter().map(|(source, path)| (stem(&path).to_owned(), source)).collect())
}

/// A file's name without the extension of a video.
fn stem(path: &Path) -> &str {
    let name = if list::is_video(path) { path.file_stem() } else { path.file_name() };
    name.and_then(|n| n.to_str()).unwrap_or_default()
}

/// Refuses one list for both sides.
fn refuse_same(train: &Path, test: &Path) -> Result<()> {
    let [a, b] = [files::check_regular(train, "a list of videos")?, files::check_regular(test, "a list of videos")?];
    if identity(&a) == identity(&b) {
        let what = format!("this list is given for testing, and as {} for training: they must be two", train.display());
        return Err(Error::data(test, what));
    }
    if a.len() == b.len() && list::lines_of(train)? == list::lines_of(test)? {
        let what = format!("this list for testing says the same as {} for training", train.display());
        return Err(Error::data(test, what));
    }
    Ok(())
}

/// Class folders below `train` and `test` (or `val`).
fn folder_pair(dir: &Path) -> Result<Option<Found>> {
    let train = dir.join("train");
    let held = HELD_OUT.map(|name| dir.join(name)).into_iter().find(|p| p.is_dir());
    let Some(held) = held.filter(|_| train.is_dir()) else { return Ok(None) };
    let mut warnings = Vec::new();
    let mut read = |side: &Path| -> Result<Vec<Labelled>> {
        let mut tree = walk(side)?;
        warnings.extend(unused(std::mem::take(&mut tree.lists), &[]));
        let (videos, odd) = folders(side, tree)?;
        warnings.extend(odd);
        Ok(videos)
    };
    let (videos, held_out) = (read(&train)?, read(&held)?);
    warnings.extend(unused(direct_lists(dir)?, &[]));
    let mut others = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() && path != train && path != held && !hidden {
            others.push(path.display().to_string());
        }
    }
    if !others.is_empty() {
        others.sort();
        warnings.push(format!("beside train and {}, {} is not used", last(&held), others.join(", ")));
    }
    let layout = format!("class folders in {} and {}", train.display(), held.display());
    Ok(Some(Found { train: videos, test: Some(held_out), layout, warnings, ..Found::default() }))
}

/// A name as text. Where it is no UTF-8 its bytes are escaped, so that two names stay two.
fn text(name: &OsStr) -> String {
    name.to_str().map_or_else(|| name.as_encoded_bytes().escape_ascii().to_string(), str::to_owned)
}

/// The videos of a tree whose folders name their classes, or without labels where all lie directly in `dir`; and what is
/// skipped.
fn folders(dir: &Path, mut tree: Tree) -> Result<(Vec<Labelled>, Vec<String>)> {
    tree.use_frames(dir);
    if let Some(([a, b], more)) = tree.same_within() {
        let also = if more > 0 { format!("; so it is with {more} more") } else { String::new() };
        let what = format!(
            "{} and {} hold frames of the same video by their names{also}: keep one of them in each video's folder, or give a \
             `path label` list",
            a.display(),
            b.display()
        );
        return Err(Error::data(dir, what));
    }
    if let Some(([a, b], first)) = tree.same_twice(dir) {
        let what = format!(
            "{} and {} hold the same videos by their names, the first is {}: give a folder with one of them, or a \
             `path label` list",
            a.display(),
            b.display(),
            first.display()
        );
        return Err(Error::data(dir, what));
    }
    let mut warnings = std::mem::take(&mut tree.warnings);
    let (mut videos, total) = (BTreeMap::new(), tree.files.len() + tree.frames.len());
    let mut loose: BTreeMap<PathBuf, Labelled> = BTreeMap::new();
    for (source, path) in tree.videos(dir) {
        if path == dir && total > 1 {
            warnings.push(format!("{} itself holds pictures, and they are left out", dir.display()));
            continue;
        }
        let parent = path.parent().filter(|p| *p != dir && path != dir).and_then(Path::file_name);
        let class = parent.map(text);
        let (side, name) = if class.is_some() { (&mut videos, last_two(&path)) } else { (&mut loose, last(&path)) };
        side.insert(path, Labelled { source, class, name, line: None });
    }
    if let (Some(one), Some(other)) = (loose.keys().next(), videos.keys().next()) {
        let what = format!(
            "{} lies in no class folder, and {} does: put all videos into class folders, or all directly into the folder to \
             train without labels",
            one.display(),
            other.display()
        );
        return Err(Error::data(dir, what));
    }
    videos.append(&mut loose);
    if videos.is_empty() {
        let what = "there is no video in it: expected video files or folders of frames, directly or in folders named after \
                    classes, or lists of UCF101 or HMDB51, or train.csv and test.csv";
        return Err(Error::data(dir, what));
    }
    Ok((videos.into_values().collect(), warnings))
}
