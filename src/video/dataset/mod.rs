//! Data sets: videos with their classes, for training and for testing.
//!
//! ```
//! use tubelet::video::{ProceduralSpec, Splits};
//! // The videos of a folder or a list: `Splits::open("path/to/videos".as_ref(), None)?`.
//! let splits = Splits::procedural(&ProceduralSpec { classes: 2, ..ProceduralSpec::default() })?;
//! assert_eq!(splits.train.classes, ["move_left", "move_right"]);
//! assert!(splits.train.len() > splits.test.len());
//! # Ok::<(), tubelet::Error>(())
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod fingerprint;
mod layout;
mod messages;
mod origin;
mod problems;
mod public;
mod sizes;
mod trees;
mod twins;
mod walk;

use problems::{Lacking, On};
pub use problems::{Problem, ProblemKind};

use super::procedural::{MOTIONS, ProceduralSpec};
use crate::error::{Error, Result};
use crate::files::{fnv1a, fnv1a_on};

/// Source of a video's frames.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A video file, read by `ffmpeg`.
    File(PathBuf),
    /// Of a video file, what is shown from the first of these milliseconds on and before the second
    /// ([`Dataset::in_parts`]).
    Part(PathBuf, [u64; 2]),
    /// A folder of JPEG or PNG frames.
    Folder(PathBuf),
    /// The video of this number in [`Dataset::procedural`].
    Procedural(usize),
    /// A video of a [packed folder](crate::video::pack), which has its frames: the hash of the key of these.
    Packed(u64),
}

/// A video, and the path that names it.
pub type Named = (Source, PathBuf);

/// The videos below the folder `dir`, as in a data set of class folders: video files and folders of frames, in the
/// order of their paths, each with the path that names it; then what was skipped, one sentence each. The path is the
/// video's own, or for frames in `class/video/frames` (or `rgb`, `img`, `rgb_240`, …) the folder above.
///
/// # Errors
/// `Io` when a folder cannot be read, `Data` when there are too many files.
pub fn videos_below(dir: &Path) -> Result<(Vec<Named>, Vec<String>)> {
    let mut tree = walk::walk(dir)?;
    tree.use_frames(dir);
    let warnings = std::mem::take(&mut tree.warnings);
    let mut videos = tree.videos(dir);
    videos.sort_by(|a, b| a.1.cmp(&b.1));
    Ok((videos, warnings))
}

/// Whether a file is a video, by its extension.
#[must_use]
pub fn is_video(path: &Path) -> bool {
    super::list::is_video(path)
}

/// The lines of a list with their numbers from 1, without empty lines, comments (`# `) and a byte-order mark.
///
/// # Errors
/// `Io` when it cannot be read; `Data` when it is no regular file or too long; `Format` when it is no UTF-8 text.
pub fn lines_of_list(list: &Path) -> Result<Vec<(u64, String)>> {
    super::list::lines_of(list)
}

/// One video of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Source of its frames.
    pub source: Source,
    /// Index into [`Dataset::classes`]; `None` in a data set without labels.
    pub label: Option<usize>,
    /// A name for messages and images, e.g. `hover/v_hover_S6_c00.mp4`.
    pub name: String,
}

/// Part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// Held out.
    Test,
}

impl Split {
    /// `train` or `test`.
    #[must_use]
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
    /// Names of the classes, indexed by labels; none in a data set without labels. Both splits have the same.
    pub classes: Vec<String>,
    /// The videos, in the order of the list or sorted by path.
    pub items: Vec<Item>,
    /// Which split this is.
    pub split: Split,
    /// The procedural videos that sources [`Source::Procedural`] refer to.
    pub procedural: Option<ProceduralSpec>,
    /// Messages for the user, one sentence each: classes with one video or none, duplicate videos, clips of one
    /// recording in both splits, files that were found and are not used.
    pub warnings: Vec<String>,
}

/// What a data set is read from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// A folder, a list or a video, as for [`Splits::open`].
    pub data: &'a Path,
    /// With a list as `data`, that of the test videos.
    pub test: Option<&'a Path>,
    /// The number of one of the splits of UCF101 or HMDB51; `None` for the first.
    pub split: Option<u64>,
}

impl Input<'_> {
    /// Reads it like [`Splits::open`].
    ///
    /// # Errors
    /// As [`Splits::open`]; `Data` when there is no such split.
    pub fn open(self) -> Result<Splits> {
        layout::open(self)?.into_splits(self.data, &mut On::Refuse)
    }

    /// Reads it like [`Splits::open`], and `tell`s each problem for which that would refuse it or warn. Videos with
    /// such problems are left out, where something else is left to be looked at. Nothing is decoded.
    ///
    /// # Errors
    /// As [`Splits::open`], for all that is no [`Problem`].
    pub fn inspect(self, mut tell: impl FnMut(Problem)) -> Result<Splits> {
        layout::open(self)?.into_splits(self.data, &mut On::Tell(&mut tell))
    }
}

/// A training and a test set, with their origin.
#[derive(Debug, Clone)]
pub struct Splits {
    /// For training.
    pub train: Dataset,
    /// Held out.
    pub test: Dataset,
    /// One sentence for the summary: the detected layout and the origin of the split.
    pub layout: String,
}

impl Dataset {
    pub(super) fn new(split: Split, classes: Vec<String>, items: Vec<Item>) -> Self {
        let mut count = vec![0usize; classes.len()];
        for label in items.iter().filter_map(|item| item.label) {
            count[label] += 1;
        }
        let warnings = count.iter().zip(&classes).filter_map(|(&n, class)| match n {
            0 => Some(format!("class {class} has no {} video", split.name())),
            1 => Some(format!("class {class} has a single {} video", split.name())),
            _ => None,
        });
        Self { warnings: warnings.collect(), classes, items, split, procedural: None }
    }

    /// All videos of a list, parsed like [`Splits::open`], without a split.
    ///
    /// # Errors
    /// Those of [`Splits::open`].
    pub fn open(list: &Path) -> Result<Self> {
        let found = layout::plain(list, None)?;
        Ok(Found { test: Some(Vec::new()), ..found }.into_splits(list, &mut On::Refuse)?.train)
    }

    /// Number of videos.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no video.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The recording that each video is a clip of, by the names of public data sets (`…_g01_c02`) and words such as
    /// `_part2`; `None` where a name says nothing of it. Clips of one recording are not independent.
    #[must_use]
    pub fn recordings(&self) -> Vec<Option<String>> {
        let class = |item: &Item| item.label.map_or("", |label| self.classes[label].as_str());
        self.items.iter().map(|item| origin::recording(&item.name, class(item))).collect()
    }

    /// Whether the videos have labels: all have, or none has.
    #[must_use]
    pub fn is_labelled(&self) -> bool {
        !self.classes.is_empty()
    }

    /// The label of each video; `None` in a data set without labels.
    #[must_use]
    pub fn labels(&self) -> Option<Vec<usize>> {
        self.items.iter().map(|item| item.label).collect::<Option<_>>().filter(|_| self.is_labelled())
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
                Item { source: Source::Procedural(i), label: Some(label), name: format!("{}/{i:05}", classes[label]) }
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

    /// Reads a data set from `path`, which is one of these:
    ///
    /// 1. a list file for training, and `test` a second one for testing, of lines `path label`, with commas, tabs, semicolons or
    ///    blanks between them (fields that hold one are quoted, as in CSV), or `path frames label`, or with a header that
    ///    names its columns. Paths are relative to the list's folder. Without `test` a part of the videos is held out;
    /// 2. a folder with `trainlist01.txt`, `testlist01.txt` and optionally `classInd.txt` (UCF101's lists) in it, anywhere below
    ///    it, or beside it in `ucfTrainTestlist`; the videos are anywhere below. Split 01 is used; with the list
    ///    `trainlist02.txt` as `path`, or [`Input::split`], split 02;
    /// 3. the same with HMDB51's lists, `<class>_test_split1.txt` in `testTrainMulti_7030_splits`;
    /// 4. a folder with `train.csv` and `test.csv` (or `val.csv`, or `.txt`) of lines as in 1;
    ///    Or Something-Something v2's lists in JSON, `something-something-v2-train.json` and `…-validation.json`, in it or in
    ///    `labels`, with the videos below the lists or in `20bn-something-something-v2` beside them;
    /// 5. a folder with `train` and `test` (or `val`) folders of class folders;
    /// 6. a folder of class folders, of which a part is held out;
    /// 7. videos without labels: a folder with all videos directly in it, a list of paths alone (or Kinetics' list without
    ///    labels), or a single video. There is no test set, and all videos are for training.
    ///
    /// A video is a file or a folder of frames. Folders of flow, masks or depth beside the frames are left out, by
    /// their names, also where they are a tree of their own (`masks/class/video` beside `rgb/class/video`). So are the
    /// pictures in the output folders of this project's programs. In class folders, a video that is there as a file and
    /// as frames, by its name and class (`class/video.mp4` or `videos/class/video.mp4`, and `frames/class/video`), is
    /// used once, by its frames; two folders of videos or frames by their names, such as `rgb_80` and `rgb_240`, with
    /// the same videos below them, or in the folder of one video, are refused. If all labels are numbers, they are compared as numbers (`1` and `01`
    /// are one class), otherwise as text.
    ///
    /// A quarter of the recordings of each class is held out, by a hash of their names, so that clips of one recording
    /// are never in both splits. Names identify a recording by the rules of UCF101 (`…_g01_c02`), HMDB51
    /// (`…_f_cm_np1_ba_bad_0`) and Kinetics (`id_000010_000020`), by `_c01`, `_part2` and similar, and by a number at
    /// the end if that leaves several recordings in a class. Files with the same bytes stay together too, and so do
    /// folders with as many frames of which a few, from the first to the last, have the same bytes.
    ///
    /// # Errors
    /// `Io` when something cannot be read; `Format` with the line number for an invalid or ambiguous line; `Data` when
    /// there is nothing to train on, a list names missing files (the first and their number), a file has two labels, a
    /// file is in both splits, no class of the test videos is one of the training videos, or some videos have labels and
    /// others have none.
    pub fn open(path: &Path, test: Option<&Path>) -> Result<Self> {
        Input { data: path, test, split: None }.open()
    }
}

/// Result of reading a layout: videos with class names, before classes are numbered and videos held out.
#[derive(Default)]
struct Found {
    /// Order of the classes if the layout gives one; otherwise they are sorted.
    classes: Option<Vec<String>>,
    train: Vec<Labelled>,
    /// `None` when the layout has no test part.
    test: Option<Vec<Labelled>>,
    layout: String,
    warnings: Vec<String>,
    /// What the lists name and is not there.
    lacking: Vec<Lacking>,
}

/// A video with the name of its class, if it has a label.
#[derive(Debug, Clone)]
struct Labelled {
    source: Source,
    class: Option<String>,
    name: String,
    /// The list that names it, and the line.
    line: Option<(Arc<Path>, u64)>,
}

impl Labelled {
    /// The name of its class; empty without a label.
    fn class(&self) -> &str {
        self.class.as_deref().unwrap_or_default()
    }

    /// Where it is named, for messages.
    fn place(&self) -> String {
        match &self.line {
            Some((list, line)) => format!("{} in line {line} of {}", self.name, list.display()),
            None => self.name.clone(),
        }
    }
}

impl Found {
    fn into_splits(self, path: &Path, on: &mut On<'_>) -> Result<Splits> {
        let Found { classes, mut train, test, mut layout, mut warnings, lacking } = self;
        for list in lacking {
            warnings.extend(list.settle(on)?);
        }
        if train.is_empty() {
            return Err(Error::data(path, "there is no training video"));
        }
        let [bare, bare_test] =
            [Some(&train), test.as_ref()].map(|videos| videos.into_iter().flatten().any(|v| v.class.is_none()));
        refuse_unlabelled_test(path, bare, bare_test, test.as_ref().is_some_and(|test| !test.is_empty()))?;
        let mut test = if bare { Some(Vec::new()) } else { test };
        let classes = classes.filter(|_| !bare);
        if bare {
            layout += "; the videos have no labels";
        } else if classes.is_none() {
            warnings.extend(number_classes(train.iter_mut().chain(test.iter_mut().flatten())));
        }
        let mut once = |videos: Vec<Labelled>, on: &mut On<'_>| -> Result<Vec<Labelled>> {
            let (videos, warning) = twins::once(path, videos, on)?;
            warnings.extend(warning);
            Ok(videos)
        };
        train = once(train, on)?;
        test = test.map(|test| once(test, on)).transpose()?;
        if let Some(test) = &test {
            twins::refuse_shared(path, &train, test, on)?;
        }
        let same = twins::same_bytes(train.iter().chain(test.iter().flatten()))?;
        warnings.extend(twins::warnings(&same, &train, test.as_deref().unwrap_or_default(), on));
        let test = match test {
            Some(test) => {
                warnings.extend(origin::shared(&train, &test));
                test
            }
            None => {
                let pairs: Vec<_> = same.iter().flat_map(|set| set.windows(2).map(|w| (w[0], w[1]))).collect();
                let (held, odd) = origin::hold_out(&train, &pairs);
                warnings.extend(odd);
                layout += "; about a quarter of the recordings of each class, by a hash of their names, is held out for testing";
                let mut held = held.into_iter();
                let (test, kept) = train.into_iter().partition(|_| held.next() == Some(true));
                train = kept;
                test
            }
        };
        problems::classes_of_one_split(path, &train, &test, on)?;
        let classes = classes.unwrap_or_else(|| sorted_classes(train.iter().chain(&test)));
        let number: BTreeMap<&str, usize> = classes.iter().enumerate().map(|(i, c)| (c.as_str(), i)).collect();
        let items = |videos: Vec<Labelled>| -> Result<Vec<Item>> {
            let item = |v: Labelled| match v.class.as_ref().map(|class| (class, number.get(class.as_str()))) {
                Some((class, None)) => {
                    Err(Error::data(path, format!("{} has class {class}, which the list of classes lacks", v.name)))
                }
                label => Ok(Item { source: v.source, label: label.and_then(|(_, n)| n.copied()), name: v.name }),
            };
            videos.into_iter().map(item).collect()
        };
        let (train, test) = (items(train)?, items(test)?);
        let mut train = Dataset::new(Split::Train, classes.clone(), train);
        train.warnings.splice(0..0, warnings);
        Ok(Splits { train, test: Dataset::new(Split::Test, classes, test), layout })
    }
}

/// Refuses test videos where training or test videos have no labels.
fn refuse_unlabelled_test(path: &Path, train: bool, test: bool, is_test: bool) -> Result<()> {
    let who = match (train, test) {
        (true, true) => "the training videos and the test videos have",
        (true, false) => "the training videos have",
        (false, true) => "the test videos have",
        (false, false) => return Ok(()),
    };
    let what =
        format!("{who} no labels, and testing is to tell classes apart: give both labels, or training videos alone");
    if is_test { Err(Error::data(path, what)) } else { Ok(()) }
}

/// If all classes are numbers, normalises their spelling: `01` to `1`. Reports if there were several, and if classes
/// differ only in spelling.
fn number_classes<'a>(videos: impl Iterator<Item = &'a mut Labelled>) -> Option<String> {
    let mut videos: Vec<&mut Labelled> = videos.collect();
    let numbers: Option<Vec<u64>> = videos.iter().map(|v| v.class().parse().ok()).collect();
    let plain: Vec<String> = match &numbers {
        Some(numbers) => numbers.iter().map(u64::to_string).collect(),
        None => {
            let plain = |c: &str| c.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
            videos.iter().map(|v| plain(v.class())).collect()
        }
    };
    let mut spelling: BTreeMap<&str, &str> = BTreeMap::new();
    let odd = videos.iter().zip(&plain).find_map(|(v, plain)| {
        let first = *spelling.entry(plain).or_insert(v.class());
        (first != v.class()).then(|| (first.to_owned(), v.class().to_owned()))
    });
    let warning = odd.map(|(a, b)| match numbers {
        Some(_) => format!("the labels {a} and {b} are one class: all labels are numbers"),
        None => format!("the classes `{a}` and `{b}` are two, and differ in spelling alone"),
    });
    if numbers.is_some() {
        videos.iter_mut().zip(plain).for_each(|(v, plain)| v.class = Some(plain));
    }
    warning
}

/// Class names in order: by value if all are numbers, otherwise as text.
fn sorted_classes<'a>(videos: impl Iterator<Item = &'a Labelled>) -> Vec<String> {
    let mut classes: Vec<String> = videos.filter_map(|v| v.class.clone()).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.iter().all(|c| c.parse::<u64>().is_ok()) {
        classes.sort_by_key(|c| c.parse::<u64>().ok());
    }
    classes
}
