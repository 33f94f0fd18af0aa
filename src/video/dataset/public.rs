//! Lists of public data sets: UCF101's and HMDB51's, with several numbered splits each.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::list::{self, Malformed};
use super::messages::{last, last_two, unused};
use super::problems::Lacking;
use super::walk::{Tree, identity, walk};
use super::{Found, Labelled, Source};
use crate::error::{Error, Result};

/// Names of the folders of these lists.
const FOLDERS: [&str; 3] =
    ["ucfTrainTestlist", "testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits"];

/// Whether a folder has the name of a folder of public lists, with the videos beside it.
pub(super) fn is_list_folder(folder: &Path) -> bool {
    FOLDERS.iter().any(|name| folder.ends_with(name))
}

/// The folder above `folder`.
pub(super) fn above(folder: &Path) -> Result<PathBuf> {
    let whole = fs::canonicalize(folder).map_err(Error::io("read", folder))?;
    Ok(whole.parent().unwrap_or(&whole).to_owned())
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// `trainlist01.txt` and `testlist01.txt` of lines `Class/video.avi 1`, and `classInd.txt`.
    Ucf101,
    /// `class_test_split1.txt` of lines `video.avi 1`: 1 for training, 2 for testing, 0 for neither.
    Hmdb51,
}

/// A folder of such lists, and the split in use.
pub(super) struct Set {
    pub folder: PathBuf,
    kind: Kind,
    number: String,
    /// The numbers of all splits.
    all: Vec<String>,
}

fn between<'a>(name: &'a str, before: &str, after: &str) -> Option<&'a str> {
    name.strip_prefix(before)?.strip_suffix(after)
}

/// `01` of `trainlist01.txt`.
fn number_of<'a>(name: &'a str, side: &str) -> Option<&'a str> {
    between(name, side, ".txt").filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// `wave` and `1` of `wave_test_split1.txt`.
fn class_and_number(name: &str) -> Option<(&str, &str)> {
    let (class, number) = name.strip_suffix(".txt")?.rsplit_once("_test_split")?;
    (!class.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some((class, number))
}

/// Whether `test` is the test list of the split whose training list is `train`.
pub(super) fn is_partner(train: &Path, test: &Path) -> bool {
    let (a, b) = (last(train), last(test));
    train.parent() == test.parent()
        && number_of(&a, "trainlist").is_some()
        && number_of(&a, "trainlist") == number_of(&b, "testlist")
}

/// The split of one of its lists, if it has such a name and the other list exists.
pub(super) fn named(list: &Path, split: Option<u64>) -> Option<Result<Found>> {
    let (name, folder) = (last(list), list.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")));
    let (kind, number) = match (number_of(&name, "trainlist"), class_and_number(&name)) {
        (Some(number), _) if folder.join(format!("testlist{number}.txt")).is_file() => (Kind::Ucf101, number),
        (_, Some((_, number))) => (Kind::Hmdb51, number),
        _ => return None,
    };
    let set = Set { folder: folder.to_owned(), kind, number: number.to_owned(), all: Vec::new() };
    Some((|| {
        if let Some(split) = split.filter(|split| number.parse() != Ok(*split)) {
            return Err(Error::data(list, format!("this is a list of split {number}, and --split {split} was given")));
        }
        let root = if is_list_folder(folder) { above(folder)? } else { folder.to_owned() };
        set.read(&root, walk(&root)?)
    })())
}

impl Set {
    /// The lists in `folder` itself.
    pub(super) fn in_folder(folder: &Path, split: Option<u64>) -> Result<Option<Set>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
            names.push(entry.map_err(Error::io("read", folder))?.file_name().to_string_lossy().into_owned());
        }
        Set::of(folder, &names, split)
    }

    /// The lists in a folder of a tree, the one nearest to the root.
    pub(super) fn below(tree: &Tree, split: Option<u64>) -> Result<Option<Set>> {
        let mut folders: Vec<&Path> = tree.lists.iter().filter_map(|l| l.parent()).collect();
        folders.sort_by_key(|f| (f.components().count(), *f));
        folders.dedup();
        for folder in folders {
            let names: Vec<String> =
                tree.lists.iter().filter(|l| l.parent() == Some(folder)).map(|l| last(l)).collect();
            if let Some(set) = Set::of(folder, &names, split)? {
                return Ok(Some(set));
            }
        }
        Ok(None)
    }

    /// The lists in folders of the known names beside `dir`.
    pub(super) fn beside(dir: &Path, split: Option<u64>) -> Result<Vec<Set>> {
        let parent = above(dir)?;
        let folders = FOLDERS.iter().map(|name| parent.join(name)).filter(|f| f.is_dir());
        Ok(folders.map(|f| Set::in_folder(&f, split)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The lists called `names`, with the split of this number, or the first.
    fn of(folder: &Path, names: &[String], split: Option<u64>) -> Result<Option<Set>> {
        let numbers = |of: &dyn Fn(&String) -> Option<String>| {
            let mut found: Vec<String> = names.iter().filter_map(of).collect();
            found.sort();
            found.dedup();
            found
        };
        let side = |side: &'static str| numbers(&|n| number_of(n, side).map(str::to_owned));
        let (train, test) = (side("trainlist"), side("testlist"));
        let both: Vec<String> = train.iter().filter(|n| test.contains(n)).cloned().collect();
        let hmdb51 = numbers(&|n| class_and_number(n).map(|(_, number)| number.to_owned()));
        let (kind, all) = match (both.is_empty(), train.first(), test.first()) {
            (false, ..) => (Kind::Ucf101, both),
            (true, Some(n), _) => return Err(lacks(folder, &format!("trainlist{n}.txt"), &format!("testlist{n}.txt"))),
            (true, _, Some(n)) => return Err(lacks(folder, &format!("testlist{n}.txt"), &format!("trainlist{n}.txt"))),
            (true, None, None) => (Kind::Hmdb51, hmdb51),
        };
        let wanted = |number: &&String| split.is_none_or(|split| number.parse() == Ok(split));
        match (all.iter().find(wanted), split) {
            (Some(number), _) => {
                Ok(Some(Set { folder: folder.to_owned(), kind, number: number.clone(), all: all.clone() }))
            }
            (None, Some(split)) if !all.is_empty() => {
                Err(Error::data(folder, format!("--split {split} is none of the splits {}", all.join(", "))))
            }
            _ => Ok(None),
        }
    }

    /// The lists of the split.
    fn lists(&self) -> Result<Vec<PathBuf>> {
        if self.kind == Kind::Ucf101 {
            return Ok(["trainlist", "testlist"]
                .map(|side| self.folder.join(format!("{side}{}.txt", self.number)))
                .into());
        }
        let mut lists = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io("read", &self.folder))? {
            let path = entry.map_err(Error::io("read", &self.folder))?.path();
            if class_and_number(&last(&path)).is_some_and(|(_, number)| number == self.number) {
                lists.push(path);
            }
        }
        lists.sort();
        Ok(lists)
    }

    /// Whether the lists name a video of `tree`.
    pub(super) fn names_any(&self, tree: &Tree) -> Result<bool> {
        let places = Places::new(tree);
        for list in self.lists()? {
            let class = class_and_number(&last(&list)).map(|(class, _)| class.to_owned());
            for (_, line) in list::lines(&list)?.0 {
                let (path, _) = path_and_number(&line);
                let name = class.as_ref().map_or_else(|| last_two(Path::new(path)), |class| format!("{class}/{path}"));
                if !places.find(&name).is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Reads the split. Its videos are in `tree`, below `root`.
    pub(super) fn read(&self, root: &Path, mut tree: Tree) -> Result<Found> {
        let mut warnings = std::mem::take(&mut tree.warnings);
        let of_set = |l: &Path| {
            let name = last(l);
            let of_kind = number_of(&name, "trainlist").or(number_of(&name, "testlist")).is_some()
                || class_and_number(&name).is_some();
            of_kind && l.parent().map(last) == Some(last(&self.folder))
        };
        tree.lists.retain(|l| !of_set(l));
        warnings.extend(unused(std::mem::take(&mut tree.lists), &[]));
        let places = Places::new(&tree);
        let mut lacking = Vec::new();
        let (classes, train, test, neither) = match self.kind {
            Kind::Ucf101 => self.ucf101(root, &places, &mut lacking)?,
            Kind::Hmdb51 => self.hmdb51(root, &places, &mut lacking)?,
        };
        let (name, folder, number) = (self.kind.name(), self.folder.display(), &self.number);
        let mut layout = format!("{name} lists of {folder}, split {number}");
        if self.all.len() > 1 {
            layout += &format!(" of the splits {} (--split chooses another)", self.all.join(", "));
        }
        if neither > 0 {
            layout += &format!("; {neither} videos are in neither part of it");
        }
        Ok(Found { classes, train, test: Some(test), layout, warnings, lacking })
    }

    fn ucf101(&self, root: &Path, places: &Places, lacking: &mut Vec<Lacking>) -> Result<Parts> {
        let classes = read_classes(&self.folder.join("classInd.txt"))?;
        let mut read = |list: &PathBuf| -> Result<Vec<Labelled>> {
            let mut named = Named::new(list, root, places);
            for (number, line) in named.lines()? {
                let (path, label) = path_and_number(&line);
                let path = path.replace('\\', "/");
                let name = last_two(Path::new(&path));
                match ucf101_class(&path, label, classes.as_deref()) {
                    Ok(class) => named.add(number, name, class)?,
                    Err(why) => named.malformed.push(Malformed::new(number, &line, why)),
                }
            }
            named.all(lacking)
        };
        let lists = self.lists()?;
        let (train, test) = (read(&lists[0])?, read(&lists[1])?);
        Ok((classes, train, test, 0))
    }

    fn hmdb51(&self, root: &Path, places: &Places, lacking: &mut Vec<Lacking>) -> Result<Parts> {
        let (mut train, mut test, mut neither) = (Vec::new(), Vec::new(), 0);
        for list in self.lists()? {
            let name = last(&list);
            let Some((class, _)) = class_and_number(&name) else { continue };
            let mut sides = [Named::new(&list, root, places), Named::new(&list, root, places)];
            for (number, line) in sides[0].lines()? {
                let (path, side) = path_and_number(&line);
                match side {
                    Some("0") => neither += 1,
                    Some(side @ ("1" | "2")) => {
                        sides[usize::from(side == "2")].add(number, format!("{class}/{path}"), class.to_owned())?;
                    }
                    _ => {
                        let why = "should be a video and 1 (training), 2 (testing) or 0";
                        sides[0].malformed.push(Malformed::new(number, &line, why));
                    }
                }
            }
            let [a, b] = sides;
            train.extend(a.some(lacking));
            test.extend(b.some(lacking));
        }
        Ok((None, train, test, neither))
    }
}

/// Classes if they are numbered, videos for training and for testing, and the number of unused ones.
type Parts = (Option<Vec<String>>, Vec<Labelled>, Vec<Labelled>, usize);

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ucf101 => "UCF101",
            Kind::Hmdb51 => "HMDB51",
        }
    }
}

fn lacks(folder: &Path, there: &str, absent: &str) -> Error {
    Error::data(folder, format!("{there} is there and {absent} is not: a split has both"))
}

/// A path, and the number after it if there is one. Paths may contain blanks.
fn path_and_number(line: &str) -> (&str, Option<&str>) {
    match line.rsplit_once([',', '\t', ' ']) {
        Some((path, number)) if list::is_video(path.trim().as_ref()) || number.bytes().all(|b| b.is_ascii_digit()) => {
            (path.trim(), Some(number.trim()).filter(|n| !n.is_empty()))
        }
        _ => (line, None),
    }
}

/// The videos of a tree by the last two components of their paths.
struct Places {
    whole: HashMap<String, Vec<Source>>,
    /// Without extension: lists of files are also used for folders of frames and for files of another type.
    bare: HashMap<String, Vec<Source>>,
}

fn bare(name: &str) -> String {
    let path = Path::new(name);
    if list::is_video(path) { path.with_extension("").to_string_lossy().into_owned() } else { name.to_owned() }
}

impl Places {
    fn new(tree: &Tree) -> Places {
        let mut places = Places { whole: HashMap::new(), bare: HashMap::new() };
        let files = tree.files.iter().map(|p| (p, Source::File(p.clone())));
        for (path, source) in files.chain(tree.frames.iter().map(|p| (p, Source::Folder(p.clone())))) {
            let name = last_two(path);
            places.bare.entry(bare(&name)).or_default().push(source.clone());
            places.whole.entry(name).or_default().push(source);
        }
        places
    }

    fn find(&self, name: &str) -> &[Source] {
        self.whole.get(name).or_else(|| self.bare.get(&bare(name))).map_or(&[], Vec::as_slice)
    }
}

/// The videos that a list names, found in a tree.
struct Named<'a> {
    list: Arc<Path>,
    root: &'a Path,
    places: &'a Places,
    total: usize,
    videos: Vec<Labelled>,
    absent: Vec<(u64, String)>,
    malformed: Vec<Malformed>,
}

impl<'a> Named<'a> {
    fn new(list: &Path, root: &'a Path, places: &'a Places) -> Named<'a> {
        let list = list.into();
        Named { list, root, places, total: 0, videos: Vec::new(), absent: Vec::new(), malformed: Vec::new() }
    }

    /// The lines of the list; notes those that are no text.
    fn lines(&mut self) -> Result<Vec<(u64, String)>> {
        let (lines, no_text) = list::lines(&self.list)?;
        self.malformed.extend(no_text);
        Ok(lines)
    }

    fn add(&mut self, number: u64, name: String, class: String) -> Result<()> {
        self.total += 1;
        let found = self.places.find(&name);
        let same = |s: &Source| match s {
            Source::File(p) | Source::Folder(p) => fs::metadata(p).ok().map(|m| identity(&m)),
            Source::Part(..) | Source::Procedural(_) | Source::Packed(_) => None,
        };
        match found {
            [] => self.absent.push((number, name)),
            [first, rest @ ..] if rest.iter().all(|s| same(s) == same(first)) => {
                let line = Some((self.list.clone(), number));
                self.videos.push(Labelled { source: first.clone(), class: Some(class), name, line });
            }
            several => {
                let what = format!("{name}, in line {number} of the list, is there {} times", several.len());
                return Err(Error::data(self.root, what));
            }
        }
        Ok(())
    }

    /// All videos, at least one.
    fn all(self, lacking: &mut Vec<Lacking>) -> Result<Vec<Labelled>> {
        if self.total == 0 && self.malformed.is_empty() {
            return Err(Error::data(&self.list, "the list names no video"));
        }
        Ok(self.some(lacking))
    }

    fn some(self, lacking: &mut Vec<Lacking>) -> Vec<Labelled> {
        let Named { list, total, absent, malformed, .. } = self;
        lacking.push(Lacking { list, total, malformed, absent, irregular: Vec::new(), names: None });
        self.videos
    }
}

/// The class of a line: by its number if there is one, otherwise by its folder.
fn ucf101_class(path: &str, label: Option<&str>, classes: Option<&[String]>) -> std::result::Result<String, String> {
    let name = last_two(Path::new(path));
    let folder = name.split_once('/').map(|(folder, _)| folder);
    let by_number = match (label, classes) {
        (Some(label), Some(classes)) => {
            let number = label.parse::<usize>().ok().and_then(|n| classes.get(n.wrapping_sub(1)));
            Some(number.ok_or_else(|| format!("has class {label}, which is not one of 1 to {}", classes.len()))?)
        }
        _ => None,
    };
    match (by_number, folder) {
        (Some(class), Some(folder)) if class != folder && classes.is_some_and(|c| c.iter().any(|x| x == folder)) => {
            Err(format!("has the number of class {class} and the folder of {folder}"))
        }
        (Some(class), _) => Ok(class.clone()),
        (None, Some(folder)) => Ok(folder.to_owned()),
        (None, None) => Err("has neither a class number nor a class folder".to_owned()),
    }
}

/// `classInd.txt`: `1 name` for each class, numbers from 1 without gaps. `None` when there is no such file.
fn read_classes(path: &Path) -> Result<Option<Vec<String>>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut classes = Vec::new();
    for (number, line) in list::lines_of(path)? {
        let parsed =
            line.split_once(char::is_whitespace).and_then(|(n, name)| Some((n.parse::<usize>().ok()?, name.trim())));
        match parsed {
            Some((n, name)) if n == classes.len() + 1 && !name.is_empty() => classes.push(name.to_owned()),
            _ => {
                let what = format!("line {number}, `{line}`, should be `{} name`", classes.len() + 1);
                return Err(Error::content(path, what));
            }
        }
    }
    Ok(Some(classes))
}
