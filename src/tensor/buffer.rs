//! Memory of tensors: 64-byte aligned, recycled, counted.

use super::arena::{self, Block, Line};
use crate::driver::Usage;
use bytemuck::{Pod, Zeroable};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Blocks of fewer lines (16 KiB) are left to the allocator, which handles them without page faults.
const MIN_POOLED: usize = 256;

/// Bytes in use, and the most there have been since [`reset_peak`].
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
    /// `len` elements of arbitrary content: for results that are written whole.
    pub fn arbitrary(len: usize) -> Self {
        let n = (len * size_of::<T>()).div_ceil(64);
        let lines = if n < MIN_POOLED { Lines::Few(vec![Line::zeroed(); n]) } else { Lines::Many(Block::take(n)) };
        let now = LIVE.fetch_add(n * 64, Relaxed) + n * 64;
        PEAK.fetch_max(now, Relaxed);
        Buffer { lines, len, of: std::marker::PhantomData }
    }

    pub fn zeroed(len: usize) -> Self {
        let mut b = Self::arbitrary(len);
        b.as_mut_slice().fill(T::zeroed());
        b
    }

    pub fn from_slice(s: &[T]) -> Self {
        let mut b = Self::arbitrary(s.len());
        b.as_mut_slice().copy_from_slice(s);
        b
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

impl<T: Pod> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self::from_slice(self.as_slice())
    }
}

impl<T: Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        LIVE.fetch_sub(self.lines().len() * 64, Relaxed);
    }
}
