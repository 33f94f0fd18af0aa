//! Building the cache: see [`super::cache`].

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use half::f16;

use super::cache::{Builder, Cache, CacheSpec, MotionSpec, Progress, Report, file_of};
use super::dataset::fnv1a;
use super::packed::{self, Motion, View};
use super::{Clip, Dataset, Source, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::flow::Gray;

/// One building of a cache.
pub(super) struct Build<'a> {
    dir: &'a Path,
    data: &'a Dataset,
    spec: &'a CacheSpec,
    with: &'a Builder<'a>,
    progress: Mutex<Progress>,
}

/// Where a video stands.
enum State {
    /// In the cache since before.
    Found,
    /// In the cache now.
    Written,
    /// Not in the cache yet.
    Missing,
    /// Not to be had.
    Unreadable(Error),
}

/// A video, its place in the data set, what its file depends on and the hash that names it.
struct Job {
    index: usize,
    key: Vec<u8>,
    hash: u64,
    state: State,
}

impl<'a> Build<'a> {
    pub(super) fn new(dir: &'a Path, data: &'a Dataset, spec: &'a CacheSpec, with: &'a Builder<'a>) -> Self {
        let progress = Mutex::new(Progress { total: data.len(), ..Default::default() });
        Self { dir, data, spec, with, progress }
    }

    pub(super) fn run(&self) -> Result<(Cache, Report)> {
        let mut jobs = self.each(self.data.len(), |i| Ok(self.look_up(i)))?;
        let missing: Vec<usize> = (0..jobs.len()).filter(|&i| matches!(jobs[i].state, State::Missing)).collect();
        if !missing.is_empty() {
            let is_file = |&i: &usize| matches!(self.data.items[i].source, Source::File(_));
            if missing.iter().any(is_file) {
                self.with.ffmpeg.version()?;
            }
            fs::create_dir_all(self.dir).map_err(Error::io("create", self.dir))?;
            let _lock = self.lock()?;
            self.clean()?;
            let states = self.each(missing.len(), |n| self.make(&jobs[missing[n]]))?;
            for (i, state) in missing.into_iter().zip(states) {
                jobs[i].state = state;
            }
            // The names of the new files, too, must be on the disk.
            File::open(self.dir).and_then(|d| d.sync_all()).map_err(Error::io("sync", self.dir))?;
        }
        let mut cache = Cache { dir: self.dir.to_owned(), names: vec![None; jobs.len()] };
        let mut report = Report::default();
        for job in &jobs {
            match &job.state {
                State::Found => report.reused += 1,
                State::Written => report.built += 1,
                State::Unreadable(e) => {
                    report.failed.push((job.index, self.data.items[job.index].name.clone(), e.to_string()));
                    continue;
                }
                State::Missing => continue,
            }
            cache.names[job.index] = Some(job.hash);
        }
        match report.failed.first() {
            Some((_, name, why)) if report.failed.len() == jobs.len() => {
                let what = format!("none of the {} videos can be read; the first, {name}: {why}", jobs.len());
                Err(Error::data(self.dir, what))
            }
            _ => Ok((cache, report)),
        }
    }

    fn look_up(&self, index: usize) -> Job {
        let (key, state) = match self.spec.key(&self.data.items[index].source, self.data) {
            Ok(key) => (key, State::Missing),
            Err(e) => (Vec::new(), State::Unreadable(e)),
        };
        let mut job = Job { index, hash: fnv1a(&key), key, state };
        match job.state {
            State::Missing if self.is_there(&job) => {
                job.state = State::Found;
                self.tell(|p| (p.done, p.reused) = (p.done + 1, p.reused + 1));
            }
            State::Unreadable(_) => self.tell(|p| p.failed += 1),
            _ => {}
        }
        job
    }

    /// Whether a whole and fitting file is there. One that is damaged, cut or stale is as good as none.
    fn is_there(&self, job: &Job) -> bool {
        View::open(&file_of(self.dir, job.hash), job.hash, Some(&job.key), self.with.verify).is_ok()
    }

    /// Makes one file. `Ok(Unreadable)` is the video's fault, `Err` the cache's.
    fn make(&self, job: &Job) -> Result<State> {
        if self.is_there(job) {
            self.tell(|p| (p.done, p.reused) = (p.done + 1, p.reused + 1));
            return Ok(State::Found);
        }
        let item = &self.data.items[job.index];
        let read = || -> Result<(Clip, Motion)> {
            let procedural = self.data.procedural.as_ref();
            let clip = decode::read(&item.source, procedural, &self.spec.decode, &self.with.ffmpeg)?;
            let motion = match &self.spec.motion {
                Some(motion) => self.flow_of(&clip, motion, &item.name)?,
                None => Motion { every: 1, gap: 1, h: 0, w: 0, planes: Vec::new() },
            };
            Ok((clip, motion))
        };
        let (clip, motion) = match read() {
            Ok(read) => read,
            Err(e) if matches!(e.kind(), ErrorKind::Stopped { .. }) => return Err(e),
            Err(e) => {
                self.tell(|p| p.failed += 1);
                return Ok(State::Unreadable(e));
            }
        };
        let path = file_of(self.dir, job.hash);
        let temporary = self.dir.join(format!("{:016x}.{}.tmp", job.hash, job.index));
        let written = File::create(&temporary)
            .and_then(|mut file| packed::write(&mut file, &job.key, job.hash, &clip, &motion))
            .and_then(|()| fs::rename(&temporary, &path));
        if let Err(e) = written {
            // What matters is the first error; the next building cleans up too.
            let _ = fs::remove_file(&temporary);
            return Err(Error::io("write", &path)(e));
        }
        self.tell(|p| p.done += 1);
        Ok(State::Written)
    }

    /// All flow fields of a clip.
    fn flow_of(&self, clip: &Clip, spec: &MotionSpec, name: &str) -> Result<Motion> {
        let (h, w) = (clip.h, clip.w);
        let Some(flow) = self.with.flow else {
            return Err(Error::param("cache", "flow", "none", "flow is to be kept, and nothing computes it"));
        };
        if clip.t <= spec.gap {
            let what = format!("its {} frames are too few for flow to the frame {} later", clip.t, spec.gap);
            return Err(Error::data(name, what));
        }
        let starts = (0..clip.t - spec.gap).step_by(spec.every);
        let mut planes = Vec::with_capacity(starts.len() * 2 * h * w);
        for t in starts {
            if self.with.stop.load(Ordering::Relaxed) {
                return Err(self.stopped());
            }
            let [from, to] = [t, t + spec.gap].map(|i| Gray::from_rgb(clip.frame(i), h, w));
            let field = flow(&from?, &to?)?;
            if [field.u.len(), field.v.len()] != [h * w; 2] {
                return Err(Error::shape("cache", "flow", format!("{h} x {w}"), format!("{} x {}", field.h, field.w)));
            }
            let narrow = |x: &f32| f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
            planes.extend(field.u.iter().chain(&field.v).map(narrow));
        }
        Ok(Motion { every: spec.every, gap: spec.gap, h, w, planes })
    }

    /// Calls `job` for 0..n on worker threads, each with a rayon pool of one thread, so that parallel code inside does
    /// not pick up other videos while it waits. The first error, or the flag, ends it.
    fn each<T: Send>(&self, n: usize, job: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let slots: Mutex<Vec<Option<Result<T>>>> = Mutex::new((0..n).map(|_| None).collect());
        let work = || -> std::result::Result<(), rayon::ThreadPoolBuildError> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n || failed.load(Ordering::Relaxed) || self.with.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let result = pool.install(|| job(i));
                failed.fetch_or(result.is_err(), Ordering::Relaxed);
                slots.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(result);
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.with.threads.min(n)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
        .map_err(|e| Error::io("start threads for", self.dir)(std::io::Error::other(e)))?;
        let mut slots = slots.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = slots.iter_mut().find(|s| matches!(s, Some(Err(_)))).and_then(Option::take) {
            return error.map(|_| Vec::new());
        }
        slots.into_iter().map(|slot| slot.unwrap_or_else(|| Err(self.stopped()))).collect()
    }

    fn stopped(&self) -> Error {
        ErrorKind::Stopped { path: self.dir.to_owned() }.into()
    }

    /// Changes the counts and passes them on.
    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        (self.with.progress)(*progress);
    }

    /// The right to write, held until dropped; waits while another process has it.
    fn lock(&self) -> Result<File> {
        let path = self.dir.join(".lock");
        let file = File::options().create(true).append(true).open(&path).map_err(Error::io("create", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
                Err(fs::TryLockError::WouldBlock) if self.with.stop.load(Ordering::Relaxed) => {
                    return Err(self.stopped());
                }
                Err(fs::TryLockError::WouldBlock) => self.tell(|p| p.waiting = true),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.tell(|p| p.waiting = false);
        Ok(file)
    }

    /// Removes what a killed process left half-written. Only the holder of the lock may.
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
