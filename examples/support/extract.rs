//! Flow of many videos: finds them, and writes a folder of `.flo` files for each, atomically.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tubelet::error::ErrorKind;
use tubelet::flow::{Flow, Gray, color, flo};
use tubelet::ops::tvl1;
use tubelet::train::folder::{remove_unfinished, write_atomic};
use tubelet::video::dataset::{is_video, lines_of_list, videos_below};
use tubelet::video::{Clip, Decode, Ffmpeg, Source, Splits, read};

use super::output::warn;
use super::progress::Progress;
use super::save_png;

/// Folder for unfinished results, below the output folder.
const WRITING: &str = ".writing";

/// A video, and the folder for its flow below the output folder.
#[derive(Debug, PartialEq)]
pub struct Video {
    pub source: Source,
    pub name: PathBuf,
}

/// The videos found through `inputs`: video files, folders of frames, folders that contain such, and lists with one
/// path per line (relative to the list) or in a data set's format. Names are those by which `--flow-dir` finds them:
/// the last two components of the path (as given, or relative to the given folder or list), without extension, or more
/// of it if two videos would have the same name.
///
/// # Errors
/// Unreadable inputs; an input without videos; two videos with the same path.
pub fn videos(inputs: &[PathBuf]) -> Result<Vec<Video>> {
    let mut found: Vec<(Source, PathBuf)> = Vec::new();
    for input in inputs {
        let before = found.len();
        let meta = fs::metadata(input).with_context(|| format!("cannot read {}", input.display()))?;
        if meta.is_dir() {
            // Named relative to the folder; if the folder is a video itself, as given.
            let (videos, warnings) = videos_below(input)?;
            warnings.iter().for_each(warn);
            let relative = |path: PathBuf| path.strip_prefix(input).map_or(path.clone(), Path::to_owned);
            found.extend(videos.into_iter().map(|(source, path)| (source, relative(path))));
            let itself = |name: &PathBuf| name.as_os_str().is_empty();
            let whole = fs::canonicalize(input).with_context(|| format!("cannot read {}", input.display()))?;
            for (_, name) in found[before..].iter_mut().filter(|(_, name)| itself(name)) {
                *name = if input.file_name().is_some() { input } else { &whole }.clone();
            }
        } else if is_video(input) {
            found.push((Source::File(input.clone()), input.clone()));
        } else {
            list(input, &mut found)?;
        }
        ensure!(found.len() > before, "{} has no videos: neither video files nor folders of frames", input.display());
    }
    let mut seen = BTreeSet::new();
    found.retain(|(source, _)| seen.insert(path_of(source)));
    named(found)
}

/// Adds the videos of a list: one path per line if a line as a whole is a path to something, otherwise those of a data set.
fn list(list: &Path, found: &mut Vec<(Source, PathBuf)>) -> Result<()> {
    let why = || format!("{} is no video, and cannot be read as a list", list.display());
    ensure!(list.is_file(), "{} is neither a file nor a folder", list.display());
    let base = list.parent().unwrap_or(Path::new(""));
    let lines = lines_of_list(list).with_context(why)?;
    let is_there = |line: &str| base.join(line).exists();
    if !lines.iter().any(|(_, line)| is_there(line)) {
        match Splits::open(list, None) {
            Ok(Splits { train, test, .. }) => {
                found.extend(train.items.into_iter().chain(test.items).map(|i| (i.source, i.name.into())));
                return Ok(());
            }
            // Paths, none of which leads anywhere.
            Err(_) if lines.iter().all(|(_, line)| is_video(line.as_ref())) => {}
            Err(e) => return Err(e).with_context(why),
        }
    }
    let absent: Vec<&(u64, String)> = lines.iter().filter(|(_, line)| !is_there(line)).collect();
    if let Some((number, line)) = absent.first() {
        let (list, n) = (list.display(), absent.len());
        let more = if n > 1 { format!("; so it is with {} more", n - 1) } else { String::new() };
        bail!("{list} is a list of paths, and {line} in line {number} is not there{more}");
    }
    found.extend(lines.into_iter().map(|(_, line)| {
        let path = base.join(&line);
        (if path.is_dir() { Source::Folder(path) } else { Source::File(path) }, line.into())
    }));
    Ok(())
}

fn path_of(source: &Source) -> PathBuf {
    match source {
        Source::File(path) | Source::Part(path, _) | Source::Folder(path) => {
            fs::canonicalize(path).unwrap_or(path.clone())
        }
        Source::Procedural(i) => i.to_string().into(),
        Source::Packed(key) => format!("{key:016x}").into(),
    }
}

/// Gives each video the shortest name that makes all names different.
fn named(found: Vec<(Source, PathBuf)>) -> Result<Vec<Video>> {
    let name = |(source, path): &(Source, PathBuf), parts: usize, extension: bool| -> PathBuf {
        let all: Vec<_> = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        let name: PathBuf = all[all.len().saturating_sub(parts)..].iter().collect();
        if extension || matches!(source, Source::Folder(_)) { name } else { name.with_extension("") }
    };
    for (parts, extension) in [(2, false), (2, true), (usize::MAX, false), (usize::MAX, true)] {
        let names: Vec<PathBuf> = found.iter().map(|video| name(video, parts, extension)).collect();
        if names.iter().collect::<BTreeSet<_>>().len() == names.len() {
            return Ok(found.into_iter().zip(names).map(|((source, _), name)| Video { source, name }).collect());
        }
    }
    let mut seen = BTreeSet::new();
    let twice = found.iter().map(|video| name(video, usize::MAX, true)).find(|name| !seen.insert(name.clone()));
    let twice = twice.unwrap_or_default();
    bail!("two videos would both write to the folder {}: extract them one by one", twice.display())
}

/// Settings for each video.
pub struct Extract<'a> {
    pub out: &'a Path,
    pub how: Decode,
    /// Distance in frames between the images of a field, and the frames at which fields start.
    pub gap: usize,
    pub every: usize,
    pub flows: tvl1::Flows,
    /// Also draw each field that has no picture; motion of this many pixels has full saturation, 0 for the maximum of the
    /// video.
    pub pictures: Option<f32>,
    /// Videos in parallel, and threads for all of them.
    pub jobs: usize,
    pub threads: usize,
    pub stop: &'a AtomicBool,
}

/// Result for all videos.
#[derive(Default)]
pub struct Done {
    /// Videos whose flow existed, and those whose flow was written now.
    pub there: usize,
    pub written: usize,
    /// Videos without flow, and why.
    pub failed: Vec<(PathBuf, String)>,
    /// Fields written now.
    pub pairs: usize,
    /// The largest displacement among them.
    pub largest: f32,
    /// Frames, height, width and rate of the last video written.
    pub last: Option<(usize, usize, usize, f64)>,
}

impl Extract<'_> {
    /// Writes the flow of all videos. Existing flow is skipped; an error in one video does not affect the others.
    ///
    /// # Errors
    /// When something cannot be written, the machine failed, or the stop flag was set. Complete results stay.
    pub fn run(&self, videos: &[Video]) -> Result<Done> {
        let staging = self.out.join(WRITING);
        let _ = fs::remove_dir_all(&staging); // of a killed process; the folder is locked
        let progress = Progress::new("flow", "videos", videos.len() as u64, 0);
        let (next, ended, done) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(Done::default()));
        let work = || -> Result<()> {
            let threads = (self.threads / self.jobs).max(1);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            while !ended.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(video) = videos.get(i) else { return Ok(()) };
                let one = pool.install(|| self.one(video, &staging.join(i.to_string()), &done));
                ended.fetch_or(one.is_err(), Ordering::Relaxed);
                if let Some(why) = one.with_context(|| format!("the flow of {}", video.name.display()))? {
                    progress.say(&format!("no flow of {}: {why}", video.name.display()));
                    done.lock().unwrap_or_else(|e| e.into_inner()).failed.push((video.name.clone(), why));
                }
                progress.inc(1);
            }
            Ok(())
        };
        let result = std::thread::scope(|scope| {
            let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work);
            let workers: Vec<_> = (0..self.jobs.min(videos.len())).map(spawn).collect();
            let join = |worker: std::io::Result<std::thread::ScopedJoinHandle<Result<()>>>| {
                worker
                    .context("--jobs: a thread cannot be started")?
                    .join()
                    .unwrap_or_else(|p| std::panic::resume_unwind(p))
            };
            // All threads are joined, and the first error is returned.
            let ends: Vec<Result<()>> = workers.into_iter().map(join).collect();
            ends.into_iter().collect::<Result<()>>()
        });
        progress.finish();
        let _ = fs::remove_dir_all(&staging); // only unfinished results
        result?;
        Ok(done.into_inner().unwrap_or_else(|e| e.into_inner()))
    }

    /// One video, through the folder `staging`. `Some` is an error of the video, an `Err` one of the output or of the machine.
    fn one(&self, video: &Video, staging: &Path, done: &Mutex<Done>) -> Result<Option<String>> {
        let tell = |change: &dyn Fn(&mut Done)| change(&mut done.lock().unwrap_or_else(|e| e.into_inner()));
        let (home, source) = (self.out.join(&video.name), format!("{:016x}\n", video.source.fingerprint()?));
        if home.join(field_name(0, "flo")).is_file() {
            if fs::read_to_string(home.join(Source::FINGERPRINT_FILE)).ok().as_ref() != Some(&source) {
                let home = home.display();
                let what = format!("{home} has the flow of another video, or of this one before it changed: remove it");
                return Ok(Some(what));
            }
            remove_unfinished(&home)?; // the output folder is locked
            let damaged = match cut_short(&home)? {
                None => self.draw(&home)?,
                cut => cut,
            };
            if let Some(why) = damaged {
                return Ok(Some(format!("{why}; remove {}, and it is computed again", home.display())));
            }
            tell(&|d| d.there += 1);
            return Ok(None);
        }
        if home.exists() {
            return Ok(Some(format!("{} is there and holds something else", home.display())));
        }
        self.go_on()?;
        let clip = match read(&video.source, None, &self.how, &Ffmpeg::default()) {
            Ok(clip) => clip,
            Err(e) if e.is_of_the_machine() => return Err(e.into()),
            Err(e) => return Ok(Some(e.to_string())),
        };
        let starts: Vec<usize> = (0..clip.t.saturating_sub(self.gap)).step_by(self.every).collect();
        if starts.is_empty() {
            return Ok(Some(format!("too few frames ({}) for a gap of {}", clip.t, self.gap)));
        }
        create(staging)?;
        let mut largest = 0.0f32;
        for some in starts.chunks(tvl1::PAIRS) {
            self.go_on()?;
            let flows = match self.flows(&clip, some) {
                Ok(flows) => flows,
                Err(e) => {
                    let _ = fs::remove_dir_all(staging); // ignore a second error; the first is returned
                    if e.is_of_the_machine() {
                        return Err(e.into());
                    }
                    return Ok(Some(e.to_string()));
                }
            };
            for (&t, flow) in some.iter().zip(&flows) {
                flo::write(staging.join(field_name(t, "flo")), flow)?;
                largest = largest.max(color::radius(flow));
            }
        }
        if let Some(why) = self.draw(staging)? {
            bail!(why);
        }
        write_atomic(&staging.join(Source::FINGERPRINT_FILE), source.as_bytes())?;
        sync(staging)?;
        let parent = home.parent().unwrap_or(self.out);
        create(parent)?;
        fs::rename(staging, &home).with_context(|| format!("cannot write {}", home.display()))?;
        sync(parent)?;
        tell(&|d| {
            d.written += 1;
            d.pairs += starts.len();
            d.largest = d.largest.max(largest);
            d.last = Some((clip.t, clip.h, clip.w, clip.fps));
        });
        Ok(None)
    }

    /// Draws those fields in `folder` that have no picture yet, if pictures are wanted. Colours are scaled by the largest
    /// displacement, so this comes after the last field, and reads the files. `Some` says which field is damaged.
    fn draw(&self, folder: &Path) -> Result<Option<String>> {
        let Some(mut radius) = self.pictures else { return Ok(None) };
        let fields = files_in(folder, "flo")?;
        let missing: Vec<&PathBuf> = fields.iter().filter(|field| !field.with_extension("png").exists()).collect();
        if missing.is_empty() {
            return Ok(None);
        }
        let read = |field: &Path| -> Result<Result<Flow, String>> {
            self.go_on()?;
            match flo::read(field) {
                Err(e) if e.is_of_the_machine() => Err(e.into()),
                read => Ok(read.map_err(|e| e.to_string())),
            }
        };
        let scaled = radius == 0.0;
        for field in fields.iter().filter(|_| scaled) {
            match read(field)? {
                Ok(flow) => radius = color::radius(&flow).max(radius),
                Err(why) => return Ok(Some(why)),
            }
        }
        for field in missing {
            match read(field)? {
                Ok(flow) => picture(&field.with_extension("png"), &flow, radius)?,
                Err(why) => return Ok(Some(why)),
            }
        }
        Ok(None)
    }

    fn flows(&self, clip: &Clip, starts: &[usize]) -> tubelet::error::Result<Vec<Flow>> {
        let gray = |t: usize| Gray::from_rgb(clip.frame(t), clip.h, clip.w);
        let frames =
            starts.iter().map(|&t| Ok((gray(t)?, gray(t + self.gap)?))).collect::<tubelet::error::Result<Vec<_>>>()?;
        self.flows.of(&frames.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>())
    }

    fn go_on(&self) -> Result<()> {
        if !self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let what = format!("the same command goes on with what {} does not have", self.out.display());
        Err(tubelet::error::Error::from(ErrorKind::Stopped { path: self.out.to_owned(), what }).into())
    }
}

/// The files in a folder that have this extension.
fn files_in(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>();
    let mut paths = read().with_context(|| format!("cannot read {}", folder.display()))?;
    paths.retain(|path| path.extension().is_some_and(|e| e == extension));
    Ok(paths)
}

/// Says which field in a folder is shorter than another, for all of a video have the same size.
fn cut_short(folder: &Path) -> Result<Option<String>> {
    let length = |field: PathBuf| {
        let length = fs::metadata(&field).with_context(|| format!("cannot read {}", field.display()))?.len();
        Ok((length, field))
    };
    let lengths: Vec<(u64, PathBuf)> = files_in(folder, "flo")?.into_iter().map(length).collect::<Result<_>>()?;
    let (Some((least, field)), Some((most, _))) = (lengths.iter().min(), lengths.iter().max()) else { return Ok(None) };
    let why = || format!("{} is cut short: it has {least} bytes, and others {most}", field.display());
    Ok((least < most).then(why))
}

/// A field is named after its first frame.
fn field_name(t: usize, kind: &str) -> String {
    format!("flow_{t:05}.{kind}")
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Syncs `folder`, so that its entries survive a power failure.
fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).with_context(|| format!("cannot sync {}", folder.display()))
}

/// Writes flow in Middlebury's colours as a PNG file, atomically.
pub fn picture(path: &Path, flow: &Flow, radius: f32) -> Result<()> {
    save_png(path, &color::image(flow, radius), (u32::try_from(flow.w())?, u32::try_from(flow.h())?))
}
