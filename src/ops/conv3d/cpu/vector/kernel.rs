//! The micro-kernels, and a table of their instances for each instruction set.
//!
//! All hold a tile of `M` rows by `V` vectors of channels in registers and, per step, load each vector and each row's
//! number once: with 14 by 2 that is 28 fused multiply-adds for 16 loads. Where a filter has three neighbouring taps
//! along a row, the sliding kernels use each loaded number for all three: 72 multiply-adds for 20 loads with 12 by 2.

use super::super::loop_nest::TAPS;
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{Avx2, Avx512};
use crate::cpu::simd::{Plain, Vector, prefetch};
use std::ops::Range;

/// Maximum number of vectors of a tile.
pub(super) const VECTORS: usize = 2;

/// One filter tap for the pixels of a tile.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    /// Index in [`Gather::rows`] where the tile's row pointers start.
    pub rows: usize,
    /// Added to each of them, in elements.
    pub offset: isize,
    /// Index of the tap in the panel.
    pub index: usize,
}

/// `out[m][..] = Σ over taps, r of  row(m, tap)[r] · panel[tap][r][..]`
pub(super) struct Gather<'a> {
    pub taps: &'a [Tap],
    pub rows: &'a [*const f32],
    /// The first number of each row to read.
    pub first: usize,
    /// Numbers read from each row.
    pub run: usize,
    /// Filters as `tap run channel`, only the channels of this tile, padded to whole vectors.
    pub panel: *const f32,
    /// Where each row's result goes: `M` pointers, and an offset added to them.
    pub out: &'a [*mut f32],
    pub channel: usize,
    /// Channels in the last vector.
    pub last: usize,
}

/// [`Gather`] for neighbouring positions of one row and groups of three taps that read neighbouring inputs: output `m`
/// reads the inputs `m`, `m + 1` and `m + 2` of the tile's `M + 2`.
pub(super) struct Slide<'a> {
    /// The groups of three taps that are inside; `rows` is not used.
    pub taps: &'a [Tap],
    /// The first input, `step` numbers before the second; it may be outside.
    pub x: *const f32,
    pub step: usize,
    /// Which of the inputs are inside; the others are 0.
    pub inside: Range<usize>,
    /// As many zeros as numbers are read from an input.
    pub zeros: *const f32,
    pub run: usize,
    /// Filters as `three run tap channel`.
    pub panel: *const f32,
    /// The result of the first position, `out_step` numbers before the second's.
    pub out: *mut f32,
    pub out_step: usize,
    pub last: usize,
}

/// Pixels that are consecutive in both arrays: the first of each, and how many.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub a: usize,
    pub b: usize,
    pub count: usize,
}

/// One operand of a [`Correlate`]: the address of its pixel 0, numbers per pixel, and the distance between consecutive
/// pixels of a segment.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub at: *const f32,
    pub pixel: usize,
    pub step: usize,
}

/// `to[m][..] = from[m][..] + Σ over pixels of  a[pixel][m] · b[pixel][..]`
pub(super) struct Correlate<'a> {
    pub segments: &'a [Segment],
    pub a: Side,
    pub b: Side,
    /// `M` rows of previous sums, `from_step` numbers apart; if null, the sums start at 0.
    pub from: *const f32,
    pub from_step: usize,
    pub to: *mut f32,
    pub to_step: usize,
    /// Channels in the last vector.
    pub last: usize,
}

/// Copies some vectors of each pixel of the segments' `b` to consecutive places, `width` numbers apart.
pub(super) struct Pack<'a> {
    pub segments: &'a [Segment],
    pub from: Side,
    pub to: *mut f32,
    pub width: usize,
    /// Channels in the last vector; the others of a written vector are 0.
    pub last: usize,
}

/// Reorders the channels of `count` pixels, `step` numbers apart, into tiles: for each tile in turn, its channels of
/// one pixel after another.
pub(super) struct PackTiles<'a> {
    pub from: *const f32,
    pub step: usize,
    pub count: usize,
    /// First channel of each tile, and the end of the last; at most one vector of channels apart.
    pub cuts: &'a [usize],
    /// Space for `pixels` pixels of each tile.
    pub to: *mut f32,
    pub pixels: usize,
}

pub(super) type GatherFn = unsafe fn(&Gather);
pub(super) type SlideFn = unsafe fn(&Slide);
pub(super) type CorrelateFn = unsafe fn(&Correlate);
pub(super) type PackFn = unsafe fn(&Pack);
pub(super) type PackTilesFn = unsafe fn(&PackTiles);

/// The kernels of one instruction set, indexed by vectors - 1 and rows - 1.
pub(super) struct Kernels {
    pub lanes: usize,
    pub rows: usize,
    pub gather: [&'static [GatherFn]; VECTORS],
    pub slide: [&'static [SlideFn]; VECTORS],
    pub correlate: [&'static [CorrelateFn]; VECTORS],
    pub pack: [PackFn; VECTORS],
    pub pack_tiles: PackTilesFn,
}

/// How many rows of a panel ahead to prefetch. (Prefetching the next tile's inputs, too, cost more than it gained.)
const PANEL_AHEAD: usize = 12;

/// # Safety
/// Every row of every tap has `run` readable numbers, the panel holds all taps' rows, `out` has `M` entries with space
/// for the tile's channels, and the machine has the instructions of `S`.
#[inline(always)]
unsafe fn gather<S: Vector, const M: usize, const V: usize>(a: &Gather) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = [[S::zero(); V]; M];
        for tap in a.taps {
            let rows = a.rows.as_ptr().add(tap.rows);
            let row: [*const f32; M] = std::array::from_fn(|m| (*rows.add(m)).wrapping_offset(tap.offset).add(a.first));
            let mut w = a.panel.add(tap.index * a.run * V * S::LANES);
            for r in 0..a.run {
                let b: [S; V] = std::array::from_fn(|v| S::load(w.add(v * S::LANES)));
                (0..V).for_each(|v| prefetch(w.wrapping_add((PANEL_AHEAD * V + v) * S::LANES)));
                for (sum, row) in sum.iter_mut().zip(row) {
                    let x = S::splat(*row.add(r));
                    sum.iter_mut().zip(b).for_each(|(sum, b)| *sum = x.mul_add(b, *sum));
                }
                w = w.add(V * S::LANES);
            }
        }
        let mask = S::first(a.last);
        for (m, sum) in sum.iter().enumerate() {
            let out = (*a.out.get_unchecked(m)).add(a.channel);
            for (v, sum) in sum.iter().enumerate() {
                if v + 1 < V {
                    sum.store(out.add(v * S::LANES));
                } else {
                    sum.store_masked(out.add(v * S::LANES), mask);
                }
            }
        }
    }
}

/// # Safety
/// Every segment is inside both arrays with `M` and the tile's channels readable at each pixel, `from` and `to` hold
/// the tile, and the machine has the instructions of `S`.
#[inline(always)]
unsafe fn correlate<S: Vector, const M: usize, const V: usize>(a: &Correlate) {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = S::first(a.last);
        let mut sum = [[S::zero(); V]; M];
        if !a.from.is_null() {
            let mut from = a.from;
            for sum in &mut sum {
                for (v, sum) in sum.iter_mut().enumerate() {
                    let from = from.add(v * S::LANES);
                    *sum = if v + 1 < V { S::load(from) } else { S::load_masked(from, mask) };
                }
                from = from.wrapping_add(a.from_step);
            }
        }
        for s in a.segments {
            let (mut x, mut w) = (a.a.at.add(s.a * a.a.pixel), a.b.at.add(s.b * a.b.pixel));
            for _ in 0..s.count {
                let b: [S; V] = std::array::from_fn(|v| {
                    if v + 1 < V { S::load(w.add(v * S::LANES)) } else { S::load_masked(w.add(v * S::LANES), mask) }
                });
                for (m, sum) in sum.iter_mut().enumerate() {
                    let x = S::splat(*x.add(m));
                    sum.iter_mut().zip(b).for_each(|(sum, b)| *sum = x.mul_add(b, *sum));
                }
                x = x.wrapping_add(a.a.step);
                w = w.wrapping_add(a.b.step);
            }
        }
        let mut to = a.to;
        for sum in &sum {
            for (v, sum) in sum.iter().enumerate() {
                if v + 1 < V {
                    sum.store(to.add(v * S::LANES));
                } else {
                    sum.store_masked(to.add(v * S::LANES), mask);
                }
            }
            to = to.wrapping_add(a.to_step);
        }
    }
}

/// # Safety
/// Every segment is inside `from` with the vectors' channels readable at each pixel, `to` has space for all pixels and
/// one more vector, and the machine has the instructions of `S`.
#[inline(always)]
unsafe fn pack<S: Vector, const V: usize>(a: &Pack) {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = S::first(a.last);
        let mut to = a.to;
        for s in a.segments {
            let mut from = a.from.at.add(s.b * a.from.pixel);
            for _ in 0..s.count {
                for v in 0..V {
                    let from = from.add(v * S::LANES);
                    let value = if v + 1 < V { S::load(from) } else { S::load_masked(from, mask) };
                    value.store(to.add(v * S::LANES));
                }
                from = from.wrapping_add(a.from.step);
                to = to.add(a.width);
            }
        }
    }
}

/// How many pixels ahead [`pack_tiles`] prefetches: it reads a few of many channels, which the hardware prefetcher does
/// not follow.
const AHEAD: usize = 4;

/// # Safety
/// The channels are readable at every pixel, `to` has the space that [`PackTiles`] describes, and the machine has the
/// instructions of `S`.
#[inline(always)]
unsafe fn pack_tiles<S: Vector>(a: &PackTiles) {
    // SAFETY: the caller's promise.
    unsafe {
        let first = *a.cuts.get_unchecked(0);
        for i in 0..a.count {
            let from = a.from.add(i * a.step);
            for cut in a.cuts.windows(2) {
                let (start, len) = (cut[0], cut[1] - cut[0]);
                let to = a.to.add((start - first) * a.pixels + i * len);
                let (from, mask) = (from.add(start), S::first(len));
                prefetch(from.wrapping_add(AHEAD * a.step));
                S::load_masked(from, mask).store_masked(to, mask);
            }
        }
    }
}

/// # Safety
/// Inputs `inside` have `run` readable numbers for every group of three taps, and so have `zeros`; the panel holds the
/// rows of all groups; `out` has space for `M` results of the tile's channels; and the machine has the instructions of
/// `S`.
#[inline(always)]
unsafe fn slide<S: Vector, const M: usize, const V: usize>(a: &Slide) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = [[S::zero(); V]; M];
        let whole = a.inside == (0..M + TAPS - 1);
        for tap in a.taps {
            let x = a.x.wrapping_offset(tap.offset);
            let at = |i: usize| x.wrapping_add(i * a.step);
            let mut row = [a.zeros; MOST + TAPS - 1];
            for (i, row) in row.iter_mut().enumerate().take(M + TAPS - 1) {
                *row = if whole || a.inside.contains(&i) { at(i) } else { a.zeros };
            }
            let mut w = a.panel.add(tap.index * a.run * TAPS * V * S::LANES);
            for r in 0..a.run {
                let mut b = [[S::zero(); V]; TAPS];
                for (d, b) in b.iter_mut().enumerate() {
                    for (v, b) in b.iter_mut().enumerate() {
                        *b = S::load(w.add((d * V + v) * S::LANES));
                    }
                }
                // Unrolled by a macro: the tile must stay in registers, so no loop may remain here. Plain statements:
                // a closure at each of the 78 places of each instance took a fifth of the library's compile time.
                macro_rules! inputs {
                    ($($i:literal)*) => {$(
                        if $i < M + TAPS - 1 {
                            let x = S::splat(*row[$i].add(r));
                            inputs!($i, 0, x);
                            inputs!($i, 1, x);
                            inputs!($i, 2, x);
                        }
                    )*};
                    ($i:literal, $d:literal, $x:ident) => {
                        if $i >= $d && $i - $d < M {
                            let sum = &mut sum[usize::min($i - $d, M - 1)];
                            sum[0] = $x.mul_add(b[$d][0], sum[0]);
                            if V > 1 {
                                sum[V - 1] = $x.mul_add(b[$d][V - 1], sum[V - 1]);
                            }
                        }
                    };
                }
                inputs!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25);
                w = w.add(TAPS * V * S::LANES);
            }
        }
        let mask = S::first(a.last);
        for (m, sum) in sum.iter().enumerate() {
            let out = a.out.add(m * a.out_step);
            for (v, sum) in sum.iter().enumerate() {
                if v + 1 < V {
                    sum.store(out.add(v * S::LANES));
                } else {
                    sum.store_masked(out.add(v * S::LANES), mask);
                }
            }
        }
    }
}

/// Maximum number of rows of a sliding tile.
const MOST: usize = 24;

/// The table of one instruction set: each kernel for every number of rows listed.
macro_rules! kernels {
    ($name:ident, $module:ident, $vector:ty, $([$feature:meta])?, rows $($rows:literal)*,
     slide $($one:literal)*, $($two:literal)*) => {
        mod $module {
            use super::*;
            $(#[$feature])?
            unsafe fn gather<const M: usize, const V: usize>(a: &Gather) {
                // SAFETY: here and below, passed on.
                unsafe { super::gather::<$vector, M, V>(a) }
            }
            $(#[$feature])?
            unsafe fn slide<const M: usize, const V: usize>(a: &Slide) {
                // SAFETY: as above.
                unsafe { super::slide::<$vector, M, V>(a) }
            }
            $(#[$feature])?
            unsafe fn correlate<const M: usize, const V: usize>(a: &Correlate) {
                // SAFETY: as above.
                unsafe { super::correlate::<$vector, M, V>(a) }
            }
            $(#[$feature])?
            unsafe fn pack<const V: usize>(a: &Pack) {
                // SAFETY: as above.
                unsafe { super::pack::<$vector, V>(a) }
            }
            $(#[$feature])?
            unsafe fn pack_tiles(a: &PackTiles) {
                // SAFETY: as above.
                unsafe { super::pack_tiles::<$vector>(a) }
            }
            pub(in super::super) static KERNELS: Kernels = Kernels {
                lanes: <$vector>::LANES,
                rows: [$($rows),*].len(),
                gather: [&[$(gather::<$rows, 1>),*], &[$(gather::<$rows, 2>),*]],
                slide: [&[$(slide::<$one, 1>),*], &[$(slide::<$two, 2>),*]],
                correlate: [&[$(correlate::<$rows, 1>),*], &[$(correlate::<$rows, 2>),*]],
                pack: [pack::<1>, pack::<2>],
                pack_tiles,
            };
        }
        pub(super) use $module::KERNELS as $name;
    };
}

kernels!(PLAIN, plain, Plain, , rows 1 2 3, slide 1 2 3, 1 2);
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, avx2, Avx2, [target_feature(enable = "avx2,fma")], rows 1 2 3 4 5 6,
    slide 1 2 3 4 5 6 7 8 9 10, 1 2 3 4);
#[cfg(target_arch = "x86_64")]
kernels!(AVX512, avx512, Avx512, [target_feature(enable = "avx512f")], rows 1 2 3 4 5 6 7 8 9 10 11 12 13 14,
    slide 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24, 1 2 3 4 5 6 7 8 9 10 11 12);
