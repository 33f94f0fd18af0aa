//! The cache: each video is decoded, resized and its flow computed once, in packed files that are memory-mapped for
//! use.
//!
//! A video has up to three files: frames (`.tbv`), flow (`.tbf`), motion maps and scores (`.tbm`). Each is named by a
//! hash of everything it depends on. For frames, that is path, size and modification time of the source and the
//! decoding settings; for flow, additionally how it is computed or where it comes from; for maps, additionally their
//! settings; and for all, the format version. Changed inputs therefore lead to other files, never to old ones. Existing
//! files serve every run: frames decoded for one run get their flow from the cache when another run needs it.
//!
//! Files are written under a temporary name, synced and renamed: a file with its final name is complete and is never
//! modified. Building can be stopped or killed at any time and resumes where it was. Each file has checksums; a damaged
//! file is created again. [`list`] lists the content of a cache, and which files nothing will use again.

mod build;
mod foresee;
mod inventory;
pub(super) mod make;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use foresee::Foreseen;
pub use inventory::{Entry, list, remove, verify};

use build::Build;

pub use super::lock::Holder;
use super::lock::Use;
use super::pack::{Pack, Verify};
pub use super::packed::Kind;
pub use super::view::View;
use super::{ClipSpec, Dataset, Decode, Ffmpeg, Split, maps};
use crate::error::{Error, Result};
use crate::flow::maps::{MapSpec, Maps};
use crate::flow::{Flow, Gray};

/// What the cache holds.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheSpec {
    /// How videos are decoded.
    pub decode: Decode,
    /// Which flow is stored; `None` stores frames only.
    pub motion: Option<MotionSpec>,
    /// Which motion maps and scores are computed from the flow; `None` for none.
    pub maps: Option<MapSpec>,
}

/// Source of flow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FlowSource {
    /// Computed by [`Builder::flow`].
    #[default]
    TvL1,
    /// Computed elsewhere: for each video, this folder has a subfolder with the video's name, with or without
    /// extension, with one field less than the video has frames (or as many, the last one repeated). It holds `.flo`
    /// files, or 8-bit images `x_00001.jpg` and `y_00001.jpg`, `flow_x_…` and `flow_y_…`, or folders `x` and `y` of
    /// them, in which 128 is no motion and 6.375 levels are a pixel. Fields have the size of the video or of its cached
    /// frames. A video whose flow does not match is skipped like an unreadable one.
    Folder(PathBuf),
}

/// Which flow fields the cache stores.
#[derive(Debug, Clone, PartialEq)]
pub struct MotionSpec {
    /// Name and all parameters of the computation, e.g. the `Debug` text of its parameter struct: when it changes, flow
    /// is computed again. Flow from a folder has none.
    pub settings: String,
    /// Source of the fields.
    pub source: FlowSource,
    /// Fields start at every `every`-th frame.
    pub every: usize,
    /// Fields point to the frame `gap` later.
    pub gap: usize,
}

/// Computes the flows of pairs of images of one size, each from the first to the second.
pub type FlowFn<'a> = dyn Fn(&[(&Gray, &Gray)]) -> Result<Vec<Flow>> + Sync + 'a;

/// What building a cache needs.
pub struct Builder<'a> {
    /// Reads video files.
    pub ffmpeg: Ffmpeg,
    /// Computes flow; required with [`FlowSource::TvL1`]. Runs in a rayon pool of one thread: work is parallel over
    /// videos, not over rows.
    pub flow: Option<&'a FlowFn<'a>>,
    /// It is given at most so many pairs at once, all of one video. Between two calls the stop flag is looked at.
    pub pairs: usize,
    /// Number of videos processed in parallel.
    pub threads: usize,
    /// Whether existing frames and flow are verified with their checksums (headers, sizes and maps always are). Damaged
    /// files are created again. Verification reads every byte once, at some gigabytes per second and core if the disk
    /// is fast enough.
    pub verify: bool,
    /// Stop flag, set from another thread.
    pub stop: &'a AtomicBool,
    /// Called after each video, for each damaged file, and periodically while waiting for another process; one call at
    /// a time.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// Progress of building.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Videos that are in the cache.
    pub done: usize,
    /// Of these, the ones that were complete before.
    pub reused: usize,
    /// Videos that could not be read.
    pub failed: usize,
    /// All videos.
    pub total: usize,
    /// The process that is building in this folder, while waiting for it.
    pub waiting: Option<Holder>,
    /// Set in the call that reports a damaged file: which file and how, in one sentence. It is created again.
    pub damaged: Option<String>,
}

/// Result of building a cache.
#[derive(Debug, Default)]
pub struct Report {
    /// Videos for which something was created now.
    pub built: usize,
    /// Videos that were complete before.
    pub reused: usize,
    /// Videos decoded now.
    pub decoded: usize,
    /// Videos whose flow was created now.
    pub flowed: usize,
    /// Videos whose maps were created now.
    pub mapped: usize,
    /// Files that were damaged and created again, one sentence each.
    pub damaged: Vec<String>,
    /// Videos that could not be read: index, name, reason. The data set keeps them; [`Cache::get`] refuses them.
    pub failed: Vec<(usize, String, String)>,
}

/// The packed videos of a data set, in its order.
#[derive(Debug, Clone)]
pub struct Cache {
    store: Store,
}

/// Where the videos are.
#[derive(Debug, Clone)]
enum Store {
    /// In files of their own, below a folder.
    Files {
        dir: PathBuf,
        /// The files of each video; `None` where the video could not be read.
        names: Vec<Option<Names>>,
        /// Prevents the files from being removed, where possible.
        #[expect(dead_code, reason = "its lock is what counts")]
        used: Option<Arc<Use>>,
    },
    /// In a packed folder: its videos from `first` on, those that can be read, and what maps are made of their flow.
    Packed { pack: Arc<Pack>, first: u64, there: Vec<bool>, maps: Option<MapSpec> },
}

/// Hashes that name the files of a video.
#[derive(Debug, Clone, Copy, Default)]
struct Names {
    pub frames: u64,
    pub flow: Option<u64>,
    pub maps: Option<u64>,
}

impl Cache {
    /// Brings all videos of `data` into the cache in folder `dir`.
    ///
    /// # Errors
    /// `Stopped` when [`Builder::stop`] was set; `Io` when a file cannot be written (a full disk, a folder without
    /// permission), with no partial file left; `Program` when video files must be read and `ffmpeg` is absent; `Data`,
    /// with the [name of the split](crate::video::Split::name) for a path, when no video at all can be read; `Param` for impossible settings. A video that cannot be read is skipped, unless
    /// [the machine failed](Error::is_of_the_machine): then that error ends it, finished files stay, and building goes
    /// on with them the next time.
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

    /// The videos of `split` in a packed folder, for runs that need what `spec` says. With `verify`, all their data is read and
    /// compared with its checksums. Maps are not packed: they are computed from the flow whenever they are asked for.
    ///
    /// # Errors
    /// `Data` when the folder was packed with other settings, or none of its videos can be used; `Stopped` when `stop` was set;
    /// `Io` when files cannot be read. Videos without data, and those in damaged files, are in [`Report::failed`].
    pub fn packed(
        pack: &Arc<Pack>,
        split: Split,
        spec: &CacheSpec,
        verify: Option<Verify<'_>>,
    ) -> Result<(Self, Report)> {
        pack.expect(spec)?;
        let range = pack.range(split);
        let looked = pack.look(range.clone(), verify)?;
        let mut report = Report { damaged: looked.damaged, ..Report::default() };
        let there: Vec<bool> = looked.why_not.iter().map(Option::is_none).collect();
        for (i, why) in looked.why_not.into_iter().enumerate() {
            match why {
                None => report.reused += 1,
                Some(why) => report.failed.push((i, pack.name(range.start + i as u64)?.to_owned(), why)),
            }
        }
        if let (0, Some((_, name, why))) = (report.reused, report.failed.first()) {
            let what = format!(
                "none of its {} videos for {}ing can be used; the first, {name}: {why}",
                there.len(),
                split.name()
            );
            return Err(Error::data(pack.dir(), what));
        }
        let store = Store::Packed { pack: pack.clone(), first: range.start, there, maps: spec.maps.clone() };
        Ok((Self { store }, report))
    }

    /// Number of videos, unreadable ones included: indices are those of the data set.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.store {
            Store::Files { names, .. } => names.len(),
            Store::Packed { there, .. } => there.len(),
        }
    }

    fn is_usable(&self, i: usize) -> bool {
        match &self.store {
            Store::Files { names, .. } => names.get(i).is_some_and(Option::is_some),
            Store::Packed { there, .. } => there.get(i).copied().unwrap_or(false),
        }
    }

    /// Whether there is no video.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Indices of the videos that could be read.
    #[must_use]
    pub fn usable(&self) -> Vec<usize> {
        (0..self.len()).filter(|&i| self.is_usable(i)).collect()
    }

    /// Indices of the videos that are shorter than the clip, which [`Short::Refuse`](crate::video::Short::Refuse) would refuse and
    /// [`Short::Repeat`](crate::video::Short::Repeat) would repeat.
    ///
    /// # Errors
    /// Those of [`Cache::get`].
    pub fn shorter_than(&self, clip: &ClipSpec) -> Result<Vec<usize>> {
        clip.check()?;
        let mut short = Vec::new();
        for i in self.usable() {
            let (frames, fps) = self.length(i)?;
            if clip.exceeds(frames, fps) {
                short.push(i);
            }
        }
        Ok(short)
    }

    /// Maps video `i` into memory. Headers and sizes are checked; the data is verified when building, with
    /// [`Builder::verify`].
    ///
    /// # Errors
    /// `Param` when there is no video `i`, or it could not be read when the cache was built; `Io` or `Format` when one
    /// of its files was removed or damaged since.
    pub fn get(&self, i: usize) -> Result<View> {
        self.expect(i)?;
        match &self.store {
            Store::Files { dir, names, .. } => {
                let names = names[i].unwrap_or_default();
                let file = |kind, hash| (file_of(dir, kind, hash), hash);
                View::open(file(Kind::Frames, names.frames), names.flow.map(|hash| file(Kind::Flow, hash)))
            }
            Store::Packed { pack, first, .. } => pack.get(first + i as u64),
        }
    }

    fn expect(&self, i: usize) -> Result<()> {
        if self.is_usable(i) {
            return Ok(());
        }
        let rule = format!("only {} of {} videos are in the cache", self.usable().len(), self.len());
        Err(Error::param("cache", "video", i, rule))
    }

    /// Number of frames and frame rate of video `i`. Of a packed video its file is not opened.
    ///
    /// # Errors
    /// Those of [`Cache::get`].
    pub fn length(&self, i: usize) -> Result<(usize, f64)> {
        self.expect(i)?;
        match &self.store {
            Store::Files { .. } => self.get(i).map(|view| (view.len(), view.fps())),
            Store::Packed { pack, first, .. } => pack.length(first + i as u64),
        }
    }

    /// Maps and scores of video `i`; `None` if the cache was built without.
    ///
    /// # Errors
    /// `Io` or `Format` when their file was removed or damaged since.
    pub fn maps(&self, i: usize) -> Result<Option<Maps>> {
        match &self.store {
            Store::Files { dir, names, .. } => {
                let hash = names.get(i).copied().flatten().and_then(|names| names.maps);
                hash.map(|hash| maps::read(&file_of(dir, Kind::Maps, hash), hash)).transpose()
            }
            Store::Packed { maps, .. } => maps.as_ref().map(|spec| self.get(i)?.maps(spec)).transpose(),
        }
    }
}

impl MotionSpec {
    /// Refuses a video, called `name`, whose `frames` frames are too few for one field.
    pub(super) fn check_length(&self, name: &str, frames: usize) -> Result<()> {
        if frames > self.gap {
            return Ok(());
        }
        let what = format!("it has too few frames ({frames}) for flow to the frame {} later", self.gap);
        Err(Error::data(name, what))
    }
}

impl CacheSpec {
    pub(super) fn check(&self, with: &Builder) -> Result<()> {
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
fn file_of(dir: &Path, kind: Kind, hash: u64) -> PathBuf {
    dir.join(format!("{hash:016x}.{}", kind.extension()))
}
