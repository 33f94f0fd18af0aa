//! Memory of tensors: 64-byte aligned, recycled, counted.

use super::Device;
use super::arena::{self, Block, Line};
use crate::cpu::traffic::{self, Work};
use crate::driver::Usage;
use crate::error::{Error, ErrorKind, Result};
use bytemuck::{Pod, Zeroable};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Blocks of fewer lines (16 KiB) are left to the system allocator, which handles them without page faults.
const MIN_POOLED: usize = 256;

/// Bytes in use, and their maximum since [`reset_peak`].
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

pub(super) fn usage() -> Usage {
    let (held, allocations) = arena::held();
    let live = LIVE.load(Relaxed);
    Usage { live, peak: PEAK.load(Relaxed), held: held.max(live), allocations }
}

pub(super) fn reset_peak() {
    PEAK.store(LIVE.load(Relaxed), Relaxed);
}

enum Lines {
    Few(Vec<Line>),
    Many(Block),
}

/// A fixed number of plain elements, aligned to a cache line.
pub(crate) struct Buffer<T: Pod> {
    lines: Lines,
    len: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// `len` elements of arbitrary content, for results whose every element is written.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn arbitrary(len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>());
        let n = bytes.div_ceil(64);
        let lines = match n {
            ..MIN_POOLED => Lines::Few(vec![Line::zeroed(); n]),
            _ => Lines::Many(Block::take(n).ok_or_else(|| out_of_memory(bytes))?),
        };
        let now = LIVE.fetch_add(n * 64, Relaxed) + n * 64;
        PEAK.fetch_max(now, Relaxed);
        Ok(Buffer { lines, len, of: std::marker::PhantomData })
    }

    /// As [`Buffer::arbitrary`], for a thread's temporary arrays, which are small compared with the tensors of an
    /// operation.
    ///
    /// # Panics
    /// When there is no memory left.
    pub fn workspace(len: usize) -> Self {
        Self::arbitrary(len).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn from_slice(s: &[T]) -> Result<Self> {
        let _pass = copying::<T>(s.len());
        let mut b = Self::arbitrary(s.len())?;
        b.as_mut_slice().copy_from_slice(s);
        Ok(b)
    }

    fn lines(&self) -> &[Line] {
        match &self.lines {
            Lines::Few(lines) => lines,
            Lines::Many(block) => block,
        }
    }

    pub fn as_slice(&self) -> &[T] {
        &bytemuck::cast_slice(self.lines())[..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        let lines: &mut [Line] = match &mut self.lines {
            Lines::Few(lines) => lines,
            Lines::Many(block) => block,
        };
        &mut bytemuck::cast_slice_mut(lines)[..self.len]
    }
}

impl<T: Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        LIVE.fetch_sub(self.lines().len() * 64, Relaxed);
    }
}

/// A pass that copies `len` numbers to a new array.
pub(super) fn copying<T>(len: usize) -> traffic::Pass {
    let bytes = len * size_of::<T>();
    let pass = traffic::pass("copy", || Work::moves(bytes, bytes, 1));
    traffic::allocated(bytes);
    pass
}

/// The error for an allocation of `asked` bytes.
fn out_of_memory(asked: usize) -> Error {
    ErrorKind::OutOfMemory { device: Device::Cpu.to_string(), asked, live: usage().live }.into()
}
