//! Data sets: which videos there are, of which class, for training and for testing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::list;
use super::procedural::{MOTIONS, ProceduralSpec};
use crate::error::{Error, Result};

/// Where a video's frames come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A video file, read by `ffmpeg`.
    File(PathBuf),
    /// A folder of JPEG or PNG frames.
    Folder(PathBuf),
    /// Video number so-and-so of [`Dataset::procedural`].
    Procedural(usize),
}

/// One video of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where its frames come from.
    pub source: Source,
    /// Index into [`Dataset::classes`].
    pub label: usize,
    /// A name for messages and pictures, e.g. `hover/v_hover_S6_c00.mp4`.
    pub name: String,
}

/// Which part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// Held out.
    Test,
}

impl Split {
    /// `train` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Test => "test",
        }
    }
}

/// The videos of one split.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Names of the classes; labels index them. Both splits have the same.
    pub classes: Vec<String>,
    /// The videos, in the order of the list or sorted by path.
    pub items: Vec<Item>,
    /// Which split this is.
    pub split: Split,
    /// What the sources [`Source::Procedural`] refer to.
    pub procedural: Option<ProceduralSpec>,
    /// Oddities worth telling the user, one sentence each: classes with one video or none.
    pub warnings: Vec<String>,
}

/// A training and a test set, and how they were found.
#[derive(Debug, Clone)]
pub struct Splits {
    /// For training.
    pub train: Dataset,
    /// Held out.
    pub test: Dataset,
    /// One sentence for the summary: which layout was recognised and where the split comes from.
    pub layout: String,
}

impl Dataset {
    fn new(split: Split, classes: Vec<String>, items: Vec<Item>) -> Self {
        let mut count = vec![0usize; classes.len()];
        for item in &items {
            count[item.label] += 1;
        }
        let warnings = count.iter().zip(&classes).filter_map(|(&n, class)| match n {
            0 => Some(format!("class {class} has no {} video", split.name())),
            1 => Some(format!("class {class} has a single {} video", split.name())),
            _ => None,
        });
        Self { warnings: warnings.collect(), classes, items, split, procedural: None }
    }

    /// Number of videos.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no video.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The label of each video.
    pub fn labels(&self) -> Vec<usize> {
        self.items.iter().map(|item| item.label).collect()
    }
}

impl Splits {
    /// Procedural videos; nothing is read.
    ///
    /// # Errors
    /// `Param` when `spec` is out of range.
    pub fn procedural(spec: &ProceduralSpec) -> Result<Self> {
        spec.check()?;
        let train = spec.classes * spec.videos_per_class;
        let part = |split: Split, range: std::ops::Range<usize>| {
            let classes: Vec<String> = MOTIONS[..spec.classes].iter().map(|m| (*m).to_owned()).collect();
            let item = |i: usize| {
                let label = spec.label(i);
                Item { source: Source::Procedural(i), label, name: format!("{}/{i:05}", classes[label]) }
            };
            let items = range.map(item).collect();
            Dataset { procedural: Some(spec.clone()), ..Dataset::new(split, classes, items) }
        };
        Ok(Self {
            train: part(Split::Train, 0..train),
            test: part(Split::Test, train..spec.videos()),
            layout: format!("procedural videos of seed {}", spec.seed),
        })
    }

    /// Reads a data set from `path`, whichever of these it is:
    ///
    /// 1. a list file of `path label` lines for training (with `test` a second one; without it every fourth group of
    ///    each class is held out);
    /// 2. a folder with `train.csv` and `test.csv` (or `.txt`) of such lines;
    /// 3. a folder with `trainlist01.txt` and `testlist01.txt` (UCF101's lists; `classInd.txt` numbers the classes
    ///    from 1), the videos anywhere below it;
    /// 4. a folder with `train` and `test` (or `val`) folders of class folders;
    /// 5. a folder of class folders, of which every fourth group of each class is held out.
    ///
    /// A video is a file or a folder of frames. A group is what shares a name up to `_cNN`, as the clips cut from one
    /// recording do in UCF101, so that they never sit on both sides.
    ///
    /// # Errors
    /// `Io` when something cannot be read, `Data` when there is nothing to train on or a list names absent files
    /// (the first and their number), `Format` with the line number for a line that makes no sense.
    pub fn open(path: &Path, test: Option<&Path>) -> Result<Self> {
        let kind = std::fs::metadata(path).map_err(Error::io("read", path))?;
        let found = if kind.is_file() {
            list::plain(path, test)?
        } else if test.is_some() {
            return Err(Error::data(path, "a test list was given, but this is a folder and not a training list"));
        } else if path.join("trainlist01.txt").is_file() {
            list::ucf101(path)?
        } else if let Some((train, test)) = list::named_pair(path) {
            list::plain(&train, Some(&test))?
        } else {
            list::folders(path)?
        };
        found.into_splits(path)
    }
}

/// What a layout yields: videos with class names, before classes are numbered and videos held out.
pub(super) struct Found {
    /// The classes' order where the layout gives one; otherwise they are sorted.
    pub classes: Option<Vec<String>>,
    pub train: Vec<Labelled>,
    /// `None` when the layout has no test part.
    pub test: Option<Vec<Labelled>>,
    pub layout: String,
}

/// A video with the name of its class.
#[derive(Debug, Clone)]
pub(super) struct Labelled {
    pub source: Source,
    pub class: String,
    pub name: String,
}

impl Found {
    fn into_splits(mut self, path: &Path) -> Result<Splits> {
        if self.test.is_none() {
            let (train, test) = hold_out(std::mem::take(&mut self.train));
            (self.train, self.test) = (train, Some(test));
            self.layout += "; every fourth group of each class, by a hash of its name, is held out for testing";
        }
        let test = self.test.unwrap_or_default();
        if self.train.is_empty() {
            return Err(Error::data(path, "there is no training video"));
        }
        let classes = self.classes.unwrap_or_else(|| sorted_classes(self.train.iter().chain(&test)));
        let number: BTreeMap<&str, usize> = classes.iter().enumerate().map(|(i, c)| (c.as_str(), i)).collect();
        let items = |videos: Vec<Labelled>| -> Result<Vec<Item>> {
            let item = |v: Labelled| match number.get(v.class.as_str()) {
                Some(&label) => Ok(Item { source: v.source, label, name: v.name }),
                None => Err(Error::data(path, format!("{} has class {}, which classInd.txt lacks", v.name, v.class))),
            };
            videos.into_iter().map(item).collect()
        };
        let (train, test) = (items(self.train)?, items(test)?);
        Ok(Splits {
            train: Dataset::new(Split::Train, classes.clone(), train),
            test: Dataset::new(Split::Test, classes, test),
            layout: self.layout,
        })
    }
}

/// Class names in order: by value where all are numbers, else by spelling.
fn sorted_classes<'a>(videos: impl Iterator<Item = &'a Labelled>) -> Vec<String> {
    let mut classes: Vec<String> = videos.map(|v| v.class.clone()).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.iter().all(|c| c.parse::<u64>().is_ok()) {
        classes.sort_by_key(|c| c.parse::<u64>().ok());
    }
    classes
}

/// Holds out a quarter of the groups of each class, at least one and never all: those whose names hash lowest.
fn hold_out(videos: Vec<Labelled>) -> (Vec<Labelled>, Vec<Labelled>) {
    let mut groups: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
    for v in &videos {
        let group = group_of(&v.name);
        groups.entry(&v.class).or_default().push((fnv1a(group.as_bytes()), group));
    }
    let mut held: std::collections::BTreeSet<(String, String)> = Default::default();
    for (class, mut names) in groups {
        names.sort_unstable();
        names.dedup();
        let n = (names.len() as f64 / 4.0).round().max(1.0) as usize;
        held.extend(names.iter().take(n.min(names.len() - 1)).map(|(_, g)| (class.to_owned(), (*g).to_owned())));
    }
    let (test, train) =
        videos.into_iter().partition(|v| held.contains(&(v.class.clone(), group_of(&v.name).to_owned())));
    (train, test)
}

/// `class/v_Name_g01_c02.avi` -> `class/v_Name_g01`.
fn group_of(name: &str) -> &str {
    let stem = match name.rfind('.') {
        Some(dot) if !name[dot..].contains('/') => &name[..dot],
        _ => name,
    };
    match stem.rfind("_c") {
        Some(at) if stem[at + 2..].bytes().all(|b| b.is_ascii_digit()) && stem.len() > at + 2 => &stem[..at],
        _ => stem,
    }
}

/// 64-bit FNV-1a: a hash that is the same on every machine and in every version.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
