//! Filters packed for the kernels, and the division of the work into tasks.

use super::super::loop_nest::{LoopNest, TAPS};
use super::kernel::{Kernels, VECTORS};
use super::operand::Number;
use super::transpose::transpose;
use crate::cpu::traffic::{self, Temporary, Work};
use crate::error::Result;
use crate::tensor::Buffer;
use rayon::prelude::*;
use std::ops::Range;

/// Filters as the kernels read them: `group block tap element channel`, the channels of a block padded to whole vectors;
/// for a sliding nest, `group block three element tap channel`. The elements are those of the run, the last one filled up with
/// zeros.
pub(super) struct Panels<N: Number> {
    data: Buffer<N>,
    pub blocks: Vec<Block>,
    pub groups: usize,
    /// Channels of one group.
    pub channels: usize,
    /// Numbers per block.
    len: usize,
}

/// Distances between neighbouring filter elements in the array that is packed.
pub(super) struct Strides {
    pub group: usize,
    pub channel: usize,
    pub tap: usize,
    /// Either this or `channel` is 1.
    pub run: usize,
}

impl<N: Number> Panels<N> {
    /// Packs the filters of `groups` groups of `channels` results each.
    pub fn pack(k: &Kernels<N>, nest: &LoopNest, w: &[N], groups: usize, channels: usize, s: Strides) -> Result<Self> {
        let taps: Vec<usize> = nest.taps().map(|t| nest.index(t)).collect();
        let side = if nest.slides(N::DEPTH) { TAPS } else { 1 }; // adjacent taps
        let (blocks, run) = (blocks(k, channels, VECTORS), nest.run);
        let len = taps.len() * run.next_multiple_of(N::DEPTH) * VECTORS * k.lanes;
        let mut data = Buffer::arbitrary(groups * blocks.len() * len)?;
        let bytes = size_of_val(data.as_slice());
        traffic::temporary(Temporary::Filters, bytes, bytes);
        data.as_mut_slice().par_chunks_mut(len.max(1)).enumerate().for_each(|(i, panel)| {
            let (group, block) = (i / blocks.len(), &blocks[i % blocks.len()]);
            let width = block.vectors * k.lanes * N::DEPTH;
            let of_taps = run.div_ceil(N::DEPTH) * side * width;
            for (taps, panel) in taps.chunks_exact(side).zip(panel.chunks_exact_mut(of_taps.max(1))) {
                let w = &w[group * s.group + block.first * s.channel..];
                // One cache line of each filter at a time.
                for (part, panel) in panel.chunks_mut(16 * side * width).enumerate() {
                    let first = part * 16 * N::DEPTH;
                    let numbers = (panel.len() / (side * width) * N::DEPTH).min(run - first);
                    for (d, tap) in taps.iter().enumerate() {
                        let (w, panel) = (&w[tap * s.tap + first * s.run..], &mut panel[d * width..]);
                        if s.channel == 1 {
                            for (r, to) in (0..numbers).step_by(N::DEPTH).zip(panel.chunks_mut(side * width)) {
                                let row = |r: usize| (r < numbers).then(|| &w[r * s.run..][..block.len]);
                                N::weave(&w[r * s.run..][..block.len], row(r + 1), &mut to[..block.len * N::DEPTH]);
                            }
                        } else {
                            transpose(w, s.channel, panel, side * width, block.len, numbers);
                        }
                    }
                    panel.chunks_exact_mut(width).for_each(|row| row[block.len * N::DEPTH..].fill(N::zeroed()));
                }
            }
        });
        Ok(Panels { data, blocks, groups, channels, len })
    }

    /// The filters of one block.
    pub fn panel(&self, group: usize, block: usize) -> *const N {
        self.data.as_slice()[(group * self.blocks.len() + block) * self.len..].as_ptr()
    }

    /// How to divide `units` of work, each of `positions` positions, times all blocks of channels, into tasks, which read an
    /// input of `input` bytes.
    pub fn tasks(&self, units: usize, positions: usize, input: usize) -> Tasks {
        let small = self.data.as_slice().len() <= CACHED;
        let cost = positions.saturating_mul(2 * self.len * self.blocks.len()).max(1);
        // Large panels are read again by every task, so a task should have many positions; the parallelism is over
        // blocks.
        let units_each = if small { (TASK / cost).clamp(1, 32) } else { MANY.div_ceil(positions.max(1)) };
        let ranges = units.div_ceil(units_each);
        let parts = if small { 1 } else { 32usize.div_ceil(ranges.max(1)).min(self.blocks.len()) };
        // Every part reads the input.
        traffic::more(|| Work::moves(parts * input, 0, ranges * self.groups * parts));
        Tasks { small, units, units_each, ranges, parts, blocks_each: self.blocks.len().div_ceil(parts.max(1)) }
    }
}

/// A division of the work: ranges of units, groups, and parts of the blocks.
pub(super) struct Tasks {
    /// Whether all filters stay in a core's cache, so that blocks may be the inner loop.
    pub small: bool,
    units: usize,
    units_each: usize,
    ranges: usize,
    parts: usize,
    blocks_each: usize,
}

impl Tasks {
    /// Number of ranges of units.
    pub fn ranges(&self) -> usize {
        self.ranges
    }

    /// Index of the range that begins with these units.
    pub fn range(&self, units: &Range<usize>) -> usize {
        units.start / self.units_each
    }

    /// Calls `f(units, group, blocks)` for every task, in parallel.
    pub fn run<N: Number>(&self, panels: &Panels<N>, f: impl Fn(Range<usize>, usize, Range<usize>) + Sync) {
        (0..self.ranges * panels.groups * self.parts).into_par_iter().with_max_len(1).for_each(|task| {
            let (range, group, part) =
                (task / self.parts / panels.groups, task / self.parts % panels.groups, task % self.parts);
            let units = range * self.units_each..((range + 1) * self.units_each).min(self.units);
            let blocks = part * self.blocks_each..((part + 1) * self.blocks_each).min(panels.blocks.len());
            f(units, group, blocks);
        });
    }
}

impl<N: Number> Panels<N> {
    /// The channels of some blocks of a group.
    pub fn span(&self, group: usize, blocks: &Range<usize>) -> Range<usize> {
        let end = self.blocks[..blocks.end].last().map_or(0, |b| b.first + b.len);
        let start = self.blocks.get(blocks.start).map_or(end, |b| b.first);
        group * self.channels + start.min(end)..group * self.channels + end
    }
}

/// The result, to which all tasks write at disjoint positions and channels.
#[derive(Clone, Copy)]
pub(super) struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    pub fn new(out: &mut [T]) -> Self {
        Out(out.as_mut_ptr())
    }

    /// Element `i`.
    pub fn at(self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }
}

// SAFETY: tasks write disjoint elements: other positions, or other channels of them.
unsafe impl<T> Send for Out<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Out<T> {}

/// Panels up to this size stay in a core's cache together with the rows that they are multiplied with.
const CACHED: usize = 1 << 18;

/// Floating-point operations that are worth a task of their own.
const TASK: usize = 1 << 22;

/// Positions per task where the panels do not stay in the cache.
const MANY: usize = 336;

/// Channels of one group computed together: as many vectors as a tile has or, at the end, as few as are left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub first: usize,
    pub len: usize,
    pub vectors: usize,
    /// Channels in the last vector.
    pub last: usize,
}

/// Divides `channels` into blocks of at most so many vectors.
pub(super) fn blocks<N>(k: &Kernels<N>, channels: usize, vectors: usize) -> Vec<Block> {
    let block = |first: usize| {
        let len = (channels - first).min(vectors * k.lanes);
        let vectors = len.div_ceil(k.lanes);
        Block { first, len, vectors, last: len - (vectors - 1) * k.lanes }
    };
    (0..channels).step_by(vectors * k.lanes).map(block).collect()
}
