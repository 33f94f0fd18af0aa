//! Checks of the machine before a run starts: folders and memory.

use anyhow::{Result, ensure};
use std::path::Path;
use tubelet::train::recipe::Training;

/// Refuses a path that cannot become a folder, because it or one of its parents is a file.
pub fn folder_to_be(option: &str, path: &Path) -> Result<()> {
    let there = path.ancestors().find(|p| p.exists());
    let file = there.filter(|p| !p.is_dir());
    ensure!(file.is_none(), "{option} {}: {} is not a folder", path.display(), file.unwrap_or(path).display());
    Ok(())
}

/// Refuses clips that do not fit in main memory: those of one step, `clips` of each video, and as many again, which are
/// prefetched. Memory of the networks is not included.
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

/// Bytes of main memory, if the system reports it.
fn main_memory() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u128>().ok().map(|kilo| kilo * 1024)
}
