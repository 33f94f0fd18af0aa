//! Building the cache: see [`super`].

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::key::Keys;
use super::super::lock::{Lock, Use};
use super::super::packed::{self, Content, Kind, Mapped, Named};
use super::super::{Dataset, Source, maps, workers};
use super::make::Make;
use super::{Builder, Cache, CacheSpec, FlowSource, Names, Progress, Report, Store, View, file_of};
use crate::error::{Error, ErrorKind, Result, unless_of_the_machine};

/// One run of building a cache.
pub(super) struct Build<'a> {
    pub dir: &'a Path,
    pub data: &'a Dataset,
    pub spec: &'a CacheSpec,
    pub with: &'a Builder<'a>,
    progress: Mutex<Progress>,
    damaged: Mutex<Vec<String>>,
}

/// The state of a video.
pub(super) enum State {
    /// In the cache, with these kinds of files ([`Kind::ALL`]) made now.
    Done([bool; 3]),
    /// A file of it is not in the cache yet.
    Missing,
    /// Cannot be read.
    Unreadable(Error),
}

/// A video and its place in the data set.
pub(super) struct Job {
    pub index: usize,
    /// None where the source cannot be found.
    pub keys: Option<Keys>,
    /// Which files ([`Kind::ALL`]) exist, intact and matching, or are not needed.
    pub there: [bool; 3],
    pub state: State,
}

impl<'a> Build<'a> {
    pub(super) fn new(dir: &'a Path, data: &'a Dataset, spec: &'a CacheSpec, with: &'a Builder<'a>) -> Self {
        let progress = Mutex::new(Progress { total: data.len(), ..Default::default() });
        Self { dir, data, spec, with, progress, damaged: Mutex::default() }
    }

    pub(super) fn run(self) -> Result<(Cache, Report)> {
        let used = Use::of(self.dir);
        let mut jobs = self.each(self.data.len(), |i| self.look_up(i))?;
        let missing: Vec<usize> = (0..jobs.len()).filter(|&i| matches!(jobs[i].state, State::Missing)).collect();
        if !missing.is_empty() {
            if missing.iter().any(|&i| self.needs_ffmpeg(&jobs[i])) {
                self.with.ffmpeg.version_until(self.with.stop)?;
            }
            fs::create_dir_all(self.dir).map_err(Error::io("create", self.dir))?;
            let _lock = Lock::take(self.dir, self.with.stop, |holder| self.tell(|p| p.waiting = Some(holder)))?;
            self.tell(|p| p.waiting = None);
            self.clean()?;
            let states = self.each(missing.len(), |n| self.make(&jobs[missing[n]]))?;
            for (i, state) in missing.into_iter().zip(states) {
                jobs[i].state = state;
            }
            // The directory entries of the new files must be synced, too.
            File::open(self.dir).and_then(|d| d.sync_all()).map_err(Error::io("sync", self.dir))?;
        }
        let used = used.or_else(|| Use::of(self.dir)).map(Arc::new);
        let mut names = vec![None; jobs.len()];
        let mut report = Report::default();
        for job in &jobs {
            let made = match &job.state {
                State::Done(made) => *made,
                State::Unreadable(e) => {
                    report.failed.push((job.index, self.data.items[job.index].name.clone(), e.to_string()));
                    continue;
                }
                State::Missing => continue,
            };
            let count = if made.contains(&true) { &mut report.built } else { &mut report.reused };
            *count += 1;
            for (count, made) in [&mut report.decoded, &mut report.flowed, &mut report.mapped].into_iter().zip(made) {
                *count += usize::from(made);
            }
            names[job.index] = job.keys.as_ref().map(|keys| {
                let hash = |key: &Option<Named>| key.as_ref().map(|key| key.hash);
                Names { frames: keys.frames.hash, flow: hash(&keys.flow), maps: hash(&keys.maps) }
            });
        }
        self.refuse_none_left(&report.failed)?;
        report.damaged = self.damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        let dir = self.dir.to_owned();
        Ok((Cache { store: Store::Files { dir, names, used } }, report))
    }

    /// Refuses a data set of which every video has failed.
    pub(super) fn refuse_none_left(&self, failed: &[(usize, String, String)]) -> Result<()> {
        match failed.first() {
            Some((_, name, why)) if failed.len() == self.data.len() => {
                let what = format!("none of the {} videos can be used; the first, {name}: {why}", failed.len());
                // Not of the cache's folder, which has nothing to do with it.
                Err(Error::data(self.data.split.name(), what))
            }
            _ => Ok(()),
        }
    }

    /// Whether creating the files of `job` takes ffmpeg: frames are decoded, and the size of flow from a folder is
    /// compared with that of its video.
    pub(super) fn needs_ffmpeg(&self, job: &Job) -> bool {
        let from_folder = self.spec.motion.as_ref().is_some_and(|m| m.source != FlowSource::TvL1);
        let [frames, flow, _] = job.there;
        matches!(self.data.items[job.index].source, Source::File(_) | Source::Part(..))
            && (!frames || (from_folder && !flow))
    }

    pub(super) fn look_up(&self, index: usize) -> Result<Job> {
        let mut job = Job { index, keys: None, there: [false; 3], state: State::Missing };
        match Keys::of(&self.data.items[index], self.data, self.spec) {
            Ok(keys) => job.there = self.there(job.keys.insert(keys))?,
            Err(e) => job.state = self.unreadable(e)?,
        }
        if job.there == [true; 3] {
            job.state = State::Done([false; 3]);
        }
        match job.state {
            State::Done(_) => self.tell(|p| (p.done, p.reused) = (p.done + 1, p.reused + 1)),
            State::Unreadable(_) | State::Missing => {}
        }
        Ok(job)
    }

    /// Which of a video's files exist intact and match, or are not needed. Reports damaged ones.
    fn there(&self, keys: &Keys) -> Result<[bool; 3]> {
        let (mut sum, mut there) = (None, [true; 3]);
        for kind in Kind::ALL {
            let Some(key) = keys.get(kind) else { continue };
            there[kind as usize] = match self.open(kind, key, sum, self.with.verify) {
                Ok(mapped) => {
                    sum = Some(mapped.head.sum);
                    true
                }
                Err(e) if e.is_of_the_machine() => return Err(e),
                Err(e) => {
                    let absent = matches!(e.kind(), ErrorKind::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
                    if !absent {
                        let what = e.to_string();
                        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).push(what.clone());
                        self.tell(|p| p.damaged = Some(what));
                    }
                    sum = None;
                    false
                }
            }
        }
        Ok(there)
    }

    /// Opens a file that must have been created as `key` says, from data with the checksum `made_of` if known. A
    /// damaged, truncated or stale file counts as missing.
    fn open(&self, kind: Kind, key: &Named, made_of: Option<u32>, verify: bool) -> Result<Mapped> {
        let path = file_of(self.dir, kind, key.hash);
        let mapped = Mapped::open(&path, kind, verify || kind == Kind::Maps)?;
        mapped.expect(&path, key, made_of)?;
        Ok(mapped)
    }

    /// Creates those of a video's files that are missing. `Ok(Unreadable)` is an error of the video, `Err` one of the
    /// cache or of the machine.
    fn make(&self, job: &Job) -> Result<State> {
        let Some(keys) = &job.keys else { return Ok(State::Missing) };
        let mut made = [false; 3];
        // Another process may have created it while this one waited; files verified before are not verified again.
        let open = |kind: Kind, key, made_of| {
            let verify = self.with.verify && !job.there[kind as usize];
            unless_of_the_machine(self.open(kind, key, made_of, verify))
        };
        let frames = match open(Kind::Frames, &keys.frames, None)? {
            Some(frames) => frames,
            None => {
                let clip = match self.make_of().clip(&self.data.items[job.index]) {
                    Ok(clip) => clip,
                    Err(e) => return self.unreadable(e),
                };
                let content = Content {
                    extents: [clip.t, clip.h, clip.w, 0, 0, 0],
                    fps: clip.fps,
                    made_of: 0,
                    numbers: &clip.rgb,
                };
                self.put(Kind::Frames, &keys.frames, job, |file, key| {
                    packed::write(file, Kind::Frames, key, &content)
                })?;
                made[0] = true;
                self.open(Kind::Frames, &keys.frames, None, false)?
            }
        };
        let (sum, mut view) = (frames.head.sum, View::new(frames));
        if let (Some(key), Some(spec)) = (&keys.flow, &self.spec.motion) {
            let flow = match open(Kind::Flow, key, Some(sum))? {
                Some(flow) => flow,
                None => {
                    let (item, (h, w)) = (&self.data.items[job.index], view.size());
                    let planes = match self.make_of().flow(item, spec, [view.len(), h, w], |t| view.frame(t)) {
                        Ok(planes) => planes,
                        Err(e) => return self.unreadable(e),
                    };
                    let content = Content {
                        extents: [planes.len() / (2 * h * w), h, w, spec.every, spec.gap, 0],
                        fps: view.fps(),
                        made_of: sum,
                        numbers: bytemuck::cast_slice(&planes),
                    };
                    self.put(Kind::Flow, key, job, |file, key| packed::write(file, Kind::Flow, key, &content))?;
                    made[1] = true;
                    self.open(Kind::Flow, key, Some(sum), false)?
                }
            };
            let sum = flow.head.sum;
            view.set_flow(flow, &file_of(self.dir, Kind::Flow, key.hash))?;
            if let (Some(key), Some(spec)) = (&keys.maps, &self.spec.maps)
                && open(Kind::Maps, key, Some(sum))?.is_none()
            {
                let maps = match view.maps(spec) {
                    Ok(maps) => maps,
                    Err(e) => return self.unreadable(e),
                };
                self.put(Kind::Maps, key, job, |file, key| maps::write(file, key, sum, view.fps(), &maps))?;
                made[2] = true;
            }
        }
        self.tell(|p| (p.done, p.reused) = (p.done + 1, p.reused + usize::from(made == [false; 3])));
        Ok(State::Done(made))
    }

    /// A video that cannot be used, unless building was stopped or the machine failed.
    fn unreadable(&self, e: Error) -> Result<State> {
        if matches!(e.kind(), ErrorKind::Stopped { .. }) {
            return Err(self.stopped());
        }
        if e.is_of_the_machine() {
            return Err(e);
        }
        self.tell(|p| p.failed += 1);
        Ok(State::Unreadable(e))
    }

    /// Writes a file of `job` under a temporary name and renames it when it is complete.
    fn put(
        &self,
        kind: Kind,
        key: &Named,
        job: &Job,
        write: impl FnOnce(&mut File, &Named) -> std::io::Result<()>,
    ) -> Result<()> {
        let path = file_of(self.dir, kind, key.hash);
        let temporary = self.dir.join(format!("{:016x}.{}.tmp", key.hash, job.index));
        let written = File::create(&temporary)
            .and_then(|mut file| write(&mut file, key))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|e| {
            // The first error is the one to report; the next build cleans up as well.
            let _ = fs::remove_file(&temporary);
            Error::io("write", path)(e)
        })
    }

    /// Calls `job` for 0..n on worker threads. The first error, or the flag, ends it.
    pub(super) fn each<T: Send>(&self, n: usize, job: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        let results = workers::each(self.with.threads, n, self.with.stop, self.dir, job)?;
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(self.stopped()))).collect()
    }

    fn make_of(&self) -> Make<'a> {
        let Builder { ffmpeg, flow, pairs, stop, .. } = self.with;
        Make { data: self.data, decode: &self.spec.decode, ffmpeg, flow: *flow, pairs: *pairs, stop }
    }

    fn stopped(&self) -> Error {
        let (done, total) = (self.progress.lock().unwrap_or_else(PoisonError::into_inner).done, self.data.len());
        let (split, dir) = (self.data.split.name(), self.dir.display());
        let what = format!(
            "{done} of {total} {split} videos are in the cache {dir}, and the same command goes on with the others"
        );
        Error::stopped(self.dir, what)
    }

    /// Updates the counts and reports them.
    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        (self.with.progress)(progress.clone());
        progress.damaged = None;
    }

    /// Removes partial files of a killed process. Only the holder of the lock may do so.
    fn clean(&self) -> Result<()> {
        for entry in fs::read_dir(self.dir).map_err(Error::io("read", self.dir))? {
            let path = entry.map_err(Error::io("read", self.dir))?.path();
            if path.extension().is_some_and(|e| e == "tmp") {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }
}
