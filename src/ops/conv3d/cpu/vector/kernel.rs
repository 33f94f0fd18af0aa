//! The micro-kernels, and a table of their instances for each instruction set.
//!
//! What they multiply are elements of 32 bits: f32 numbers, or pairs of bf16 numbers ([`Operand`]).
//!
//! All hold a tile of `M` rows by `V` vectors of channels in registers and, per step, load each vector and each row's
//! element once: with 14 by 2 that is 28 fused multiply-adds for 16 loads. Where a filter has three neighbouring taps
//! along a row, the sliding kernels use each loaded element for all three: 72 multiply-adds for 20 loads with 12 by 2.

use super::super::loop_nest::TAPS;
use super::operand::{Number, Operand, Place, Singles};
#[cfg(target_arch = "x86_64")]
use super::pairs::Pairs;
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
    /// Added to each of them, in numbers.
    pub offset: isize,
    /// Index of the tap in the panel.
    pub index: usize,
}

/// `out[m][..] = Σ over taps, r of  row(m, tap)[r] · panel[tap][r][..]`
pub(super) struct Gather<'a, N> {
    pub taps: &'a [Tap],
    pub rows: &'a [*const N],
    /// The first number of each row to read.
    pub first: usize,
    /// Numbers read from each row.
    pub run: usize,
    /// Filters as `tap element channel`, only the channels of this tile, padded to whole vectors. The elements are those of the
    /// run, the last one filled up with zeros.
    pub panel: *const N,
    /// Where each row's result goes: `M` places.
    pub out: &'a [Place],
    /// Added to each of them, in numbers.
    pub channel: usize,
    /// Channels in the last vector.
    pub last: usize,
}

/// [`Gather`] for neighbouring positions of one row and groups of three taps that read neighbouring inputs: output `m`
/// reads the inputs `m`, `m + 1` and `m + 2` of the tile's `M + 2`.
pub(super) struct Slide<'a, N> {
    /// The groups of three taps that are inside; `rows` is not used.
    pub taps: &'a [Tap],
    /// The first input, `step` numbers before the second; it may be outside.
    pub x: *const N,
    pub step: usize,
    /// Which of the inputs are inside; the others are 0.
    pub inside: Range<usize>,
    /// As many zeros as numbers are read from an input.
    pub zeros: *const N,
    /// A whole number of elements.
    pub run: usize,
    /// Filters as `three element tap channel`.
    pub panel: *const N,
    /// The result of the first position, `out_step` numbers before the second's.
    pub out: Place,
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
/// pixels of a segment. With pairs, what is called a pixel here are two of them: an element is a channel of both.
#[derive(Clone, Copy)]
pub(super) struct Side<N> {
    pub at: *const N,
    pub pixel: usize,
    pub step: usize,
}

/// `to[m][..] = from[m][..] + Σ over pixels of  a[pixel][m] · b[pixel][..]`
pub(super) struct Correlate<'a, N> {
    pub segments: &'a [Segment],
    pub a: Side<N>,
    pub b: Side<N>,
    /// `M` rows of previous sums, `from_step` numbers apart; if null, the sums start at 0.
    pub from: *const f32,
    pub from_step: usize,
    pub to: *mut f32,
    pub to_step: usize,
    /// Channels in the last vector.
    pub last: usize,
}

pub(super) type GatherFn<N> = unsafe fn(&Gather<N>);
pub(super) type SlideFn<N> = unsafe fn(&Slide<N>);
pub(super) type CorrelateFn<N> = unsafe fn(&Correlate<N>);

/// The kernels of one instruction set and data type, indexed by vectors - 1 and rows - 1.
pub(super) struct Kernels<N: 'static> {
    pub lanes: usize,
    pub rows: usize,
    pub gather: [&'static [GatherFn<N>]; VECTORS],
    pub slide: [&'static [SlideFn<N>]; VECTORS],
    pub correlate: [&'static [CorrelateFn<N>]; VECTORS],
}

/// How many rows of a panel ahead to prefetch. (Prefetching the next tile's inputs, too, cost more than it gained.)
const PANEL_AHEAD: usize = 12;

/// # Safety
/// Every row of every tap has `run` readable numbers, the panel holds all taps' rows, `out` has `M` entries with space
/// for the tile's channels, and the machine has the instructions of `S`.
#[inline(always)]
unsafe fn gather<S: Operand, const M: usize, const V: usize>(a: &Gather<S::Number>) {
    let (depth, row_len) = (S::Number::DEPTH, V * S::Sums::LANES * S::Number::DEPTH);
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = [[S::Sums::zero(); V]; M];
        for tap in a.taps {
            let rows = a.rows.as_ptr().add(tap.rows);
            let row: [*const S::Number; M] =
                std::array::from_fn(|m| (*rows.add(m)).wrapping_offset(tap.offset).add(a.first));
            let mut w = a.panel.add(tap.index * a.run.div_ceil(depth) * row_len);
            for r in 0..a.run / depth {
                gather_step::<S, M, V, false>(&mut sum, &row, r * depth, w);
                w = w.add(row_len);
            }
            if !a.run.is_multiple_of(depth) {
                gather_step::<S, M, V, true>(&mut sum, &row, a.run - 1, w);
            }
        }
        for (m, sum) in sum.iter().enumerate() {
            a.out.get_unchecked(m).add(a.channel).store::<S, V>(sum, a.last);
        }
    }
}

/// One element of each row, `at` numbers from its start, which with `ONE` is only the number there.
///
/// # Safety
/// As [`gather`].
#[inline(always)]
unsafe fn gather_step<S: Operand, const M: usize, const V: usize, const ONE: bool>(
    sum: &mut [[S::Sums; V]; M],
    row: &[*const S::Number; M],
    at: usize,
    w: *const S::Number,
) {
    let len = S::Sums::LANES * S::Number::DEPTH;
    // SAFETY: the caller's promise.
    unsafe {
        let b: [S::Sums; V] = std::array::from_fn(|v| S::Sums::load(w.add(v * len).cast()));
        (0..V).for_each(|v| prefetch(w.wrapping_add((PANEL_AHEAD * V + v) * len)));
        for (sum, row) in sum.iter_mut().zip(row) {
            let x = if ONE { S::splat_one(row.add(at)) } else { S::splat(row.add(at)) };
            sum.iter_mut().zip(b).for_each(|(sum, b)| *sum = S::mul_add(x, b, *sum));
        }
    }
}

/// # Safety
/// Every segment is inside both arrays with `M` and the tile's channels readable at each pixel, `from` and `to` hold
/// the tile, and the machine has the instructions of `S`.
#[inline(always)]
unsafe fn correlate<S: Operand, const M: usize, const V: usize>(a: &Correlate<S::Number>) {
    let (depth, lanes) = (S::Number::DEPTH, S::Sums::LANES);
    // SAFETY: the caller's promise.
    unsafe {
        let mask = S::Sums::first(a.last);
        let mut sum = [[S::Sums::zero(); V]; M];
        if !a.from.is_null() {
            let mut from = a.from;
            for sum in &mut sum {
                for (v, sum) in sum.iter_mut().enumerate() {
                    *sum = load::<S::Sums, V>(v, from.add(v * lanes), mask);
                }
                from = from.wrapping_add(a.from_step);
            }
        }
        for s in a.segments {
            let (mut x, mut w) = (a.a.at.add(s.a * a.a.pixel), a.b.at.add(s.b * a.b.pixel));
            for _ in 0..s.count {
                let b: [S::Sums; V] =
                    std::array::from_fn(|v| load::<S::Sums, V>(v, w.add(v * lanes * depth).cast(), mask));
                for (m, sum) in sum.iter_mut().enumerate() {
                    let x = S::splat(x.add(m * depth));
                    sum.iter_mut().zip(b).for_each(|(sum, b)| *sum = S::mul_add(x, b, *sum));
                }
                x = x.wrapping_add(a.a.step);
                w = w.wrapping_add(a.b.step);
            }
        }
        let mut to = a.to;
        for sum in &sum {
            Place::F32(to).store::<S, V>(sum, a.last);
            to = to.wrapping_add(a.to_step);
        }
    }
}

/// Vector `v` of `V`, of which only the last is masked.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn load<S: Vector, const V: usize>(v: usize, p: *const f32, mask: S::Mask) -> S {
    // SAFETY: the caller's promise.
    unsafe { if v + 1 < V { S::load(p) } else { S::load_masked(p, mask) } }
}

/// # Safety
/// Inputs `inside` have `run` readable numbers for every group of three taps, and so have `zeros`; the panel holds the
/// rows of all groups; `out` has space for `M` results of the tile's channels; and the machine has the instructions of
/// `S`.
#[inline(always)]
unsafe fn slide<S: Operand, const M: usize, const V: usize>(a: &Slide<S::Number>) {
    let (depth, len) = (S::Number::DEPTH, S::Sums::LANES * S::Number::DEPTH);
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = [[S::Sums::zero(); V]; M];
        let whole = a.inside == (0..M + TAPS - 1);
        for tap in a.taps {
            let x = a.x.wrapping_offset(tap.offset);
            let at = |i: usize| x.wrapping_add(i * a.step);
            let mut row = [a.zeros; MOST + TAPS - 1];
            for (i, row) in row.iter_mut().enumerate().take(M + TAPS - 1) {
                *row = if whole || a.inside.contains(&i) { at(i) } else { a.zeros };
            }
            let mut w = a.panel.add(tap.index * a.run / depth * TAPS * V * len);
            for r in (0..a.run).step_by(depth) {
                let mut b = [[S::Sums::zero(); V]; TAPS];
                for (d, b) in b.iter_mut().enumerate() {
                    for (v, b) in b.iter_mut().enumerate() {
                        *b = S::Sums::load(w.add((d * V + v) * len).cast());
                    }
                }
                // Unrolled by a macro: the tile must stay in registers, so no loop may remain here. Plain statements:
                // a closure at each of the 78 places of each instance took a fifth of the library's compile time.
                macro_rules! inputs {
                    ($($i:literal)*) => {$(
                        if $i < M + TAPS - 1 {
                            let x = S::splat(row[$i].add(r));
                            inputs!($i, 0, x);
                            inputs!($i, 1, x);
                            inputs!($i, 2, x);
                        }
                    )*};
                    ($i:literal, $d:literal, $x:ident) => {
                        if $i >= $d && $i - $d < M {
                            let sum = &mut sum[usize::min($i - $d, M - 1)];
                            sum[0] = S::mul_add($x, b[$d][0], sum[0]);
                            if V > 1 {
                                sum[V - 1] = S::mul_add($x, b[$d][V - 1], sum[V - 1]);
                            }
                        }
                    };
                }
                inputs!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25);
                w = w.add(TAPS * V * len);
            }
        }
        for (m, sum) in sum.iter().enumerate() {
            a.out.add(m * a.out_step).store::<S, V>(sum, a.last);
        }
    }
}

/// Maximum number of rows of a sliding tile.
const MOST: usize = 24;

/// The table of one instruction set: each kernel for every number of rows listed.
macro_rules! kernels {
    ($name:ident, $module:ident, $operand:ty, $([$feature:meta])?, rows $($rows:literal)*,
     slide $($one:literal)*, $($two:literal)*) => {
        mod $module {
            use super::*;
            type Of = <$operand as Operand>::Number;
            $(#[$feature])?
            unsafe fn gather<const M: usize, const V: usize>(a: &Gather<Of>) {
                // SAFETY: here and below, passed on.
                unsafe { super::gather::<$operand, M, V>(a) }
            }
            $(#[$feature])?
            unsafe fn slide<const M: usize, const V: usize>(a: &Slide<Of>) {
                // SAFETY: as above.
                unsafe { super::slide::<$operand, M, V>(a) }
            }
            $(#[$feature])?
            unsafe fn correlate<const M: usize, const V: usize>(a: &Correlate<Of>) {
                // SAFETY: as above.
                unsafe { super::correlate::<$operand, M, V>(a) }
            }
            pub(in super::super) static KERNELS: Kernels<Of> = Kernels {
                lanes: <$operand as Operand>::Sums::LANES,
                rows: [$($rows),*].len(),
                gather: [&[$(gather::<$rows, 1>),*], &[$(gather::<$rows, 2>),*]],
                slide: [&[$(slide::<$one, 1>),*], &[$(slide::<$two, 2>),*]],
                correlate: [&[$(correlate::<$rows, 1>),*], &[$(correlate::<$rows, 2>),*]],
            };
        }
        pub(super) use $module::KERNELS as $name;
    };
}

kernels!(PLAIN, plain, Singles<Plain>, , rows 1 2 3, slide 1 2 3, 1 2);
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, avx2, Singles<Avx2>, [target_feature(enable = "avx2,fma")], rows 1 2 3 4 5 6,
    slide 1 2 3 4 5 6 7 8 9 10, 1 2 3 4);
#[cfg(target_arch = "x86_64")]
kernels!(AVX512, avx512, Singles<Avx512>, [target_feature(enable = "avx512f")], rows 1 2 3 4 5 6 7 8 9 10 11 12 13 14,
    slide 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24, 1 2 3 4 5 6 7 8 9 10 11 12);
#[cfg(target_arch = "x86_64")]
kernels!(PAIRS, of_pairs, Pairs, [target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")],
    rows 1 2 3 4 5 6 7 8 9 10 11 12 13 14,
    slide 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24, 1 2 3 4 5 6 7 8 9 10 11 12);
