//! How the CPU carries out an epilogue, on results that are still in a core's cache: the moments for the batch norm
//! that follows a convolution or, for a gradient, ReLU's mask and the sums of the batch norm before the convolution.
//!
//! Positions are divided into *ranges*, which depend on the shape alone. Each takes its sums in f32, and they are
//! merged in order, in f64: the same bits for any number of threads. Moments are relative to the mean of a strip's
//! first rows, and merged as means and sums of squared deviations, which has no cancellation.

use super::super::Conv3d;
use super::loop_nest::{LoopNest, Rows};
use crate::cpu::traffic::{self, Work as Bytes};
use crate::error::Result;
use crate::ops::batch_norm::Moments;
use crate::ops::batch_norm::lines::{Accumulators, Line, Mask, moments};
use crate::ops::lanes::{self, Lanes, Stored, Vectorized, whole};
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// What to do with results of type `T`.
#[derive(Clone, Copy)]
enum Work<'a, T> {
    None,
    Moments,
    NormRelu(NormRelu<'a, T>),
}

/// The backward work of the ReLU and batch norm before a convolution on the gradient by its input, and the gradient
/// from other paths to add.
#[derive(Clone, Copy)]
pub(in crate::ops::conv3d) struct NormRelu<'a, T> {
    /// Added to the gradient.
    pub add: Option<&'a [T]>,
    /// ReLU's mask.
    pub mask: Mask<'a, T>,
    /// The batch norm's input.
    pub x: &'a [T],
    /// Its mean and scale, `[parts c]`, and its shift `[c]`.
    pub line: Line<'a>,
}

/// The work for one convolution, and the sums it takes.
pub(in crate::ops::conv3d) struct Finish<'a, T> {
    work: Work<'a, T>,
    parts: usize,
    samples: usize,
    c: usize,
    /// `[parts 3 c]`, in the layout of [`Strips::sums`].
    totals: Vec<f64>,
}

impl<'a, T: Stored> Finish<'a, T> {
    /// No work.
    pub fn none() -> Self {
        Finish { work: Work::None, parts: 1, samples: 0, c: 0, totals: Vec::new() }
    }

    fn new(work: Work<'a, T>, n: usize, parts: usize, c: usize) -> Self {
        Finish { work, parts, samples: n / parts, c, totals: vec![0.0; parts * KEPT * c] }
    }

    /// Mean and sum of squared deviations of the result of `p` per channel, over each of `parts` equal contiguous parts
    /// of the samples.
    pub fn moments(p: &Conv3d, parts: usize) -> Self {
        Self::new(Work::Moments, p.n, parts, p.k)
    }

    /// For the gradient by the input of `p`: mask it in place, and take `Σ dz` and `Σ dz · (x - mean)`.
    pub fn norm_relu(p: &Conv3d, work: NormRelu<'a, T>, parts: usize) -> Self {
        Self::new(Work::NormRelu(work), p.n, parts, p.c)
    }

    /// Samples per part; 0 where there is nothing to do.
    pub fn part(&self) -> usize {
        self.samples
    }

    /// Starts a launch that divides the positions into `ranges` and writes to `out` (contiguous, channels innermost):
    /// allocates its sums.
    pub fn begin(&self, ranges: usize, out: *mut T) -> Strips<'a, T> {
        let slots = if let Work::None = self.work { 0 } else { self.parts * ranges };
        let mut sums = vec![0.0; slots * KEPT * self.c];
        let to = sums.as_mut_ptr();
        Strips { work: self.work, samples: self.samples, c: self.c, ranges, out, to, sums }
    }

    /// Ends a launch: merges its sums.
    pub fn end(&mut self, strips: Strips<'a, T>) {
        let (c, part) = (self.c, (KEPT * self.c).max(1));
        let of_parts = strips.sums.chunks(strips.ranges.max(1) * part);
        for (totals, sums) in self.totals.chunks_mut(part).zip(of_parts) {
            for sums in sums.chunks_exact(part) {
                (0..c).for_each(|ch| {
                    let [n, a, b] = [0, 1, 2].map(|i| sums[i * c + ch]);
                    merge(&self.work, totals, c, ch, [n, a, b]);
                });
            }
        }
    }

    /// Counts what the work on a gradient reads beside it.
    pub fn count(&self) {
        if let Work::NormRelu(work) = &self.work {
            let result = if let Mask::Result(y) = &work.mask { size_of_val(*y) } else { 0 };
            traffic::more(|| Bytes::moves(size_of_val(work.x) + work.add.map_or(0, size_of_val) + result, 0, 0));
        }
    }

    /// The same work for results that were written elsewhere: one pass over memory.
    pub fn whole(&mut self, out: &mut [T]) {
        if let Work::None = self.work {
            return;
        }
        let wrote = if let Work::NormRelu(_) = self.work { size_of_val(out) } else { 0 };
        traffic::more(|| Bytes::moves(size_of_val(out), wrote, 0));
        let positions = out.len() / self.c.max(1);
        let each = (RANGE / self.c.max(1)).max(1);
        let strips = self.begin(positions.div_ceil(each), out.as_mut_ptr());
        let part = (positions / self.parts).max(1);
        (0..strips.ranges).into_par_iter().for_each(|range| {
            let (mut from, end) = (range * each, positions.min((range + 1) * each));
            while from < end {
                let (of, to) = (from / part, end.min((from / part + 1) * part));
                let rows = Rows { first: from * self.c, count: to - from, step: self.c };
                // SAFETY: the positions are inside, and no other task's.
                unsafe { strips.strip(range, of, [rows].into_iter(), 0..self.c) };
                from = to;
            }
        });
        self.end(strips);
    }

    /// The sums `[parts 2 c]` of a masked gradient, the second of each pair times `factor [parts c]`.
    pub fn sums(&self, factor: &[f32]) -> Result<Tensor> {
        let _pass = traffic::pass("batch_norm statistics", || Bytes::moves(0, 0, 1));
        self.pairs(|_, i, [_, dz, dz_dev]| [dz, dz_dev * f64::from(factor[i])])
    }

    /// The moments, if they were the work to do, relative to each channel's mean over all parts.
    pub fn taken_moments(&self) -> Result<Option<Moments>> {
        let Work::Moments = self.work else { return Ok(None) };
        let shift = self.near()?;
        let sums = self.about(&shift.host()?)?;
        Moments::about(shift, sums).map(Some)
    }

    /// A number near each channel's mean: the mean over all parts, `[c]`.
    fn near(&self) -> Result<Tensor> {
        traffic::more(|| Bytes::moves(0, 4 * self.c, 0));
        let (c, parts) = (self.c, self.parts as f64);
        Tensor::build([c], |out| {
            for (ch, out) in out.iter_mut().enumerate() {
                let means = self.totals.chunks_exact(KEPT * c).map(|of| of[c + ch]);
                *out = (means.sum::<f64>() / parts) as f32;
            }
        })
    }

    /// `Σ (y - shift)` and `Σ (y - shift)²`, `[parts 2 c]`, with `shift [c]`.
    fn about(&self, shift: &[f32]) -> Result<Tensor> {
        self.pairs(|ch, _, [n, mean, m2]| {
            let off = mean - f64::from(shift[ch]);
            [n * off, m2 + n * off * off]
        })
    }

    /// `[parts 2 c]` of `f(channel, part·c + channel, numbers kept)`.
    fn pairs(&self, f: impl Fn(usize, usize, [f64; KEPT]) -> [f64; 2]) -> Result<Tensor> {
        let c = self.c;
        traffic::more(|| Bytes::moves(0, 8 * self.parts * c, 0));
        Tensor::build([self.parts, 2, c], |out| {
            for i in 0..self.parts * c {
                let (part, ch) = (i / c, i % c);
                let pair = f(ch, i, [0, 1, 2].map(|kept| self.totals[(part * KEPT + kept) * c + ch]));
                pair.iter().zip(0..).for_each(|(v, which)| out[(part * 2 + which) * c + ch] = *v as f32);
            }
        })
    }
}

/// Numbers kept per channel: how many values, then their mean and sum of squared deviations, or `Σ dz` and `Σ dz · (x -
/// mean)`.
const KEPT: usize = 3;

/// Merges the numbers kept of channel `ch` into `all [3 c]`.
#[inline(always)]
fn merge<T>(work: &Work<T>, all: &mut [f64], c: usize, ch: usize, [n, a, b]: [f64; KEPT]) {
    if n == 0.0 {
        return;
    }
    let total = all[ch] + n;
    match work {
        Work::Moments => {
            let off = a - all[c + ch];
            all[2 * c + ch] += b + off * off * all[ch] * n / total;
            all[c + ch] += off * n / total;
        }
        _ => {
            all[c + ch] += a;
            all[2 * c + ch] += b;
        }
    }
    all[ch] = total;
}

/// Elements per range of [`Finish::whole`].
const RANGE: usize = 1 << 15;

/// Where the tasks of a launch pass results that they have computed.
pub(in crate::ops::conv3d) struct Strips<'a, T> {
    work: Work<'a, T>,
    /// Samples per part.
    samples: usize,
    c: usize,
    ranges: usize,
    out: *mut T,
    /// `[parts ranges 3 c]`, written through `to`.
    sums: Vec<f64>,
    to: *mut f64,
}

// SAFETY: tasks touch disjoint elements of `out` and disjoint sums: other ranges, or other channels of them.
unsafe impl<T: Sync> Sync for Strips<'_, T> {}

impl<T: Stored> Strips<'_, T> {
    /// Does the work on some channels of some positions of `nest`, all of which are in `range`.
    ///
    /// # Safety
    /// They have been written, and are no other task's.
    pub unsafe fn finish(&self, nest: &LoopNest, range: usize, positions: Range<usize>, channels: Range<usize>) {
        if let Work::None = self.work {
            return;
        }
        let part = self.samples * nest.sample();
        let (mut from, end) = (positions.start, positions.end);
        while from < end {
            let (of, to) = (from / part, end.min((from / part + 1) * part));
            // SAFETY: the caller's promise.
            unsafe { self.strip(range, of, nest.rows(from..to), channels.clone()) };
            from = to;
        }
    }

    /// Does the work on some channels of the positions `rows`, which are in `range` and belong to `part`.
    ///
    /// # Safety
    /// They have been written, and are no other task's.
    pub unsafe fn strip(&self, range: usize, part: usize, rows: impl Iterator<Item = Rows>, channels: Range<usize>) {
        let at = (part * self.ranges + range) * KEPT * self.c;
        lanes::run(Strip { of: self, at, part, rows, channels });
    }
}

struct Strip<'s, 'a, T, R> {
    of: &'s Strips<'a, T>,
    /// Index of its sums.
    at: usize,
    part: usize,
    rows: R,
    channels: Range<usize>,
}

impl<T: Stored, R: Iterator<Item = Rows>> Vectorized for Strip<'_, '_, T, R> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Strip { of: &Strips { work, c, out, to, .. }, at, part, rows, channels } = self;
        let (len, room) = (channels.len(), whole(channels.len()));
        let mut space = vec![0.0; 3 * room];
        let (shift, space) = space.split_at_mut(room);
        let (one, two) = space.split_at_mut(room);
        let mut sums = Accumulators { one, two };
        let mut count = 0;
        let positions = rows.flat_map(|r| (0..r.count).map(move |i| r.first + i * r.step + channels.start));
        match work {
            Work::None => return,
            Work::Moments => {
                let positions: Vec<usize> = positions.collect();
                count = positions.len();
                // SAFETY: a position is inside, and has been written.
                let row = |p: usize| unsafe { std::slice::from_raw_parts(out.add(p).cast_const(), len) };
                let first = &positions[..count.min(NEAR)];
                for p in first {
                    // SAFETY: the instruction set is the caller's promise.
                    unsafe { add_row::<V, T>(row(*p), shift) };
                }
                shift.iter_mut().for_each(|s| *s /= first.len().max(1) as f32);
                for p in positions {
                    // SAFETY: as above.
                    unsafe { moments::<V, T>(row(p), shift, &mut sums) };
                }
            }
            Work::NormRelu(work) => {
                let of_part = part * c + channels.start..part * c + channels.end;
                let line = Line {
                    mean: &work.line.mean[of_part.clone()],
                    scale: &work.line.scale[of_part],
                    shift: &work.line.shift[channels.clone()],
                };
                for p in positions {
                    let (x, add) = (&work.x[p..p + len], work.add.map_or(std::ptr::null(), |s| s[p..].as_ptr()));
                    // SAFETY: as above, and `add` has the shape of `out`.
                    unsafe {
                        let dz = out.add(p);
                        line.grad_sums::<V, T>(x, [dz, add], work.mask.from(p), dz, &mut sums);
                    }
                    count += 1;
                }
            }
        }
        // SAFETY: the numbers kept of these channels of a range are this task's. Those of other tasks are adjacent, so
        // this must not be a slice.
        let kept = |i: usize| unsafe { to.add(at + i) };
        let n = f64::from(count as u32);
        for (ch, i) in channels.zip(0..) {
            let (one, two) = (f64::from(sums.one[i]), f64::from(sums.two[i]));
            let new = match work {
                Work::Moments => [n, f64::from(shift[i]) + one / n, (two - one * one / n).max(0.0)],
                _ => [n, one, two],
            };
            // SAFETY: as above.
            unsafe {
                let mut all = [*kept(ch), *kept(c + ch), *kept(2 * c + ch)];
                merge(&work, &mut all, 1, 0, new);
                (*kept(ch), *kept(c + ch), *kept(2 * c + ch)) = (all[0], all[1], all[2]);
            }
        }
    }
}

/// Rows of a strip whose mean deviations are taken from.
const NEAR: usize = 16;

/// `to += row`
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn add_row<V: Lanes, T: Stored>(row: &[T], to: &mut [f32]) {
    assert!(to.len() >= row.len());
    // SAFETY: `each` stays inside of both.
    lanes::each(
        row.len(),
        #[inline(always)]
        |at, n| unsafe {
            let to = to.as_mut_ptr().add(at);
            V::load(to, n).add(T::get(row.as_ptr().add(at), n)).store(to, n);
        },
    );
}
