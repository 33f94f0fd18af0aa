//! What of this machine must suit a run before it begins: its folders and its memory.

use anyhow::{Result, ensure};
use std::path::Path;
use tubelet::train::recipe::Training;

/// Refuses a path that no folder can have, because it or one above it is a file.
pub fn folder_to_be(option: &str, path: &Path) -> Result<()> {
    let there = path.ancestors().find(|p| p.exists());
    let file = there.filter(|p| !p.is_dir());
    ensure!(file.is_none(), "{option} {}: {} is not a folder", path.display(), file.unwrap_or(path).display());
    Ok(())
}

/// Refuses clips that main memory cannot hold: those of a step, `clips` of each video, and as many again, which are prepared
/// meanwhile. What the networks hold comes on top and is not counted.
pub fn check_memory(training: &Training, clips: usize) -> Result<()> {
    let Some(total) = main_memory() else { return Ok(()) };
    let [rgb, motion] = training.views.dims().map(|dims| dims.iter().product::<usize>());
    let bytes = 2 * 4 * (training.batch * clips) as u128 * rgb.max(motion) as u128;
    let giga = |bytes: u128| bytes as f64 * 1e-9;
    ensure!(
        bytes <= total,
        "the clips of two steps are {:.1} GB, and this machine has {:.1} GB of memory: make --batch ({}), --side ({}), \
         --frames ({}) or --motion-frames ({}) smaller",
        giga(bytes),
        giga(total),
        training.batch,
        training.views.side,
        training.views.frames,
        training.views.motion_frames
    );
    Ok(())
}

/// Bytes of main memory, where the system says so.
fn main_memory() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u128>().ok().map(|kilo| kilo * 1024)
}
