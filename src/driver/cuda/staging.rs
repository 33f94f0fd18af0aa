//! Page-locked memory through which uploads pass.
//!
//! A driver may read a pageable source after the call has returned (it does where the GPU can access the host's pages), and the
//! source of an upload may be dropped then. Bytes are therefore copied into page-locked memory first, which is also what a
//! device reads fastest. The slots form a ring: one is filled while the device reads others. A device
//! reads faster than one thread copies, so a long upload has a thread for each slot.

use super::check;
use crate::error::Result;
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::{panic, ptr, thread};

/// Bytes of a slot.
const SLOT: usize = 4 << 20;
/// Slots: one that is filled, and a few that are read.
const SLOTS: usize = 4;

/// Bytes from which on threads fill the slots: as many as the ring holds. One thread takes a millisecond or two for them, many
/// times what it takes to start others.
const SHARED: usize = SLOTS * SLOT;

/// The context and the stream of an upload.
#[derive(Clone, Copy)]
pub(super) struct By {
    pub context: sys::CUcontext,
    pub stream: sys::CUstream,
}

// SAFETY: handles, which the driver's functions take on any thread.
unsafe impl Send for By {}

/// What goes through a slot at once: bytes that are one behind the other on the device.
struct Piece<'a> {
    to: u64,
    bytes: usize,
    of: Vec<&'a [u8]>,
}

/// The ring; its memory is allocated by the first upload.
#[derive(Default)]
pub(super) struct Staging {
    slots: Vec<Slot>,
    next: usize,
}

/// Page-locked memory, and an event after the last copy from it.
struct Slot {
    at: *mut u8,
    read: sys::CUevent,
}

// SAFETY: the memory is reached through this value alone, and the driver's functions may be called from any thread.
unsafe impl Send for Slot {}

impl Slot {
    /// Enqueues the copy of a piece.
    ///
    /// # Safety
    /// As [`Staging::upload`], and the piece is no longer than a slot.
    unsafe fn copy(&mut self, piece: &Piece, stream: sys::CUstream) -> Result<()> {
        // SAFETY: the slot is as long as the longest piece, and nothing reads it any more once its event has happened.
        unsafe {
            check("wait for an earlier upload", sys::cuEventSynchronize(self.read))?;
            let mut at = self.at;
            for part in &piece.of {
                at.copy_from_nonoverlapping(part.as_ptr(), part.len());
                at = at.add(part.len());
            }
            check("upload", sys::cuMemcpyHtoDAsync_v2(piece.to, self.at.cast(), piece.bytes, stream))?;
            check("record an event", sys::cuEventRecord(self.read, stream))
        }
    }
}

/// The bytes of `parts`, which are to lie one behind the other from device address `to` on, cut into pieces.
fn cut<'a>(to: u64, parts: &[&'a [u8]]) -> Vec<Piece<'a>> {
    let (mut pieces, mut at): (Vec<Piece>, u64) = (Vec::new(), to);
    for mut rest in parts.iter().copied() {
        while !rest.is_empty() {
            if pieces.last().is_none_or(|last| last.bytes == SLOT) {
                pieces.push(Piece { to: at, bytes: 0, of: Vec::new() });
            }
            let Some(piece) = pieces.last_mut() else { unreachable!("one was just pushed") };
            let (now, later) = rest.split_at(rest.len().min(SLOT - piece.bytes));
            piece.of.push(now);
            piece.bytes += now.len();
            (rest, at) = (later, at + now.len() as u64);
        }
    }
    pieces
}

impl Staging {
    /// Enqueues the copy of `parts`, one behind the other, to device address `to`. They may be dropped when it returns.
    ///
    /// # Safety
    /// The context is current, the stream is one of its streams, and `to` is device memory of that length.
    pub unsafe fn upload(&mut self, to: u64, parts: &[&[u8]], by: By) -> Result<()> {
        let pieces = cut(to, parts);
        if self.slots.len() < SLOTS && !pieces.is_empty() {
            // SAFETY: the context is current.
            unsafe { self.fill() }?;
        }
        if pieces.iter().map(|piece| piece.bytes).sum::<usize>() < SHARED {
            for piece in &pieces {
                // SAFETY: as this function asks; `cut` makes no longer pieces.
                unsafe { self.slots[self.next].copy(piece, by.stream) }?;
                self.next = (self.next + 1) % SLOTS;
            }
            return Ok(());
        }
        // Threads of their own: one of a pool may be lent to another task, which may upload too, while this value is locked.
        thread::scope(|scope| {
            let mut threads = Vec::with_capacity(SLOTS);
            for (i, slot) in self.slots.iter_mut().enumerate() {
                let mine = pieces.iter().skip(i).step_by(SLOTS);
                threads.push(scope.spawn(move || {
                    let By { context, stream } = { by };
                    // SAFETY: as this function asks; each slot belongs to one thread.
                    unsafe {
                        check("use the device's context", sys::cuCtxSetCurrent(context))?;
                        mine.into_iter().try_for_each(|piece| slot.copy(piece, stream))
                    }
                }));
            }
            let done = threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
            done.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// Allocates the slots that are missing.
    ///
    /// # Safety
    /// The context is current.
    unsafe fn fill(&mut self) -> Result<()> {
        while self.slots.len() < SLOTS {
            let (mut at, mut read) = (ptr::null_mut::<c_void>(), ptr::null_mut());
            // SAFETY: the results go to locals. An event that was never recorded has happened.
            unsafe {
                check("allocate page-locked memory", sys::cuMemHostAlloc(&mut at, SLOT, 0))?;
                let made = sys::cuEventCreate(&mut read, sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32);
                if made != CUresult::CUDA_SUCCESS {
                    sys::cuMemFreeHost(at);
                    check("make an event", made)?;
                }
            }
            self.slots.push(Slot { at: at.cast(), read });
        }
        Ok(())
    }

    /// Frees the slots.
    ///
    /// # Safety
    /// The context is current, and no copy is under way.
    pub unsafe fn free(&mut self) {
        for slot in self.slots.drain(..) {
            // SAFETY: each was made by `fill`, and nothing uses it.
            unsafe {
                sys::cuEventDestroy_v2(slot.read);
                sys::cuMemFreeHost(slot.at.cast());
            }
        }
    }
}
