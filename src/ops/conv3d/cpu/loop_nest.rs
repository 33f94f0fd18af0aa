//! Index arithmetic shared by the passes: which input a tap reads, where that is inside, and where results are written.

use super::super::Conv3d;
use crate::cpu::traffic::{self, Temporary};
use crate::error::Result;
use crate::tensor::{Buffer, Element};
use rayon::prelude::*;
use std::ops::Range;

/// Adjacent taps along a row that a sliding kernel handles in one pass.
pub(super) const TAPS: usize = 3;

/// Equally spaced positions of one strip: where the channels of the first are in the array, how many positions there
/// are, and how far apart.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops::conv3d) struct Rows {
    pub first: usize,
    pub count: usize,
    pub step: usize,
}

/// A tap on one axis.
#[derive(Clone, Debug)]
pub(super) struct AxisTap {
    /// Index of the filter's tap.
    pub index: usize,
    /// Position `q` reads input `q·step + delta`.
    pub delta: isize,
    /// The positions for which that input is inside.
    pub inside: Range<usize>,
}

/// Positions along one axis, what they read, and where they write.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// Number of positions.
    pub count: usize,
    pub step: usize,
    /// Extent of the array read.
    pub extent: usize,
    /// Position `q` writes output `q·out_step + out_first` of `out_extent`.
    pub out_step: usize,
    pub out_first: usize,
    pub out_extent: usize,
    pub taps: Vec<AxisTap>,
}

impl Axis {
    /// Outputs of a convolution, which read its input.
    fn fprop(extent: usize, out: usize, [kernel, step, pad, dilation]: [usize; 4]) -> Self {
        let tap = |index| AxisTap { index, delta: (index * dilation) as isize - pad as isize, inside: 0..0 };
        Axis {
            count: out,
            step,
            extent,
            out_step: 1,
            out_first: 0,
            out_extent: out,
            taps: (0..kernel).map(tap).collect(),
        }
        .bounded()
    }

    /// Inputs `residue, residue + stride, …` of a convolution, which gather from its outputs. Within one residue class
    /// the same taps always contribute, and they are one output apart, so it is a dense convolution of stride 1.
    fn dgrad(extent: usize, out: usize, [kernel, stride, pad, dilation]: [usize; 4], residue: usize) -> Self {
        let tap = |index| {
            let from = (residue + pad) as isize - (index * dilation) as isize;
            let stride = stride as isize;
            (from % stride == 0).then_some(AxisTap { index, delta: from / stride, inside: 0..0 })
        };
        let taps = (0..kernel).rev().filter_map(tap).collect(); // in increasing order of the output read
        let count = (extent - residue).div_ceil(stride);
        Axis { count, step: 1, extent: out, out_step: stride, out_first: residue, out_extent: extent, taps }.bounded()
    }

    /// With the range of positions inside computed for every tap.
    fn bounded(mut self) -> Self {
        let first = |limit: isize, step: usize| limit.max(0).unsigned_abs().div_ceil(step).min(self.count);
        for t in &mut self.taps {
            let (from, to) = (first(-t.delta, self.step), first(self.extent as isize - t.delta, self.step));
            t.inside = from..to.max(from);
        }
        self
    }
}

/// Three axes, and the channels read at each position.
#[derive(Clone, Debug)]
pub(super) struct LoopNest {
    pub n: usize,
    pub axes: [Axis; 3],
    /// Numbers between neighbouring pixels of the array that is read, and of the one that is written.
    pub pitch: usize,
    pub out_pitch: usize,
    /// Contiguous numbers read at each tap.
    pub run: usize,
    /// Extents of the filters, for computing the indices of taps.
    pub kernel: [usize; 3],
}

impl LoopNest {
    /// The nest of fprop, and the array to read if that is not `x`. With few channels the taps along a row are merged
    /// into one whose run is all of their channels, which are contiguous in memory. That requires rows without gaps, so
    /// the array is then a copy of `x` with its padding along rows written out.
    pub fn fprop<N: Element>(p: &Conv3d, x: &[N], depth: usize) -> Result<(LoopNest, Option<Buffer<N>>)> {
        let sliding = LoopNest::apart(p).slides(depth);
        LoopNest::merged(p, x, if sliding { 0 } else { MERGED })
    }

    /// The same for wgrad, whose kernels do not slide: where neither side has enough channels for two vectors, merged
    /// taps do.
    pub fn wgrad<N: Element>(p: &Conv3d, x: &[N]) -> Result<(LoopNest, Option<Buffer<N>>)> {
        let narrow = p.k < 2 * MERGED && p.geometry.window.stride[2] == 1;
        LoopNest::merged(p, x, if narrow { 2 * MERGED } else { MERGED })
    }

    /// Merges the taps along a row if there are fewer than `below` channels.
    fn merged<N: Element>(p: &Conv3d, x: &[N], below: usize) -> Result<(LoopNest, Option<Buffer<N>>)> {
        let mut nest = LoopNest::apart(p);
        let [_, _, w] = p.input;
        let pad = p.geometry.window.pad[2];
        let few = p.geometry.groups == 1
            && pad <= MOST_PAD
            && p.geometry.window.dilation[2] == 1
            && p.kernel[2] > 1
            && p.c < below;
        if !few {
            return Ok((nest, None));
        }
        nest.axes[2].extent = w + 2 * pad;
        nest.axes[2].taps = vec![AxisTap { index: 0, delta: 0, inside: 0..p.out[2] }];
        let [kt, kh, kw] = p.kernel;
        (nest.run, nest.kernel) = (kw * p.c, [kt, kh, 1]);
        let own = (pad > 0).then(|| padded(x, w * p.c, pad * p.c)).transpose()?;
        Ok((nest, own))
    }

    /// The nest of fprop without merged taps.
    pub fn apart(p: &Conv3d) -> LoopNest {
        let axes = [0, 1, 2].map(|a| Axis::fprop(p.input[a], p.out[a], axis(p, a)));
        LoopNest { n: p.n, axes, pitch: p.c, out_pitch: p.k, run: p.c_group(), kernel: p.kernel }
    }

    /// The nest of dgrad for one residue class of the inputs; `None` when no tap reaches it.
    pub fn dgrad(p: &Conv3d, residue: [usize; 3]) -> Option<LoopNest> {
        let axes = [0, 1, 2].map(|a| Axis::dgrad(p.input[a], p.out[a], axis(p, a), residue[a]));
        let reached = axes.iter().all(|a| !a.taps.is_empty());
        reached.then(|| LoopNest { n: p.n, axes, pitch: p.k, out_pitch: p.c, run: p.k_group(), kernel: p.kernel })
    }

    /// Whether the taps along a row are three neighbours one input apart, and what they read there whole elements of the type, as
    /// sliding kernels require.
    pub fn slides(&self, depth: usize) -> bool {
        slide(&self.axes[2]) && self.run.is_multiple_of(depth)
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.n * self.sample()
    }

    /// Positions per sample.
    pub fn sample(&self) -> usize {
        self.axes.iter().map(|a| a.count).product()
    }

    /// Where the outputs of some positions are.
    pub fn rows(&self, positions: Range<usize>) -> impl Iterator<Item = Rows> {
        let [t, h, w] = [0, 1, 2].map(|a| self.axes[a].count);
        let dense = self.axes.iter().all(|a| a.out_step == 1 && a.count == a.out_extent);
        let step = self.axes[2].out_step * self.out_pitch;
        let mut next = positions.start;
        std::iter::from_fn(move || {
            let (first, left) = (next, positions.end.saturating_sub(next));
            let count = if dense { left } else { left.min(w - first % w) };
            next += count;
            let [n, qt, qh, qw] = [first / (t * h * w), first / (h * w) % t, first / w % h, first % w];
            (count > 0).then(|| Rows { first: self.output(n, [qt, qh, qw]), count, step })
        })
    }

    /// The taps, as one tap of each axis.
    pub fn taps(&self) -> impl Iterator<Item = [&AxisTap; 3]> {
        let [t, h, w] = &self.axes;
        t.taps.iter().flat_map(move |a| h.taps.iter().flat_map(move |b| w.taps.iter().map(move |d| [a, b, d])))
    }

    /// Index of a tap in the filter.
    pub fn index(&self, [a, b, d]: [&AxisTap; 3]) -> usize {
        (a.index * self.kernel[1] + b.index) * self.kernel[2] + d.index
    }

    /// Distance of a tap from a position's first input, in numbers.
    pub fn offset(&self, [a, b, d]: [&AxisTap; 3]) -> isize {
        let [_, h, w] = &self.axes;
        ((a.delta * h.extent as isize + b.delta) * w.extent as isize + d.delta) * self.pitch as isize
    }

    /// Where a position's input starts, without any tap's offset, in numbers.
    pub fn input(&self, n: usize, [t, h, w]: [usize; 3]) -> usize {
        let [at, ah, aw] = &self.axes;
        (((n * at.extent + t * at.step) * ah.extent + h * ah.step) * aw.extent + w * aw.step) * self.pitch
    }

    /// Where a position's output starts.
    pub fn output(&self, n: usize, q: [usize; 3]) -> usize {
        let at = |axis: usize| q[axis] * self.axes[axis].out_step + self.axes[axis].out_first;
        let [t, h, w] = [0, 1, 2].map(|a| self.axes[a].out_extent);
        (((n * t + at(0)) * h + at(1)) * w + at(2)) * self.out_pitch
    }
}

fn slide(w: &Axis) -> bool {
    w.step == 1 && w.taps.len() == TAPS && w.taps.windows(2).all(|t| t[1].delta == t[0].delta + 1)
}

/// Number of channels below which the taps of a row are merged: with a full vector of channels there is nothing to
/// gain.
const MERGED: usize = 16;

/// Largest padding along rows that is written out: more could make the copy large, however small the input is.
const MOST_PAD: usize = 64;

fn axis(p: &Conv3d, a: usize) -> [usize; 4] {
    let win = &p.geometry.window;
    [p.kernel[a], win.stride[a], win.pad[a], win.dilation[a]]
}

/// Copies rows of `row` numbers, with `pad` zeros before and after each.
fn padded<N: Element>(x: &[N], row: usize, pad: usize) -> Result<Buffer<N>> {
    let row = row.max(1);
    let mut out = Buffer::arbitrary(x.len() / row * (row + 2 * pad))?;
    traffic::temporary(Temporary::Layout, size_of_val(x), size_of_val(out.as_slice()));
    let rows = x.par_chunks_exact(row).zip(out.as_mut_slice().par_chunks_exact_mut(row + 2 * pad));
    rows.with_min_len(64).for_each(|(from, to)| {
        to[..pad].fill(N::zeroed());
        to[pad..pad + row].copy_from_slice(from);
        to[pad + row..].fill(N::zeroed());
    });
    Ok(out)
}

/// The residue classes of input positions modulo the stride: dgrad is a separate convolution for each.
pub(super) fn residue_classes(p: &Conv3d) -> Vec<[usize; 3]> {
    let [st, sh, sw] = p.geometry.window.stride;
    let [t, h, width] = p.input;
    let mut classes = Vec::new();
    for a in 0..st.min(t) {
        for b in 0..sh.min(h) {
            classes.extend((0..sw.min(width)).map(|d| [a, b, d]));
        }
    }
    classes
}
