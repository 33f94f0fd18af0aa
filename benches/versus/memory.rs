//! What a run needs beside its operands.

use std::fs;
use tubelet::error::Result;

/// MiB by which the process grew at most during `run`; `None` where the system does not tell.
pub fn extra_mib(run: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
    // The peak begins anew: Linux' way to ask for that.
    if fs::write("/proc/self/clear_refs", "5").is_err() {
        return Ok(None);
    }
    let before = kib("VmRSS");
    run()?;
    Ok(before.zip(kib("VmHWM")).map(|(before, peak)| (peak - before) / 1024.0))
}

fn kib(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find(|l| l.starts_with(key))?.split_whitespace().nth(1)?.parse().ok()
}
