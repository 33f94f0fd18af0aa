//! The cache: each video decoded, resized and flowed once, packed in one file that is mapped when it is used.
//!
//! A file is named by a hash of everything it depends on: the source's path, size and time of change, how it is
//! decoded, how flow is computed or where it comes from, the version of the format. Maps of the motion are a file of their own,
//! named by all of this and their settings. Changed inputs therefore lead to other files, never to
//! old ones. Files are written under another name, synced and renamed: what has its final name is complete. Building
//! can be stopped or killed at any moment and is taken up where it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use super::build::Build;
use super::dataset::fnv1a;
pub use super::packed::View;
use super::{ClipSpec, Dataset, Decode, Ffmpeg, Item, Source, flow_folder, folder, maps, packed, procedural};
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
    /// Whether the pixels of files that are there already are checked against their checksums (headers and sizes
    /// always are).
    pub verify: bool,
    /// Set from elsewhere to stop.
    pub stop: &'a AtomicBool,
    /// Told after each video, and now and then while another process is waited for; one call at a time.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// How far building has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Videos that are in the cache.
    pub done: usize,
    /// Of these, the ones that were there before.
    pub reused: usize,
    /// Videos that could not be read.
    pub failed: usize,
    /// All videos.
    pub total: usize,
    /// Whether another process is building in this folder and is being waited for.
    pub waiting: bool,
}

/// What building a cache came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Videos decoded now.
    pub built: usize,
    /// Videos that were there before.
    pub reused: usize,
    /// Videos that could not be read: index, name, reason. The data set keeps them; [`Cache::get`] refuses them.
    pub failed: Vec<(usize, String, String)>,
}

/// The packed videos of a data set, in its order.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(super) dir: PathBuf,
    /// Name of each video's file; `None` where the video could not be read.
    pub(super) names: Vec<Option<u64>>,
    /// Name of each video's file of maps, where there is one.
    pub(super) maps: Vec<Option<u64>>,
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

    /// Maps video `i`.
    ///
    /// # Errors
    /// `Param` when there is no video `i`, or it could not be read when the cache was built; `Io` or `Format` when its
    /// file has gone or was damaged since.
    pub fn get(&self, i: usize) -> Result<View> {
        let Some(Some(hash)) = self.names.get(i) else {
            let rule = format!("only {} of {} videos are in the cache", self.usable().len(), self.len());
            return Err(Error::param("cache", "video", i, rule));
        };
        View::open(&file_of(&self.dir, *hash), *hash, None, false)
    }

    /// Maps and scores of video `i`; `None` where the cache was built without.
    ///
    /// # Errors
    /// `Io` or `Format` when their file has gone or was damaged since.
    pub fn maps(&self, i: usize) -> Result<Option<Maps>> {
        let hash = self.maps.get(i).copied().flatten();
        hash.map(|hash| maps::read(&maps_of(&self.dir, hash), hash, None)).transpose()
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

    /// Everything a cached video depends on, as text.
    pub(super) fn key(&self, item: &Item, data: &Dataset) -> Result<Vec<u8>> {
        let mut key = format!("format {}\n", packed::VERSION).into_bytes();
        match &item.source {
            Source::File(path) => {
                let (path, meta) = found(path)?;
                key.extend(format!("file {} bytes, changed {}, ", meta.len(), changed(&meta)).as_bytes());
                key.extend(path.as_os_str().as_encoded_bytes());
            }
            Source::Folder(path) => {
                let frames = folder::frames(path)?;
                let (count, hash) = (frames.len(), hash_of(&frames)?);
                let (path, _) = found(path)?;
                key.extend(
                    format!("folder of {count} frames, {hash:016x}, {} fps, ", self.decode.folder_fps).as_bytes(),
                );
                key.extend(path.as_os_str().as_encoded_bytes());
            }
            Source::Procedural(i) => {
                let spec = data.procedural.as_ref().map(|s| (s.classes, s.frames, s.side, s.fps, s.seed));
                key.extend(format!("procedural {} video {i} of {spec:?}", procedural::VERSION).as_bytes());
            }
        }
        let Decode { short_side, fps, max_frames, .. } = &self.decode;
        key.extend(format!("\nshort side {short_side:?}, fps {fps:?}, at most {max_frames:?} frames").as_bytes());
        // The words of the first version of this program, so that its files are found.
        let motion = |m: &MotionSpec, settings: &str| {
            format!("Some(MotionSpec {{ settings: {settings:?}, every: {}, gap: {} }})", m.every, m.gap)
        };
        let motion = match &self.motion {
            None => "None".to_owned(),
            Some(m) => match &m.source {
                FlowSource::TvL1 => motion(m, &m.settings),
                FlowSource::Folder(root) => {
                    let dir = flow_folder::find(root, &item.name)?;
                    let files: Vec<PathBuf> = flow_folder::Files::list(&dir)?.paths().cloned().collect();
                    let (dir, _) = found(&dir)?;
                    let settings =
                        format!("{} files, {:016x}, below {}", files.len(), hash_of(&files)?, dir.to_string_lossy());
                    motion(m, &settings)
                }
            },
        };
        key.extend(format!("\nmotion {motion}\n").as_bytes());
        Ok(key)
    }
}

/// A hash of the files' names, sizes and times of change.
fn hash_of(files: &[PathBuf]) -> Result<u64> {
    let mut text = Vec::new();
    for file in files {
        let meta = fs::metadata(file).map_err(Error::io("read", file))?;
        text.extend(file.file_name().unwrap_or_default().as_encoded_bytes());
        text.extend(format!("/{}/{}/", meta.len(), changed(&meta)).as_bytes());
    }
    Ok(fnv1a(&text))
}

fn found(path: &Path) -> Result<(PathBuf, fs::Metadata)> {
    let whole = fs::canonicalize(path).map_err(Error::io("read", path))?;
    let meta = fs::metadata(&whole).map_err(Error::io("read", path))?;
    Ok((whole, meta))
}

/// Nanoseconds between 1970 and the last change.
fn changed(meta: &fs::Metadata) -> u128 {
    let time = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

pub(super) fn file_of(dir: &Path, hash: u64) -> PathBuf {
    dir.join(format!("{hash:016x}.tbv"))
}

pub(super) fn maps_of(dir: &Path, hash: u64) -> PathBuf {
    dir.join(format!("{hash:016x}.tbm"))
}
