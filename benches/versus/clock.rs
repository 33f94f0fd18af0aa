//! The clock used for timing.

use std::time::Instant;

/// Wall time, or the processor time of this process: on a machine with other load, the latter is still meaningful, for
/// a single thread.
#[derive(Clone, Copy)]
pub struct Clock {
    begin: Instant,
    processor: bool,
}

impl Clock {
    /// Starts a clock.
    pub fn new(processor: bool) -> Self {
        Clock { begin: Instant::now(), processor }
    }

    /// Seconds since an arbitrary moment.
    pub fn seconds(&self) -> f64 {
        if self.processor { processor_seconds() } else { self.begin.elapsed().as_secs_f64() }
    }
}

#[cfg(unix)]
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one `timespec`, which is a local variable.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

#[cfg(not(unix))]
fn processor_seconds() -> f64 {
    f64::NAN
}
