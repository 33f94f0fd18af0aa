//! What is wrong with the videos of a data set: all of it, where opening the data set refuses the first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::list::Malformed;
use super::messages::{absent_of_names, refuse_absent, refuse_absent_of_names};
use super::{Labelled, Split};
use crate::error::{Error, Result};

/// A kind of [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// A line of a list that cannot be read.
    Malformed,
    /// A list names it, and there is no such file.
    Missing,
    /// One file with two labels.
    TwoLabels,
    /// One file for training and for testing.
    BothSplits,
    /// The same file again, or another with the same bytes.
    Copy,
    /// A class of one split only.
    OneSplit,
    /// It cannot be read.
    Unreadable,
    /// It is shorter than a clip.
    Short,
}

impl ProblemKind {
    /// A word or two for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ProblemKind::Malformed => "malformed line",
            ProblemKind::Missing => "missing",
            ProblemKind::TwoLabels => "two labels",
            ProblemKind::BothSplits => "in both splits",
            ProblemKind::Copy => "copy",
            ProblemKind::OneSplit => "class of one split",
            ProblemKind::Unreadable => "unreadable",
            ProblemKind::Short => "short",
        }
    }
}

/// A problem with a video of a data set, or with a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// The name of the video or of the class, or the text of a malformed line.
    pub name: String,
    /// The list that names the video, and the line.
    pub line: Option<(PathBuf, u64)>,
    /// What is wrong, in words that follow the name.
    pub what: String,
    /// Whether a data set with it is refused. With others it is used, and they are warned of.
    pub refused: bool,
}

impl Problem {
    pub(super) fn of(kind: ProblemKind, video: &Labelled, what: String, refused: bool) -> Problem {
        let line = video.line.as_ref().map(|(list, line)| (list.to_path_buf(), *line));
        Problem { kind, name: video.name.clone(), line, what, refused }
    }
}

/// What is done about problems.
pub(super) enum On<'a> {
    /// The first that matters is the error.
    Refuse,
    /// Each is told.
    Tell(&'a mut dyn FnMut(Problem)),
}

/// What is wrong with a list: its malformed lines, and the videos it names that are not there or no files.
pub(super) struct Lacking {
    pub list: Arc<Path>,
    pub total: usize,
    pub malformed: Vec<Malformed>,
    pub absent: Vec<(u64, String)>,
    /// FIFOs, devices and the like, and how they are refused.
    pub irregular: Vec<(u64, String, Error)>,
    /// For lists that name files wherever they are, of which some may be absent: how the files are called.
    pub names: Option<&'static str>,
}

impl Lacking {
    /// Refuses or tells them; returns a warning where they may be absent.
    pub fn settle(self, on: &mut On<'_>) -> Result<Option<String>> {
        let Lacking { list, total, malformed, absent, irregular, names } = self;
        match on {
            On::Tell(tell) => {
                let mut tell = |kind, line, name, what, refused| {
                    tell(Problem { kind, name, line: Some((list.to_path_buf(), line)), what, refused });
                };
                for Malformed { number, text, why } in malformed {
                    tell(ProblemKind::Malformed, number, text, why, true);
                }
                for (line, name) in absent {
                    tell(ProblemKind::Missing, line, name, "is not there".to_owned(), names.is_none());
                }
                for (line, name, e) in irregular {
                    tell(ProblemKind::Unreadable, line, name, format!("cannot be read: {e}"), true);
                }
                Ok(None)
            }
            On::Refuse => match names {
                _ if !malformed.is_empty() => Err(malformed[0].error(&list)),
                _ if !irregular.is_empty() => irregular.into_iter().next().map_or(Ok(None), |(_, _, e)| Err(e)),
                None => refuse_absent(&list, total, &absent).map(|()| None),
                Some(_) if absent.len() < total => Ok(absent_of_names(&list, total, &absent)),
                Some(names) => refuse_absent_of_names(&list, total, &absent, names).map(|()| None),
            },
        }
    }
}

/// Tells the classes that one split lacks, or refuses test videos of which no class is one of the training videos.
pub(super) fn classes_of_one_split(path: &Path, train: &[Labelled], test: &[Labelled], on: &mut On<'_>) -> Result<()> {
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (side, videos) in [train, test].into_iter().enumerate() {
        videos.iter().for_each(|v| counts.entry(v.class()).or_default()[side] += 1);
    }
    let (Some(a), Some(b)) = (train.first(), test.first()) else { return Ok(()) };
    match on {
        On::Tell(tell) => {
            for (class, count) in counts.into_iter().filter(|(_, count)| count.contains(&0)) {
                let of = if count[0] == 0 { Split::Test } else { Split::Train };
                let what = format!("is a class of {} {} videos alone", count[0] + count[1], of.name());
                let (name, refused) = (class.to_owned(), of == Split::Test);
                tell(Problem { kind: ProblemKind::OneSplit, name, line: None, what, refused });
            }
            Ok(())
        }
        On::Refuse if counts.values().all(|count| count.contains(&0)) => {
            let what = format!(
                "no class of the test videos (the first is {}) is one of the training videos (the first is {})",
                b.class(),
                a.class()
            );
            Err(Error::data(path, what))
        }
        On::Refuse => Ok(()),
    }
}
