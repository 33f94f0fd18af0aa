//! Additional memory used by a run.

use std::fs;
use tubelet::error::Result;
use tubelet::tensor::memory;

/// Peak MiB that `run` needed: the growth of the process or, if it reused memory that the process held already, of its
/// tensors. `None` if the system does not report it.
pub fn extra_mib(run: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
    // Resets the peak (on Linux).
    if fs::write("/proc/self/clear_refs", "5").is_err() {
        return Ok(None);
    }
    let before = kib("VmRSS");
    memory::reset_peak();
    let live = memory::usage().live;
    run()?;
    let tensors = (memory::usage().peak - live) as f64 / 1024.0;
    Ok(before.zip(kib("VmHWM")).map(|(before, peak)| (peak - before).max(tensors) / 1024.0))
}

fn kib(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find(|l| l.starts_with(key))?.split_whitespace().nth(1)?.parse().ok()
}
