//! Stopping by signals.

use anyhow::{Error, Result};
use signal_hook::consts::{SIGTERM, SIGXFSZ, TERM_SIGNALS};
use signal_hook::flag::{register, register_conditional_shutdown, register_usize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tubelet::error::ErrorKind;

/// The number of the signal that requested the stop.
static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// The flag, once signals set it.
static STOP: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// Set by SIGINT, SIGTERM and SIGQUIT; a second signal ends the program at once. It is the same for all who ask.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let mut known = STOP.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(stop) = &*known {
        return Ok(stop.clone());
    }
    let (stop, which) = (Arc::new(AtomicBool::new(false)), SIGNAL.get_or_init(Arc::default));
    for &signal in TERM_SIGNALS {
        register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
        register_usize(signal, which.clone(), signal as usize)?;
        register(signal, stop.clone())?;
    }
    *known = Some(stop.clone());
    Ok(stop)
}

/// A check of the stop flag, with `what` is told of the work in `path` that was stopped.
pub fn go_on(stop: Arc<AtomicBool>, path: &Path, what: &'static str) -> impl Fn() -> tubelet::Result<()> + use<> {
    let path = path.to_owned();
    move || match stop.load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(ErrorKind::Stopped { path: path.clone(), what: what.into() }.into()),
    }
}

/// Lets a write beyond the limit of a file's size (`ulimit -f`) fail as one to a full disk does. Without a handler its signal
/// would end the program at once.
pub fn survive_file_limit() -> Result<()> {
    register(SIGXFSZ, Arc::default())?;
    Ok(())
}

/// The message of a program that was stopped, and its exit status, as a shell reports it for a program terminated by
/// the signal: 130 for SIGINT, 143 for SIGTERM. Of `several` ranks all have the status of SIGTERM, whichever of them got which
/// signal. `None` if `error` is a failure.
pub fn stopped(error: &Error, several: bool) -> Option<(String, u8)> {
    let cause = error.chain().filter_map(|cause| cause.downcast_ref::<tubelet::error::Error>());
    let text = cause.filter(|e| matches!(e.kind(), ErrorKind::Stopped { .. })).last()?.to_string();
    if several {
        return Some((text, 128 + SIGTERM as u8));
    }
    let signal = SIGNAL.get().map_or(0, |signal| signal.load(Ordering::Relaxed));
    Some((text, 128 + u8::try_from(signal).ok().filter(|s| (1..128).contains(s)).unwrap_or(2)))
}
