//! The index of a packed folder of ten million videos: how long opening it takes, how much memory, how fast its videos are
//! found in the order of an epoch.
//!
//!     cargo bench --bench pack [-- DIR [VIDEOS]]        DIR receives index.tbi, 1 GB for ten million videos
//!
//! The index is written by another process, so that its memory does not count.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tubelet::video::Permutation;
use tubelet::video::pack::{Index, synthetic};

/// Processes among which the videos are divided.
const WORLD: u64 = 8;
/// Videos that are looked up.
const LOOKED_UP: u64 = 1_000_000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", dir, videos] => Ok(synthetic(Path::new(dir), videos.parse()?)?),
        [] => measure(&std::env::temp_dir().join("tubelet-pack"), 10_000_000),
        [dir] => measure(Path::new(dir), 10_000_000),
        [dir, videos] => measure(Path::new(dir), videos.parse()?),
        _ => anyhow::bail!("arguments: [DIR [VIDEOS]]"),
    }
}

fn measure(dir: &Path, videos: u64) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let path: PathBuf = dir.join("index.tbi");
    let made = Command::new(std::env::current_exe()?).arg("make").arg(dir).arg(videos.to_string()).status()?;
    ensure!(made.success(), "the index could not be written");
    let bytes = std::fs::metadata(&path)?.len();
    println!("{videos} videos, an index of {:.0} MB", bytes as f64 / 1e6);

    let began = Instant::now();
    let index = Index::open(&path)?;
    println!("opened and compared with its checksum in {:.2} s, {}", began.elapsed().as_secs_f64(), memory()?);

    let began = Instant::now();
    let order = Permutation::new(videos, 0, 0);
    let sum = (0..LOOKED_UP).fold(0u64, |sum, i| sum.wrapping_add(order.at(i % videos)));
    println!("order of an epoch: {:.0} ns a video (checksum {sum:x})", nanoseconds(began, LOOKED_UP));

    let (began, mut names) = (Instant::now(), 0);
    let n = LOOKED_UP.min(videos / WORLD);
    for i in 0..n {
        let video = order.at(i * WORLD + 3);
        index.entry(video)?.context("a video without data")?;
        names += index.name(video)?.len();
    }
    println!(
        "entry and name in the order of rank 3 of {WORLD}: {:.0} ns a video ({} characters), {}; {} videos of an epoch are left out",
        nanoseconds(began, n),
        names,
        memory()?,
        videos % WORLD
    );
    Ok(())
}

fn nanoseconds(began: Instant, n: u64) -> f64 {
    began.elapsed().as_secs_f64() * 1e9 / n.max(1) as f64
}

/// Memory of this process: its own, and pages of mapped files, which the system takes back when it needs them.
fn memory() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1e3
    };
    Ok(format!("{:.0} MB of its own and {:.0} MB of mapped files", of("RssAnon:"), of("RssFile:")))
}
