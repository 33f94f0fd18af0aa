//! The cache: each video decoded, resized and flowed once, packed in files that are mapped when they are used.
//!
//! A video has up to three files: its frames (`.tbv`), its flow (`.tbf`), maps and scores of its motion (`.tbm`). Each is named
//! by a hash of everything it depends on: frames by the source's path, size and time of change and how it is decoded; flow by
//! that and how it is computed or where it comes from; maps by all of this and their settings; and each by the version of the
//! format. Changed inputs therefore lead to other files, never to old ones, and what is there serves every need: frames that
//! were decoded for one purpose get their flow from the cache when another asks for it.
//!
//! Files are written under another name, synced and renamed: what has its final name is complete, and nothing is written into
//! it again. Building can be stopped or killed at any moment and is taken up where it was. Each file has checksums; one that
//! is damaged is made again. [`list`] says what is in a cache, and which of it nothing will use again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::build::Build;
pub use super::foresee::Foreseen;
pub use super::inventory::{Entry, list, remove, verify};
pub use super::lock::Holder;
use super::lock::Use;
pub use super::packed::Kind;
pub use super::view::View;
use super::{ClipSpec, Dataset, Decode, Ffmpeg, maps};
use crate::error::{Error, Result};
use crate::flow::maps::{MapSpec, Maps};
use crate::flow::{Flow, Gray};

/// What the cache holds.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheSpec {
    /// How videos are decoded.
    pub decode: Decode,
    /// Which flow is kept; `None` keeps frames only.
    pub motion: Option<MotionSpec>,
    /// Which maps and scores are made of the flow; `None` makes none.
    pub maps: Option<MapSpec>,
}

/// Where flow comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FlowSource {
    /// It is computed, by [`Builder::flow`].
    #[default]
    TvL1,
    /// It was computed before: for each video, this folder has one of the video's name, with or without extension, of one field
    /// less than the video has frames (or as many, the last one repeated). It holds `.flo` files, or 8-bit pictures `x_00001.jpg`
    /// and `y_00001.jpg`, `flow_x_…` and `flow_y_…`, or folders `x` and `y` of them, in which 128 is rest and 6.375 levels
    /// are a pixel. Fields are as large as the video, or as its frames in the cache. A video whose flow does not fit is
    /// left out as an unreadable one is.
    Folder(PathBuf),
}

/// Which flow fields the cache holds.
#[derive(Debug, Clone, PartialEq)]
pub struct MotionSpec {
    /// Name and all parameters of the computation, e.g. the `Debug` text of its parameter struct: when it changes, the
    /// flow is computed anew. Flow from a folder has none.
    pub settings: String,
    /// Where fields come from.
    pub source: FlowSource,
    /// Fields start at every `every`-th frame.
    pub every: usize,
    /// Fields lead to the frame `gap` later.
    pub gap: usize,
}

/// Computes the flow from one image to another.
pub type FlowFn<'a> = dyn Fn(&Gray, &Gray) -> Result<Flow> + Sync + 'a;

/// What building a cache works with.
pub struct Builder<'a> {
    /// Reads video files.
    pub ffmpeg: Ffmpeg,
    /// Computes flow; needed with [`FlowSource::TvL1`]. Runs in a rayon pool of one thread: videos, not rows, are
    /// what is done in parallel.
    pub flow: Option<&'a FlowFn<'a>>,
    /// Videos worked on at a time.
    pub threads: usize,
    /// Whether frames and flow that are there already are compared with their checksums (headers, sizes and maps always
    /// are). What is damaged is made again. It reads every byte once, at some gigabytes a second and core where the disk
    /// allows it.
    pub verify: bool,
    /// Set from elsewhere to stop.
    pub stop: &'a AtomicBool,
    /// Told after each video and of each damaged file, and now and then while another process is waited for; one call at a
    /// time.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// How far building has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Videos that are in the cache.
    pub done: usize,
    /// Of these, the ones of which everything was there before.
    pub reused: usize,
    /// Videos that could not be read.
    pub failed: usize,
    /// All videos.
    pub total: usize,
    /// The process that is building in this folder, while it is being waited for.
    pub waiting: Option<Holder>,
    /// In the call that tells of it: a file that is damaged and how, in one sentence. It is made again.
    pub damaged: Option<String>,
}

/// What building a cache came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Videos of which something was made now.
    pub built: usize,
    /// Videos of which everything was there before.
    pub reused: usize,
    /// Videos decoded now.
    pub decoded: usize,
    /// Videos whose flow was made now.
    pub flowed: usize,
    /// Videos whose maps were made now.
    pub mapped: usize,
    /// Files that were damaged and are made again, one sentence each.
    pub damaged: Vec<String>,
    /// Videos that could not be read: index, name, reason. The data set keeps them; [`Cache::get`] refuses them.
    pub failed: Vec<(usize, String, String)>,
}

/// The packed videos of a data set, in its order.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(super) dir: PathBuf,
    /// The files of each video; `None` where the video could not be read.
    pub(super) names: Vec<Option<Names>>,
    /// Keeps the files from being removed, where that can be.
    #[expect(dead_code, reason = "its lock is what counts")]
    pub(super) used: Option<Arc<Use>>,
}

/// Hashes that name a video's files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub frames: u64,
    pub flow: Option<u64>,
    pub maps: Option<u64>,
}

impl Cache {
    /// Brings all videos of `data` into the cache in folder `dir`.
    ///
    /// # Errors
    /// `Stopped` when [`Builder::stop`] was set; `Io` when a file cannot be written (a full disk, a folder without
    /// permission), with no partial file left; `Program` when video files must be read and `ffmpeg` is absent; `Data` when
    /// no video at all can be read; `Param` for impossible settings.
    pub fn build(dir: &Path, data: &Dataset, spec: &CacheSpec, with: &Builder) -> Result<(Self, Report)> {
        spec.check(with)?;
        Build::new(dir, data, spec, with).run()
    }

    /// What [`Cache::build`] would meet before it decodes a video: which videos cannot be used, and how long others are, as far
    /// as that can be known. Nothing is created.
    ///
    /// # Errors
    /// Those of [`Cache::build`] that it would return before it decodes a video.
    pub fn foresee(dir: &Path, data: &Dataset, spec: &CacheSpec, with: &Builder) -> Result<Foreseen> {
        spec.check(with)?;
        Build::new(dir, data, spec, with).foresee()
    }

    /// Number of videos, unreadable ones included: indices are those of the data set.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no video.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Indices of the videos that could be read.
    pub fn usable(&self) -> Vec<usize> {
        (0..self.len()).filter(|&i| self.names[i].is_some()).collect()
    }

    /// Indices of the videos that are shorter than the clip: what [`super::Short::Refuse`] would refuse and
    /// [`super::Short::Repeat`] would begin again.
    ///
    /// # Errors
    /// Those of [`Cache::get`].
    pub fn shorter_than(&self, clip: &ClipSpec) -> Result<Vec<usize>> {
        clip.check()?;
        let mut short = Vec::new();
        for i in self.usable() {
            let view = self.get(i)?;
            if clip.exceeds(view.len(), view.fps()) {
                short.push(i);
            }
        }
        Ok(short)
    }

    /// Maps video `i`. Headers and sizes are checked; the numbers are when the cache is built, with [`Builder::verify`].
    ///
    /// # Errors
    /// `Param` when there is no video `i`, or it could not be read when the cache was built; `Io` or `Format` when a file of
    /// it has gone or was damaged since.
    pub fn get(&self, i: usize) -> Result<View> {
        let Some(Some(names)) = self.names.get(i) else {
            let rule = format!("only {} of {} videos are in the cache", self.usable().len(), self.len());
            return Err(Error::param("cache", "video", i, rule));
        };
        let file = |kind, hash| (file_of(&self.dir, kind, hash), hash);
        View::open(file(Kind::Frames, names.frames), names.flow.map(|hash| file(Kind::Flow, hash)))
    }

    /// Maps and scores of video `i`; `None` where the cache was built without.
    ///
    /// # Errors
    /// `Io` or `Format` when their file has gone or was damaged since.
    pub fn maps(&self, i: usize) -> Result<Option<Maps>> {
        let hash = self.names.get(i).copied().flatten().and_then(|names| names.maps);
        hash.map(|hash| maps::read(&file_of(&self.dir, Kind::Maps, hash), hash)).transpose()
    }
}

impl MotionSpec {
    /// Refuses a video, called `name`, whose `frames` frames are too few for one field.
    pub(super) fn check_length(&self, name: &str, frames: usize) -> Result<()> {
        if frames > self.gap {
            return Ok(());
        }
        let what = format!("its {frames} frames are too few for flow to the frame {} later", self.gap);
        Err(Error::data(name, what))
    }
}

impl CacheSpec {
    fn check(&self, with: &Builder) -> Result<()> {
        let bad = |name, rule: &str| Err(Error::param("cache", name, 0, rule));
        self.decode.check()?;
        match &self.motion {
            Some(m) if m.every == 0 => bad("every", "it must be at least 1 frame"),
            Some(m) if m.gap == 0 => bad("gap", "it must be at least 1 frame"),
            Some(m) if m.source == FlowSource::TvL1 && with.flow.is_none() => {
                bad("flow", "flow is to be kept, and nothing computes it")
            }
            Some(m) if m.source != FlowSource::TvL1 && (m.gap != 1 || self.decode.fps.is_some()) => bad(
                "flow",
                "flow from a folder leads from each frame of the video to the next: gap 1, and the video's own rate",
            ),
            None if self.maps.is_some() => bad("maps", "maps are made of flow, and none is to be kept"),
            _ if with.threads == 0 => bad("threads", "it must be at least 1"),
            _ => self.maps.as_ref().map_or(Ok(()), MapSpec::check),
        }
    }
}

/// The file of `kind` that is named by `hash`.
pub(super) fn file_of(dir: &Path, kind: Kind, hash: u64) -> PathBuf {
    dir.join(format!("{hash:016x}.{}", kind.extension()))
}
