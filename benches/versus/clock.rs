//! Which time is taken.

use std::time::Instant;

/// The wall's time, or that which all processors spent on this process: on a machine that does other work too, the second
/// still means something, on one thread.
#[derive(Clone, Copy)]
pub struct Clock {
    begin: Instant,
    processor: bool,
}

impl Clock {
    /// Starts one.
    pub fn new(processor: bool) -> Self {
        Clock { begin: Instant::now(), processor }
    }

    /// Seconds since some moment.
    pub fn seconds(&self) -> f64 {
        if self.processor { processor_seconds() } else { self.begin.elapsed().as_secs_f64() }
    }
}

#[cfg(unix)]
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one `timespec`, which is there.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

#[cfg(not(unix))]
fn processor_seconds() -> f64 {
    f64::NAN
}
