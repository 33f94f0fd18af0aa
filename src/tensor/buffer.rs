//! Memory of tensors: 64-byte aligned, recycled.
//!
//! A training step asks for the same sizes again and again. Fresh pages from the operating system cost more than
//! many of our kernels, so freed buffers wait here for the next request of their size.

use bytemuck::{Pod, Zeroable};
use std::collections::HashMap;
use std::sync::Mutex;

/// One cache line; the unit of allocation.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Freed blocks by their length in lines, and how many lines wait in all.
struct Pool {
    free: Option<HashMap<usize, Vec<Vec<Line>>>>,
    waiting: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: None, waiting: 0 });

/// At most this many lines wait (2 GiB); what is freed beyond goes back to the system.
const MAX_WAITING: usize = 2 << 24;

/// Blocks smaller than this (16 KiB) are left to the allocator, which handles them without page faults.
const MIN_POOLED: usize = 256;

/// A fixed number of plain elements, aligned to a cache line.
pub(crate) struct Buffer<T: Pod> {
    lines: Vec<Line>,
    len: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// `len` elements of arbitrary content: for results that are written whole.
    pub fn arbitrary(len: usize) -> Self {
        let n = (len * size_of::<T>()).div_ceil(64);
        let recycled = (n >= MIN_POOLED).then(|| take(n)).flatten();
        let lines = recycled.unwrap_or_else(|| vec![Line::zeroed(); n]);
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

    pub fn as_slice(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

fn take(n: usize) -> Option<Vec<Line>> {
    let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
    let got = pool.free.as_mut()?.get_mut(&n)?.pop()?;
    pool.waiting -= n;
    Some(got)
}

impl<T: Pod> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self::from_slice(self.as_slice())
    }
}

impl<T: Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        let n = self.lines.len();
        if n < MIN_POOLED {
            return;
        }
        let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
        if pool.waiting + n <= MAX_WAITING {
            pool.waiting += n;
            let lines = std::mem::take(&mut self.lines);
            pool.free.get_or_insert_default().entry(n).or_default().push(lines);
        }
    }
}
