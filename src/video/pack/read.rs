//! Reading a packed folder.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::packed::{Kind, Mapped};
use super::super::view::View;
use super::super::{CacheSpec, Dataset, Item, MotionSpec, Source, Split, Splits, workers};
use super::index::{Entry, Index};
use super::plan::PlanFile;
use super::volume::{stem, tar_of};
use crate::error::{Error, Result};

/// A packed folder with an index. Its videos are those of the training set, then those of the test set.
#[derive(Debug)]
pub struct Pack {
    dir: PathBuf,
    index: Index,
}

/// How all data of a packed folder is compared with its checksums.
#[derive(Clone, Copy)]
pub struct Verify<'a> {
    /// Number of threads that read.
    pub threads: usize,
    /// Stop flag, set from another thread.
    pub stop: &'a AtomicBool,
    /// Called with the number of videos read so far.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// What a look at the files of a packed folder found.
#[derive(Debug, Default)]
pub struct Looked {
    /// Why each of the videos cannot be used; `None` for those that can.
    pub why_not: Vec<Option<String>>,
    /// The damaged tar files, one sentence each, with the number of videos that are lost.
    pub damaged: Vec<String>,
}

impl Pack {
    /// Whether `dir` is a packed folder, complete or not.
    #[must_use]
    pub fn is_at(dir: &Path) -> bool {
        PlanFile::path(dir).exists() || Index::path(dir).exists()
    }

    /// Opens the packed folder `dir`.
    ///
    /// # Errors
    /// `Data` when its shards were not merged, or it is no packed folder; otherwise as [`Index::open`].
    pub fn open(dir: &Path) -> Result<Pack> {
        let path = Index::path(dir);
        if !path.exists() {
            let what = match PlanFile::path(dir).exists() {
                true => "this packed folder has no index yet: `pack --merge` writes it when all shards are complete",
                false => "no packed folder is here: it would have pack.json, or index.tbi",
            };
            return Err(Error::data(dir, what));
        }
        Ok(Pack { dir: dir.to_owned(), index: Index::open(&path)? })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Positions of the videos of a split.
    #[must_use]
    pub fn range(&self, split: Split) -> Range<u64> {
        let plan = &self.index.settings.plan;
        match split {
            Split::Train => 0..plan.train,
            Split::Test => plan.train..plan.videos,
        }
    }

    /// The name of video `i`.
    ///
    /// # Errors
    /// As [`Index::name`].
    pub fn name(&self, i: u64) -> Result<&str> {
        self.index.name(i)
    }

    /// The data set that was packed, with the same names, classes and order. It has an item for each video, which takes some
    /// hundred bytes; an [`Index`] alone takes none.
    ///
    /// # Errors
    /// As [`Index::entry`].
    pub fn splits(&self) -> Result<Splits> {
        let part = |split: Split| {
            let item = |i: u64| {
                let source = Source::Packed(self.index.entry(i)?.map_or(0, |entry| entry.key));
                Ok(Item { source, label: self.index.label(i)?, name: self.name(i)?.to_owned() })
            };
            let items: Result<Vec<Item>> = self.range(split).map(item).collect();
            Ok::<_, Error>(Dataset::new(split, self.index.settings.plan.classes.clone(), items?))
        };
        let layout = format!("{} videos of a packed folder", self.index.len());
        Ok(Splits { train: part(Split::Train)?, test: part(Split::Test)?, layout })
    }

    /// Refuses a run that needs other frames or flow than were packed.
    ///
    /// # Errors
    /// `Data` with the difference.
    pub fn expect(&self, spec: &CacheSpec) -> Result<()> {
        let there = self.index.settings.plan.cache();
        let (have, want) = (&there.decode, &spec.decode);
        let frames = |d: &super::super::Decode| {
            let side = d.short_side.map_or("full size".to_owned(), |side| format!("a short side of {side} pixels"));
            let fps = d.fps.map_or(String::new(), |fps| format!(", {fps} a second"));
            let most = d.max_frames.map_or(String::new(), |n| format!(", at most {n}"));
            format!("frames of {side}{fps}{most}")
        };
        let refuse = |have: String, want: String| {
            let what = format!(
                "this packed folder has {have}, and {want} is needed: another preset, or another packed folder"
            );
            Err(Error::data(&self.dir, what))
        };
        if frames(have) != frames(want) {
            return refuse(frames(have), frames(want));
        }
        let flow = |m: &MotionSpec| format!("flow every {} frames to the {} later by {}", m.every, m.gap, m.settings);
        match (&there.motion, &spec.motion) {
            (_, None) => Ok(()),
            (None, Some(want)) => refuse("no flow".into(), flow(want)),
            (Some(have), Some(want)) if have == want => Ok(()),
            (Some(have), Some(want)) if have.source == want.source => refuse(flow(have), flow(want)),
            (Some(have), Some(_)) => refuse(flow(have), "flow from a folder".into()),
        }
    }

    fn entry(&self, i: u64) -> Result<Entry> {
        let entry = self.index.entry(i)?;
        entry.ok_or_else(|| Error::data(&self.dir, format!("video {i} has no data")))
    }

    /// The path of tar file `i`, which must be one of an [`Entry`].
    pub(super) fn tar(&self, i: usize) -> PathBuf {
        let [group, part, _] = self.index.volume(i);
        tar_of(&self.dir, group, part)
    }

    /// Maps video `i`. Headers and sizes are checked; the data is not.
    ///
    /// # Errors
    /// `Param` when there is no such video; `Data` when it has no data; `Io` or `Format` when its tar file is gone or damaged.
    pub fn get(&self, i: u64) -> Result<View> {
        self.open_video(i, false)
    }

    /// Number of frames and frame rate of video `i`, from the index.
    ///
    /// # Errors
    /// `Param` when there is no such video; `Data` when it has no data.
    pub fn length(&self, i: u64) -> Result<(usize, f64)> {
        self.entry(i).map(|entry| entry.length)
    }

    pub(super) fn open_video(&self, i: u64, verify: bool) -> Result<View> {
        let entry = self.entry(i)?;
        let path = self.tar(entry.volume);
        let frames = Mapped::open_in(&path, entry.frames, Kind::Frames, verify)?;
        let (length, fps) = entry.length;
        if (frames.head.key_hash, frames.head.extents[0], frames.head.fps) != (entry.key, length, fps) {
            return Err(Error::format(&path, entry.frames[0], format!("this is not video {i} of the index")));
        }
        let mut view = View::new(frames);
        if let Some(flow) = entry.flow {
            view.set_flow(Mapped::open_in(&path, flow, Kind::Flow, verify)?, &path)?;
        }
        Ok(view)
    }

    /// Looks at the files of the videos at these positions: whether each tar file is there, with its length, and with `verify`
    /// whether all data has its checksum.
    ///
    /// # Errors
    /// `Stopped` when the flag was set; errors of the machine.
    pub fn look(&self, videos: Range<u64>, verify: Option<Verify<'_>>) -> Result<Looked> {
        // Videos of one tar file follow each other.
        let mut runs: Vec<(Option<usize>, Range<u64>)> = Vec::new();
        for i in videos.clone() {
            let volume = self.index.entry(i)?.map(|entry| entry.volume);
            match runs.last_mut() {
                Some((last, range)) if *last == volume => range.end = i + 1,
                _ => runs.push((volume, i..i + 1)),
            }
        }
        let (never, read) = (AtomicBool::new(false), AtomicU64::new(0));
        let (threads, stop) = verify.map_or((1, &never), |v| (v.threads, v.stop));
        let results = workers::each(threads, runs.len(), stop, &self.dir, |run| {
            let (volume, range) = &runs[run];
            volume.map(|volume| self.look_at(volume, range.clone(), verify, &read)).transpose()
        })?;
        let mut looked = Looked::default();
        let gaps = &self.index.settings.gaps;
        for ((volume, range), found) in runs.into_iter().zip(results) {
            let Some(found) = found.transpose()? else {
                return Err(Error::stopped(&self.dir, "the packed data was not read to its end"));
            };
            match (found, volume) {
                (Some(bad), Some(volume)) => {
                    let n = bad.iter().filter(|why| why.is_some()).count();
                    if let Some(why) = bad.iter().flatten().next() {
                        let [group, part, _] = self.index.volume(volume);
                        let videos = if n == 1 { "1 video is".to_owned() } else { format!("{n} videos are") };
                        looked.damaged.push(format!("{}.tar: {videos} lost: {why}", stem(group, part)));
                    }
                    looked.why_not.extend(bad);
                }
                _ => looked.why_not.extend(range.map(|i| {
                    let gap = gaps.binary_search_by_key(&i, |gap| gap.at).map(|at| gaps[at].why.clone());
                    Some(gap.unwrap_or_else(|_| "it was not packed".to_owned()))
                })),
            }
        }
        Ok(looked)
    }

    /// Why each of these videos of one tar file cannot be used.
    fn look_at(
        &self,
        volume: usize,
        videos: Range<u64>,
        verify: Option<Verify<'_>>,
        read: &AtomicU64,
    ) -> Result<Vec<Option<String>>> {
        let [group, part, bytes] = self.index.volume(volume);
        let path = tar_of(&self.dir, group, part);
        let all = |why: String| Ok(videos.clone().map(|_| Some(why.clone())).collect());
        match crate::files::check_regular(&path, "a packed file") {
            Ok(metadata) if metadata.len() == bytes => {}
            Ok(metadata) => {
                return all(format!("{} has {} bytes, and should have {bytes}", path.display(), metadata.len()));
            }
            Err(e) if e.is_of_the_machine() => return Err(e),
            Err(e) => return all(e.to_string()),
        }
        let Some(verify) = verify else { return Ok(videos.map(|_| None).collect()) };
        let mut bad = Vec::new();
        for i in videos {
            if verify.stop.load(Ordering::Relaxed) {
                return Err(Error::stopped(&self.dir, "the packed data was not read to its end"));
            }
            bad.push(match self.open_video(i, true) {
                Ok(_) => None,
                Err(e) if e.is_of_the_machine() => return Err(e),
                Err(e) => Some(e.to_string()),
            });
            (verify.progress)(read.fetch_add(1, Ordering::Relaxed) + 1);
        }
        Ok(bad)
    }
}
