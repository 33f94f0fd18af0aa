//! Page-locked memory through which uploads pass.
//!
//! A driver may read a pageable source after the call has returned (it does where the GPU can access the host's pages), and the
//! source of an upload may be dropped then. Bytes are therefore copied into page-locked memory first, which is also what a
//! device reads fastest. The slots form a ring: one is filled while the device reads others.

use super::check;
use crate::error::Result;
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr;

/// Bytes of a slot.
const SLOT: usize = 4 << 20;
/// Slots: one that is filled, and a few that are read.
const SLOTS: usize = 4;

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
unsafe impl Send for Staging {}

impl Staging {
    /// Enqueues the copy of `bytes` to device address `to` in `stream`. The bytes may be dropped when it returns.
    ///
    /// # Safety
    /// The context is current, `stream` is one of its streams, and `to` is device memory of that length.
    pub unsafe fn upload(&mut self, to: u64, bytes: &[u8], stream: sys::CUstream) -> Result<()> {
        if self.slots.len() < SLOTS && !bytes.is_empty() {
            // SAFETY: the context is current.
            unsafe { self.fill() }?;
        }
        for (i, chunk) in bytes.chunks(SLOT).enumerate() {
            let slot = &self.slots[self.next];
            self.next = (self.next + 1) % SLOTS;
            // SAFETY: the slot is as long as the longest chunk, and nothing reads it any more once its event has happened.
            unsafe {
                check("wait for an earlier upload", sys::cuEventSynchronize(slot.read))?;
                slot.at.copy_from_nonoverlapping(chunk.as_ptr(), chunk.len());
                let target = to + (i * SLOT) as u64;
                check("upload", sys::cuMemcpyHtoDAsync_v2(target, slot.at.cast(), chunk.len(), stream))?;
                check("record an event", sys::cuEventRecord(slot.read, stream))?;
            }
        }
        Ok(())
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
