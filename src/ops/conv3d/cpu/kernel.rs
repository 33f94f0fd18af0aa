//! The micro-kernels, and the table of their forms for each instruction set.
//!
//! All hold a tile of `M` rows by `V` vectors of channels in registers and, per step, load the vectors once and each row's
//! number once: with 14 by 2 that is 28 fused multiply-adds for 16 loads. Where a filter has three neighbouring taps along
//! a row, the sliding forms use each number loaded for all three: 72 multiply-adds for 20 loads with 12 by 2.

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Plain, Vector};
use std::ops::Range;

/// Most vectors in a tile.
pub(super) const VECTORS: usize = 2;

/// One filter tap for the pixels of a tile.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    /// Where in [`Gather::rows`] the tile's row pointers start.
    pub rows: usize,
    /// Added to each of them, in elements.
    pub offset: isize,
    /// Which of the panel's taps it is.
    pub index: usize,
}

/// `out[m][..] = Σ over taps, r of  row(m, tap)[r] · panel[tap][r][..]`
pub(super) struct Gather<'a> {
    pub taps: &'a [Tap],
    pub rows: &'a [*const f32],
    /// First number of each row that is read.
    pub first: usize,
    /// Numbers read from each row.
    pub run: usize,
    /// Filters as `tap run channel`, the channels of this tile only, filled up to whole vectors.
    pub panel: *const f32,
    /// Where each row's result goes: `M` pointers, and what to add to them.
    pub out: &'a [*mut f32],
    pub channel: usize,
    /// Channels in the last vector.
    pub last: usize,
}

/// Taps of a sliding kernel.
pub(super) const TAPS: usize = 3;

/// [`Gather`] for neighbouring positions of one row, whose taps come in threes that read neighbouring inputs: output `m`
/// reads the inputs `m`, `m + 1` and `m + 2` of the `M + 2` the tile sees.
pub(super) struct Slide<'a> {
    /// The valid threes; `rows` is of no use here.
    pub taps: &'a [Tap],
    /// The first input, `step` numbers before the second; it may lie outside.
    pub x: *const f32,
    pub step: usize,
    /// Which of the inputs are inside, the others are 0.
    pub inside: Range<usize>,
    /// As many zeros as are read from an input.
    pub zeros: *const f32,
    pub run: usize,
    /// Filters as `three run tap channel`.
    pub panel: *const f32,
    /// The first position's result, `out_step` numbers before the second's.
    pub out: *mut f32,
    pub out_step: usize,
    pub last: usize,
}

/// Pixels that follow each other in both arrays: the first of each, and how many.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub x: usize,
    pub dy: usize,
    pub count: usize,
}

/// `out[m][..] += Σ over pixels of  x[pixel][m] · dy[pixel][..]`, or, sliding,
/// `out[m][tap][..] += Σ over pixels of  x[pixel][m] · dy[pixel + pad - tap][..]` with each segment one row of `x`.
pub(super) struct Correlate<'a> {
    pub segments: &'a [Segment],
    pub x: *const f32,
    pub dy: *const f32,
    /// Numbers of a pixel, and between those that follow each other in a segment.
    pub x_pixel: usize,
    pub x_step: usize,
    pub dy_pixel: usize,
    /// Sliding: padding before a row, and pixels in a row of `dy`.
    pub pad: usize,
    pub dy_count: usize,
    /// `M` rows of whole vectors, to which the sums are added, or which they replace where it is `fresh`.
    pub out: *mut f32,
    pub fresh: bool,
    /// Channels in the last vector.
    pub last: usize,
}

pub(super) type GatherFn = unsafe fn(&Gather);
pub(super) type SlideFn = unsafe fn(&Slide);
pub(super) type CorrelateFn = unsafe fn(&Correlate);

/// The kernels of one instruction set, by vectors - 1 and rows - 1.
pub(super) struct Kernels {
    pub lanes: usize,
    pub rows: usize,
    pub gather: [&'static [GatherFn]; VECTORS],
    pub slide: [&'static [SlideFn]; VECTORS],
    pub correlate: [&'static [CorrelateFn]; VECTORS],
    /// One vector at a time.
    pub correlate_sliding: &'static [CorrelateFn],
}

/// # Safety
/// Every row of every tap has `run` readable numbers, the panel holds all taps' rows, `out` has `M` entries with room for
/// the tile's channels, and the machine has the instructions of `S`.
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
                for (sum, row) in sum.iter_mut().zip(row) {
                    let x = S::splat(*row.add(r));
                    sum.iter_mut().zip(b).for_each(|(sum, b)| *sum = sum.plus_product(x, b));
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
/// Every segment lies in both arrays with `M` and the tile's channels readable at each pixel, `out` holds the tile, and
/// the machine has the instructions of `S`.
#[inline(always)]
unsafe fn correlate<S: Vector, const M: usize, const V: usize>(a: &Correlate) {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = S::first(a.last);
        let at = |m: usize, v: usize| a.out.add((m * V + v) * S::LANES);
        let mut sum = [[S::zero(); V]; M];
        if !a.fresh {
            sum = std::array::from_fn(|m| std::array::from_fn(|v| S::load(at(m, v))));
        }
        for s in a.segments {
            let (mut x, mut dy) = (a.x.add(s.x * a.x_pixel), a.dy.add(s.dy * a.dy_pixel));
            for _ in 0..s.count {
                let b: [S; V] = std::array::from_fn(|v| {
                    if v + 1 < V { S::load(dy.add(v * S::LANES)) } else { S::load_masked(dy.add(v * S::LANES), mask) }
                });
                for (m, sum) in sum.iter_mut().enumerate() {
                    let x = S::splat(*x.add(m));
                    sum.iter_mut().zip(b).for_each(|(sum, b)| *sum = sum.plus_product(x, b));
                }
                x = x.add(a.x_step);
                dy = dy.add(a.dy_pixel);
            }
        }
        for (m, sum) in sum.iter().enumerate() {
            for (v, sum) in sum.iter().enumerate() {
                sum.store(at(m, v));
            }
        }
    }
}

/// # Safety
/// Inputs `inside` of every three have `run` readable numbers, so have `zeros`; the panel holds all threes' rows; `M`
/// results of the tile's channels have room at `out`; and the machine has the instructions of `S`.
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
                let b: [[S; V]; TAPS] =
                    std::array::from_fn(|d| std::array::from_fn(|v| S::load(w.add((d * V + v) * S::LANES))));
                // Written out by a macro: the tile must live in registers, so no loop may be left here.
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
                            sum.iter_mut().zip(b[$d]).for_each(|(sum, b)| *sum = sum.plus_product($x, b));
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

/// Most rows of a sliding tile.
const MOST: usize = 24;

/// # Safety
/// Every segment lies in `x` with `M` numbers readable at each pixel and starts at a row of `dy` with `dy_count` pixels of
/// the tile's channels, `out` holds the tile, and the machine has the instructions of `S`.
#[inline(always)]
unsafe fn correlate_sliding<S: Vector, const M: usize>(a: &Correlate) {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = S::first(a.last);
        let at = |m: usize, d: usize| a.out.add((m * TAPS + d) * S::LANES);
        let mut sum = [[S::zero(); TAPS]; M];
        if !a.fresh {
            sum = std::array::from_fn(|m| std::array::from_fn(|d| S::load(at(m, d))));
        }
        for s in a.segments {
            let mut x = a.x.add(s.x * a.x_pixel);
            let dy = a.dy.add(s.dy * a.dy_pixel);
            let load = |q: usize| {
                if q < a.dy_count { S::load_masked(dy.add(q * a.dy_pixel), mask) } else { S::zero() }
            };
            let before = |back: usize| if a.pad >= back { load(a.pad - back) } else { S::zero() };
            let (mut one, mut two) = (before(1), before(2));
            for i in 0..s.count {
                let b = [load(i + a.pad), one, two];
                for (m, sum) in sum.iter_mut().enumerate() {
                    let x = S::splat(*x.add(m));
                    sum.iter_mut().zip(b).for_each(|(sum, b)| *sum = sum.plus_product(x, b));
                }
                (one, two) = (b[0], one);
                x = x.add(a.x_step);
            }
        }
        for (m, sum) in sum.iter().enumerate() {
            for (d, sum) in sum.iter().enumerate() {
                sum.store(at(m, d));
            }
        }
    }
}

/// The table of one instruction set: each kernel for every number of rows listed.
macro_rules! kernels {
    ($name:ident, $module:ident, $vector:ty, $([$feature:meta])?, rows $($rows:literal)*,
     slide $($one:literal)*, $($two:literal)*, correlate_sliding $($c:literal)*) => {
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
            unsafe fn correlate_sliding<const M: usize>(a: &Correlate) {
                // SAFETY: as above.
                unsafe { super::correlate_sliding::<$vector, M>(a) }
            }
            pub(in super::super) static KERNELS: Kernels = Kernels {
                lanes: <$vector>::LANES,
                rows: [$($rows),*].len(),
                gather: [&[$(gather::<$rows, 1>),*], &[$(gather::<$rows, 2>),*]],
                slide: [&[$(slide::<$one, 1>),*], &[$(slide::<$two, 2>),*]],
                correlate: [&[$(correlate::<$rows, 1>),*], &[$(correlate::<$rows, 2>),*]],
                correlate_sliding: &[$(correlate_sliding::<$c>),*],
            };
        }
        pub(super) use $module::KERNELS as $name;
    };
}

kernels!(PLAIN, plain, Plain, , rows 1 2 3, slide 1 2 3, 1 2, correlate_sliding 1);
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, avx2, Avx2, [target_feature(enable = "avx2,fma")], rows 1 2 3 4 5 6,
    slide 1 2 3 4 5 6 7 8 9 10, 1 2 3 4, correlate_sliding 1 2 3);
#[cfg(target_arch = "x86_64")]
kernels!(AVX512, avx512, Avx512, [target_feature(enable = "avx512f")], rows 1 2 3 4 5 6 7 8 9 10 11 12 13 14,
    slide 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24, 1 2 3 4 5 6 7 8 9 10 11 12,
    correlate_sliding 1 2 3 4 5 6 7 8);
