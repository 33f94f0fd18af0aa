//! Building the cache: see [`super::cache`].

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use half::f16;

use super::cache::{Builder, Cache, CacheSpec, FlowSource, MotionSpec, Progress, Report, file_of, maps_of};
use super::dataset::fnv1a;
use super::flow_folder::{self, Files};
use super::packed::{self, Motion, View};
use super::{Clip, Dataset, Item, Source, decode, folder, maps};
use crate::error::{Error, ErrorKind, Result};
use crate::flow::{Flow, Gray};

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
    /// In the cache since before, its maps excepted.
    Unmapped,
    /// Not to be had.
    Unreadable(Error),
}

/// A video, its place in the data set, what its file depends on and the hash that names it.
struct Job {
    index: usize,
    key: Vec<u8>,
    hash: u64,
    /// The same of the file of its maps.
    maps: Option<(Vec<u8>, u64)>,
    state: State,
}

impl<'a> Build<'a> {
    pub(super) fn new(dir: &'a Path, data: &'a Dataset, spec: &'a CacheSpec, with: &'a Builder<'a>) -> Self {
        let progress = Mutex::new(Progress { total: data.len(), ..Default::default() });
        Self { dir, data, spec, with, progress }
    }

    pub(super) fn run(&self) -> Result<(Cache, Report)> {
        let mut jobs = self.each(self.data.len(), |i| Ok(self.look_up(i)))?;
        let missing: Vec<usize> =
            (0..jobs.len()).filter(|&i| matches!(jobs[i].state, State::Missing | State::Unmapped)).collect();
        if !missing.is_empty() {
            let decoded = |&i: &usize| {
                matches!(jobs[i].state, State::Missing) && matches!(self.data.items[i].source, Source::File(_))
            };
            if missing.iter().any(decoded) {
                self.with.ffmpeg.version_until(self.with.stop)?;
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
        let mut cache = Cache { dir: self.dir.to_owned(), names: vec![None; jobs.len()], maps: vec![None; jobs.len()] };
        let mut report = Report::default();
        for job in &jobs {
            match &job.state {
                State::Found => report.reused += 1,
                State::Written => report.built += 1,
                State::Unreadable(e) => {
                    report.failed.push((job.index, self.data.items[job.index].name.clone(), e.to_string()));
                    continue;
                }
                State::Missing | State::Unmapped => continue,
            }
            cache.names[job.index] = Some(job.hash);
            cache.maps[job.index] = job.maps.as_ref().map(|(_, hash)| *hash);
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
        let (key, state) = match self.spec.key(&self.data.items[index], self.data) {
            Ok(key) => (key, State::Missing),
            Err(e) => (Vec::new(), State::Unreadable(e)),
        };
        let maps = self.spec.maps.as_ref().map(|spec| maps::key(&key, spec)).map(|key| (key.clone(), fnv1a(&key)));
        let mut job = Job { index, hash: fnv1a(&key), key, maps, state };
        if let State::Missing = job.state {
            job.state = self.stands(&job);
        }
        match job.state {
            State::Found => self.tell(|p| (p.done, p.reused) = (p.done + 1, p.reused + 1)),
            State::Unreadable(_) => self.tell(|p| p.failed += 1),
            _ => {}
        }
        job
    }

    /// What of a video is there: found, unmapped or missing.
    fn stands(&self, job: &Job) -> State {
        let mapped = |(key, hash): &(Vec<u8>, u64)| maps::read(&maps_of(self.dir, *hash), *hash, Some(key)).is_ok();
        match self.is_there(job) {
            false => State::Missing,
            true if job.maps.as_ref().is_none_or(mapped) => State::Found,
            true => State::Unmapped,
        }
    }

    /// Whether a whole and fitting file is there. One that is damaged, cut or stale is as good as none.
    fn is_there(&self, job: &Job) -> bool {
        View::open(&file_of(self.dir, job.hash), job.hash, Some(&job.key), self.with.verify).is_ok()
    }

    /// Makes a video's files. `Ok(Unreadable)` is the video's fault, `Err` the cache's.
    fn make(&self, job: &Job) -> Result<State> {
        let state = match self.stands(job) {
            State::Found => {
                self.tell(|p| (p.done, p.reused) = (p.done + 1, p.reused + 1));
                return Ok(State::Found);
            }
            State::Unmapped => State::Written,
            _ => self.pack(job)?,
        };
        if let (State::Written, Some(spec), Some((key, hash))) = (&state, &self.spec.maps, &job.maps) {
            let made = View::open(&file_of(self.dir, job.hash), job.hash, None, false)?.maps(spec);
            match made {
                Ok(made) => self.put(&maps_of(self.dir, *hash), job, |file| maps::write(file, key, *hash, &made))?,
                Err(e) => {
                    self.tell(|p| p.failed += 1);
                    return Ok(State::Unreadable(e));
                }
            }
        }
        if let State::Written = state {
            self.tell(|p| p.done += 1);
        }
        Ok(state)
    }

    /// Decodes a video, flows it and writes its file.
    fn pack(&self, job: &Job) -> Result<State> {
        let item = &self.data.items[job.index];
        let read = || -> Result<(Clip, Motion)> {
            let procedural = self.data.procedural.as_ref();
            let with = self.with;
            let clip = decode::read_until(&item.source, procedural, &self.spec.decode, &with.ffmpeg, with.stop)?;
            let motion = match &self.spec.motion {
                Some(motion) => self.flow_of(&clip, motion, item)?,
                None => Motion { every: 1, gap: 1, h: 0, w: 0, planes: Vec::new() },
            };
            Ok((clip, motion))
        };
        let (clip, motion) = match read() {
            Ok(read) => read,
            Err(e) if matches!(e.kind(), ErrorKind::Stopped { .. }) => return Err(self.stopped()),
            Err(e) => {
                self.tell(|p| p.failed += 1);
                return Ok(State::Unreadable(e));
            }
        };
        self.put(&file_of(self.dir, job.hash), job, |file| packed::write(file, &job.key, job.hash, &clip, &motion))?;
        Ok(State::Written)
    }

    /// Writes a file of `job` under another name and gives it its own when it is whole.
    fn put(&self, path: &Path, job: &Job, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
        let temporary = self.dir.join(format!("{:016x}.{}.tmp", job.hash, job.index));
        let written =
            File::create(&temporary).and_then(|mut file| write(&mut file)).and_then(|()| fs::rename(&temporary, path));
        written.map_err(|e| {
            // What matters is the first error; the next building cleans up too.
            let _ = fs::remove_file(&temporary);
            Error::io("write", path)(e)
        })
    }

    /// All flow fields of a clip.
    fn flow_of(&self, clip: &Clip, spec: &MotionSpec, item: &Item) -> Result<Motion> {
        let (h, w, name) = (clip.h, clip.w, &item.name);
        let field: Box<dyn Fn(usize) -> Result<Flow> + '_> = match &spec.source {
            FlowSource::Folder(root) => {
                let dir = flow_folder::find(root, name)?;
                let (files, native) = (Files::list(&dir)?, self.native_size(item)?);
                files.expect(&dir, clip.t, self.spec.decode.max_frames == Some(clip.t))?;
                Box::new(move |t| files.read(t, [native, [h, w]]))
            }
            FlowSource::TvL1 => {
                let Some(flow) = self.with.flow else {
                    return Err(Error::param("cache", "flow", "none", "flow is to be kept, and nothing computes it"));
                };
                Box::new(move |t| {
                    let [from, to] = [t, t + spec.gap].map(|i| Gray::from_rgb(clip.frame(i), h, w));
                    flow(&from?, &to?)
                })
            }
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
            let field = field(t)?;
            if [field.h(), field.w()] != [h, w] {
                return Err(Error::shape(
                    "cache",
                    "flow",
                    format!("{h} x {w}"),
                    format!("{} x {}", field.h(), field.w()),
                ));
            }
            let narrow = |x: &f32| f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
            planes.extend(field.u().iter().chain(field.v()).map(narrow));
        }
        Ok(Motion { every: spec.every, gap: spec.gap, h, w, planes })
    }

    /// Height and width of a video before it is resized for the cache.
    fn native_size(&self, item: &Item) -> Result<[usize; 2]> {
        Ok(match &item.source {
            Source::File(path) => self.with.ffmpeg.probe_until(path, self.with.stop).map(|p| [p.h, p.w])?,
            Source::Folder(path) => folder::dimensions(&folder::frames(path)?[0])?.into(),
            Source::Procedural(_) => [self.data.procedural.as_ref().map_or(0, |spec| spec.side); 2],
        })
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
