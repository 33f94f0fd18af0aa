//! `cargo xtask pack-trial`: the example `pack` on a few thousand short videos, by shards that are killed at random moments.
//!
//! The folder that comes of it must equal, byte for byte, that of one process that was left alone.

use crate::chaos::Draw;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Classes of the videos.
const CLASSES: usize = 8;
/// Shards that run at the same time.
const AT_ONCE: usize = 2;
/// A process is killed after up to so many milliseconds.
const LONGEST: u64 = 6000;

/// Command-line options.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// Folder for videos and packed folders.
    pub folder: PathBuf,
    /// Number of videos.
    pub videos: usize,
    /// Number of shards.
    pub shards: usize,
    /// Kills of each shard, before it is left alone.
    pub kills: usize,
    /// Seed of the moments.
    pub seed: u64,
    /// Folder of the compiled examples; they are built if it is not given.
    pub programs: Option<PathBuf>,
    /// Where to write the results as JSON.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Parses `DIR [--videos N] [--shards N] [--kills N] [--seed N] [--programs DIR] [--json FILE]`.
    ///
    /// # Errors
    /// One sentence for an option that is unknown or lacks its value.
    pub fn parse(args: &[String]) -> Result<Options> {
        let Some((folder, args)) = args.split_first().filter(|(folder, _)| !folder.starts_with('-')) else {
            bail!("pack-trial needs a folder");
        };
        let (programs, json) = (None, None);
        let mut o = Options { folder: folder.into(), videos: 2000, shards: 8, kills: 4, seed: 0, programs, json };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().with_context(|| format!("{arg} needs a value"))?;
            let number = || value.parse::<usize>().with_context(|| format!("{arg} is a whole number, not {value}"));
            match arg.as_str() {
                "--videos" => o.videos = number()?,
                "--shards" => o.shards = number()?,
                "--kills" => o.kills = number()?,
                "--seed" => o.seed = number()? as u64,
                "--programs" => o.programs = Some(value.into()),
                "--json" => o.json = Some(value.into()),
                _ => bail!("pack-trial has no option {arg}"),
            }
        }
        ensure!(o.videos >= 4 * CLASSES && o.shards > 0, "pack-trial needs {} videos and a shard", 4 * CLASSES);
        Ok(o)
    }
}

/// Makes the videos, packs them in both ways, compares, and prints what was measured.
///
/// # Errors
/// A program that failed, or a difference.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let programs = match &options.programs {
        Some(programs) => programs.clone(),
        None => {
            let build = ["build", "--release", "--example", "pack"];
            ensure!(Command::new("cargo").current_dir(root).args(build).status()?.success(), "pack cannot be built");
            root.join("target/release/examples")
        }
    };
    let pack = programs.canonicalize().context("--programs")?.join("pack");
    let videos = options.folder.join("videos");
    make_videos(&videos, options.videos)?;
    let [one, many] = ["one", "many"].map(|name| options.folder.join(name));
    for dir in [&one, &many] {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
    }
    let shard = |dir: &Path, shard: String| {
        let mut command = Command::new(&pack);
        command.arg("--data").arg(&videos).arg("--cache").arg(dir).args(["--shard", &shard, "--threads", "1"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let began = (Instant::now(), children());
    ensure!(shard(&one, "0/1".into()).status()?.success(), "the process that was left alone failed");
    let (elapsed, busy) = (began.0.elapsed().as_secs_f64(), children() - began.1);

    let (mut draw, mut killed) = (Draw(options.seed), 0);
    let mut left: Vec<(usize, usize)> = (0..options.shards).map(|i| (i, options.kills)).collect();
    while !left.is_empty() {
        let now: Vec<(usize, usize)> = left.drain(..left.len().min(AT_ONCE)).collect();
        let mut running = Vec::new();
        for (i, kills) in now {
            let child = shard(&many, format!("{i}/{}", options.shards)).spawn()?;
            let moment = Instant::now() + Duration::from_millis(draw.below(LONGEST));
            running.push((i, kills, child, moment));
        }
        for (i, kills, mut child, moment) in running {
            if kills == 0 {
                ensure!(child.wait()?.success(), "shard {i} failed");
                continue;
            }
            std::thread::sleep(moment.saturating_duration_since(Instant::now()));
            if child.try_wait()?.is_none() {
                child.kill()?;
                killed += 1;
            }
            if !child.wait()?.success() {
                left.push((i, kills - 1));
            }
        }
    }
    for dir in [&one, &many] {
        for action in ["--merge", "--verify"] {
            let done = Command::new(&pack).arg("--cache").arg(dir).arg(action).stdout(Stdio::null()).status()?;
            ensure!(done.success(), "{action} of {} failed", dir.display());
        }
    }
    let (want, got) = (content(&one)?, content(&many)?);
    let differ: Vec<&String> =
        want.iter().filter(|(name, bytes)| got.get(*name) != Some(bytes)).map(|(n, _)| n).collect();
    ensure!(differ.is_empty() && want.len() == got.len(), "these files differ: {differ:?}");
    let bytes: u64 = want.values().map(|(_, bytes)| bytes).sum();
    println!(
        "{} videos by {} shards, killed {killed} times: {} files, {:.1} MB, equal to those of one process",
        options.videos,
        options.shards,
        want.len(),
        bytes as f64 / 1e6
    );
    let (elapsed_rate, rate) = (options.videos as f64 / elapsed, options.videos as f64 / busy);
    println!(
        "one process, one thread: {elapsed:.1} s, {elapsed_rate:.1} videos a second; {rate:.1} a second of processor time"
    );
    if let Some(path) = &options.json {
        let record: Value = json!({"videos": options.videos, "shards": options.shards, "kills": killed, "files": want.len(),
            "bytes": bytes, "seconds": elapsed, "processor_seconds": busy});
        fs::write(path, serde_json::to_vec_pretty(&record)?)?;
    }
    Ok(())
}

/// Short videos that differ in their noise, and so in every frame. Those of an earlier trial are kept.
fn make_videos(dir: &Path, count: usize) -> Result<()> {
    for i in 0..count {
        let path = dir.join(format!("class{}/v{i:06}.mp4", i % CLASSES));
        if path.exists() {
            continue;
        }
        fs::create_dir_all(path.parent().unwrap_or(dir))?;
        let source = format!("testsrc2=size=160x120:rate=25:duration=0.8,noise=alls=8:all_seed={}", i + 1);
        let unfinished = path.with_extension("part");
        let encode = ["-c:v", "mpeg4", "-q:v", "5", "-threads", "1", "-f", "mp4"];
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", &source]).args(encode).arg(&unfinished);
        ensure!(command.status().context("ffmpeg")?.success(), "ffmpeg cannot make {}", path.display());
        fs::rename(unfinished, path)?;
    }
    Ok(())
}

/// Checksum and length of every file of a packed folder that does not depend on the number of shards.
fn content(dir: &Path) -> Result<BTreeMap<String, (String, u64)>> {
    use sha2::{Digest, Sha256};
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != "pack.json" && !name.ends_with("lock") {
            let bytes = fs::read(&path)?;
            files.insert(name, (format!("{:x?}", Sha256::digest(&bytes)), bytes.len() as u64));
        }
    }
    Ok(files)
}

/// Processor time of all processes that have ended, in seconds, with their children.
fn children() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `getrusage` fills the structure, which is valid when all its bytes are zero.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
