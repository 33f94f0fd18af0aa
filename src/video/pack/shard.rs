//! Preparing one shard of a packed folder.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use half::f16;

use super::super::cache::make::Make;
use super::super::cache::{Builder, Progress};
use super::super::key::Keys;
use super::super::lock::Lock;
use super::super::packed::{Content, Kind};
use super::super::{CacheSpec, Clip, Item, MotionSpec, Source, Splits, workers};
use super::plan::{Plan, PlanFile, items, temporary};
use super::volume::{Entry, Gap, Volume, Writer, remove_volume, tar_of};
use super::{PackSpec, Shard};
use crate::error::{Error, ErrorKind, Result};

/// What a process prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Videos packed now.
    pub packed: usize,
    /// Videos that were complete before.
    pub reused: usize,
    /// Tar files of the shard.
    pub volumes: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Videos without data.
    pub gaps: Vec<Gap>,
}

/// Prepares `shard` of the packed folder `dir`: the frames, and flow if `spec` wants it, of its part of the videos. Complete
/// tar files of an earlier process are kept, so a process that was stopped or killed is started again with the same command.
///
/// Processes of different shards may run at the same time, on machines that share the folder; each locks its own shard. The
/// number of shards can be changed while none is being prepared.
///
/// # Errors
/// `Locked` when another process prepares this shard, or one of another number of shards; `Data` when the folder was begun
/// with other videos or settings; otherwise as [`Cache::build`](crate::video::Cache::build). A video that cannot be read is a
/// [gap](Report::gaps), unless the machine failed.
pub fn shard(dir: &Path, splits: &Splits, spec: &PackSpec, shard: Shard, with: &Builder) -> Result<Report> {
    spec.check()?;
    spec.cache.check(with)?;
    let plan = Plan::new(splits, spec)?;
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let _lock = begin(dir, &plan, shard, with)?;
    let groups: Vec<u64> = (shard.index..plan.groups()).step_by(shard.of as usize).collect();
    clean(dir, &groups)?;
    let total = groups.iter().map(|&g| plan.range(g)).map(|r| (r.end - r.start) as usize).sum();
    let (has_ffmpeg, progress) = (AtomicBool::new(false), Mutex::new(Progress { total, ..Progress::default() }));
    let items: Vec<&Item> = items(splits).collect();
    let work = Work { dir, plan: &plan, id: plan.id(), splits, items, spec: &spec.cache, with, progress, has_ffmpeg };
    let results = workers::each(with.threads, groups.len(), with.stop, dir, |i| work.group(groups[i]))?;
    let mut report = Report::default();
    for result in results {
        let part = result.unwrap_or_else(|| Err(work.stopped()))?;
        report.packed += part.packed;
        report.reused += part.reused;
        report.volumes += part.volumes;
        report.bytes += part.bytes;
        report.gaps.extend(part.gaps);
    }
    Ok(report)
}

/// Settles the settings of the folder and locks the shard.
fn begin(dir: &Path, plan: &Plan, shard: Shard, with: &Builder) -> Result<Lock> {
    let waiting = |holder| (with.progress)(Progress { waiting: Some(holder), ..Progress::default() });
    let _folder = Lock::take(dir, with.stop, waiting)?;
    let lock_of = |shard: Shard| dir.join(format!("shard-{}-of-{}.lock", shard.index, shard.of));
    PlanFile::settle(dir, plan, shard.of, |of| {
        let held = (0..of).map(|index| lock_of(Shard { index, of })).filter(|path| path.exists());
        held.into_iter().try_for_each(|path| {
            drop(Lock::try_take(&path)?);
            fs::remove_file(&path).map_err(Error::io("remove", &path))
        })
    })?;
    Lock::try_take(&lock_of(shard))
}

/// Removes partial files of a killed process.
fn clean(dir: &Path, groups: &[u64]) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let group = name.strip_suffix(".tmp").and_then(|name| name.split_once('-')).and_then(|(g, _)| g.parse().ok());
        if group.is_some_and(|group: u64| groups.binary_search(&group).is_ok()) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

struct Work<'a> {
    dir: &'a Path,
    plan: &'a Plan,
    id: String,
    splits: &'a Splits,
    items: Vec<&'a Item>,
    spec: &'a CacheSpec,
    with: &'a Builder<'a>,
    progress: Mutex<Progress>,
    /// Set once `ffmpeg` was found.
    has_ffmpeg: AtomicBool,
}

/// What is packed of a video.
struct Made {
    keys: Keys,
    clip: Clip,
    planes: Vec<f16>,
}

impl Made {
    /// Its files: the frames, and the flow if there is `motion`.
    fn files(&self, motion: Option<&MotionSpec>) -> std::io::Result<Vec<Entry<'_>>> {
        let Made { keys, clip: Clip { t, h, w, rgb, fps }, planes } = self;
        let frames = Content { extents: [*t, *h, *w, 0, 0, 0], fps: *fps, made_of: 0, numbers: rgb };
        let mut files = vec![Entry::new(Kind::Frames, &keys.frames, frames)?];
        if let (Some(key), Some(spec)) = (&keys.flow, motion) {
            let extents = [planes.len() / (2 * h * w), *h, *w, spec.every, spec.gap, 0];
            let numbers = bytemuck::cast_slice(planes);
            let flow = Content { extents, fps: *fps, made_of: files[0].sum, numbers };
            files.push(Entry::new(Kind::Flow, key, flow)?);
        }
        Ok(files)
    }
}

impl Work<'_> {
    fn group(&self, group: u64) -> Result<Report> {
        let range = self.plan.range(group);
        let (mut at, mut part, mut report) = (range.start, 0, Report::default());
        let mut add = |volume: Volume, new: bool| {
            let count = if new { &mut report.packed } else { &mut report.reused };
            *count += volume.videos.len();
            report.volumes += 1;
            report.bytes += volume.bytes;
            report.gaps.extend(volume.gaps);
        };
        while at < range.end {
            match Volume::read(self.dir, &self.id, group, part) {
                Ok(volume)
                    if volume.first == at && volume.end <= range.end && volume.last == (volume.end == range.end) =>
                {
                    let (there, gaps) = (volume.videos.len(), volume.gaps.len());
                    self.tell(|p| {
                        (p.done, p.reused, p.failed) = (p.done + there, p.reused + there, p.failed + gaps);
                    });
                    (at, part) = (volume.end, part + 1);
                    add(volume, false);
                }
                Err(e) if e.is_of_the_machine() => return Err(e),
                // It is not there, or it is damaged: from here on all are made again.
                _ => break,
            }
        }
        let mut next = None;
        while at < range.end {
            let volume = self.volume([group, part], at..range.end, &mut next);
            // A full disk is not left full. The error is the one to report.
            let volume = volume.inspect_err(|_| drop(fs::remove_file(temporary(&tar_of(self.dir, group, part)))))?;
            (at, part) = (volume.end, part + 1);
            add(volume, true);
        }
        // If videos can be read now that could not before, there may be fewer tar files.
        while remove_volume(self.dir, group, part).map_err(Error::io("remove", tar_of(self.dir, group, part)))? {
            part += 1;
        }
        Ok(report)
    }

    /// Makes a tar file of the first of the videos at these positions. `next` is the first video, if it has been made, and
    /// becomes that which did not fit any more.
    fn volume(&self, name: [u64; 2], videos: Range<u64>, next: &mut Option<Made>) -> Result<Volume> {
        let mut writer = Writer::create(self.dir, &self.id, name, videos.start)?;
        for at in videos {
            if self.with.stop.load(Ordering::Relaxed) {
                return Err(self.stopped());
            }
            let item = self.items[at as usize];
            let label = item.label.map(|label| label as u64);
            let made = match next.take() {
                Some(made) => Ok(made),
                None => self.make(item),
            };
            match made {
                Ok(made) => {
                    let files = made.files(self.spec.motion.as_ref()).map_err(Error::io("pack", &item.name))?;
                    let lengths = files.iter().map(Entry::bytes);
                    if !writer.is_empty() && writer.bytes_with(lengths) > self.plan.shard_bytes {
                        *next = Some(made);
                        return writer.finish(false);
                    }
                    writer.video(&item.name, label, &files)?;
                    self.tell(|p| p.done += 1);
                }
                Err(e) if matches!(e.kind(), ErrorKind::Stopped { .. }) => return Err(self.stopped()),
                Err(e) if e.is_of_the_machine() => return Err(e),
                Err(e) => {
                    writer.gap(&item.name, label, without_path(&e.to_string(), item));
                    self.tell(|p| p.failed += 1);
                }
            }
        }
        writer.finish(true)
    }

    /// The frames and the flow of a video.
    fn make(&self, item: &Item) -> Result<Made> {
        let data = &self.splits.train;
        let (Builder { ffmpeg, flow, pairs, stop, .. }, decode) = (self.with, &self.spec.decode);
        let is_file = matches!(item.source, Source::File(_) | Source::Part(..));
        if is_file && !self.has_ffmpeg.load(Ordering::Relaxed) {
            ffmpeg.version_until(stop)?;
            self.has_ffmpeg.store(true, Ordering::Relaxed);
        }
        let keys = Keys::by_content(item, data, self.spec)?;
        let make = Make { data, decode, ffmpeg, flow: *flow, pairs: *pairs, stop };
        let clip = make.clip(item)?;
        let planes = match &self.spec.motion {
            Some(spec) => make.flow(item, spec, [clip.t, clip.h, clip.w], |t| clip.frame(t))?,
            None => Vec::new(),
        };
        Ok(Made { keys, clip, planes })
    }

    fn stopped(&self) -> Error {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let what = format!(
            "{} of {} videos of this shard are packed, those of tar files that are not complete included; the same command \
             goes on after the complete ones in {}",
            progress.done,
            progress.total,
            self.dir.display()
        );
        Error::stopped(self.dir, what)
    }

    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        (self.with.progress)(progress.clone());
    }
}

/// A message that names the video instead of its path, which is another one under another mount point.
fn without_path(message: &str, item: &Item) -> String {
    match &item.source {
        Source::File(path) | Source::Part(path, _) | Source::Folder(path) => {
            message.replace(&path.display().to_string(), &item.name)
        }
        Source::Procedural(_) | Source::Packed(_) => message.to_owned(),
    }
}
