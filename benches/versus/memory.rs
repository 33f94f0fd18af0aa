//! What a run needs beside its operands.

use std::fs;
use tubelet::error::Result;
use tubelet::tensor::memory;

/// MiB that `run` took at most: by which the process grew, or, where it uses what the process held already, by which
/// tensors did. `None` where the system does not tell.
pub fn extra_mib(run: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
    // The peak begins anew: Linux' way to ask for that.
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
