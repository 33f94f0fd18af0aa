//! Whether reading is to go on: asked by the libraries while they read, and by us between their calls.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ffmpeg_sys_next::AVIOInterruptCB;

use super::super::pipe::{Failure, Patience, Silence};
use super::super::programs::failed;
use crate::error::Result;

/// The stop flag, and how long no frame was decoded.
pub(super) struct Watch<'a> {
    path: &'a Path,
    patience: Patience<'a>,
    silence: RefCell<(Silence, Instant)>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(path: &'a Path, patience: Patience<'a>) -> Self {
        Watch { path, patience, silence: RefCell::new((Silence::new(patience.silence), Instant::now())) }
    }

    /// What the libraries call. It must not be called after `self` was moved or dropped.
    pub(super) fn callback(&self) -> AVIOInterruptCB {
        AVIOInterruptCB { callback: Some(interrupted), opaque: std::ptr::from_ref(self).cast_mut().cast() }
    }

    /// A frame was decoded.
    pub(super) fn alive(&self) {
        self.silence.borrow_mut().0.broken();
    }

    fn why(&self) -> Option<Failure> {
        let (silence, last) = &mut *self.silence.borrow_mut();
        let now = Instant::now();
        silence.add(now - std::mem::replace(last, now));
        if self.patience.stop.load(Ordering::Relaxed) {
            return Some(Failure::Stopped);
        }
        silence.left().is_zero().then_some(Failure::Silent)
    }

    /// # Errors
    /// `Stopped` when the flag was set, `Program` when the time limit has passed.
    pub(super) fn look(&self) -> Result<()> {
        self.why().map_or(Ok(()), |failure| Err(failed("libav", self.path, 0, self.patience, failure)))
    }
}

/// # Safety
/// `watch` must be a [`Watch`].
unsafe extern "C" fn interrupted(watch: *mut c_void) -> c_int {
    // SAFETY: by the contract of this function; the lifetime ends before that of the file.
    let watch = unsafe { &*watch.cast::<Watch<'_>>() };
    c_int::from(watch.why().is_some())
}
