//! The two micro-kernels, and the table of their forms for each instruction set.
//!
//! Both hold a tile of `M` rows by `V` vectors of channels in registers and, per step, load the vectors once and each
//! row's number once: with 14 by 2 that is 28 fused multiply-adds for 16 loads.

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Plain, Vector};

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

/// Pixels that follow each other in both arrays.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub x: usize,
    pub dy: usize,
    pub count: usize,
}

/// `out[m][..] += Σ over pixels of  x[pixel][m] · dy[pixel][..]`
pub(super) struct Correlate<'a> {
    pub segments: &'a [Segment],
    pub x: *const f32,
    pub dy: *const f32,
    /// Numbers between pixels.
    pub x_step: usize,
    pub dy_step: usize,
    /// `M` rows of whole vectors.
    pub out: *mut f32,
    /// Channels in the last vector.
    pub last: usize,
}

pub(super) type GatherFn = unsafe fn(&Gather);
pub(super) type CorrelateFn = unsafe fn(&Correlate);

/// The kernels of one instruction set, by vectors - 1 and rows - 1.
pub(super) struct Kernels {
    pub lanes: usize,
    pub rows: usize,
    pub gather: [&'static [GatherFn]; VECTORS],
    pub correlate: [&'static [CorrelateFn]; VECTORS],
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
        let mut sum: [[S; V]; M] = std::array::from_fn(|m| std::array::from_fn(|v| S::load(at(m, v))));
        for s in a.segments {
            let (mut x, mut dy) = (a.x.add(s.x), a.dy.add(s.dy));
            for _ in 0..s.count {
                let b: [S; V] = std::array::from_fn(|v| {
                    if v + 1 < V { S::load(dy.add(v * S::LANES)) } else { S::load_masked(dy.add(v * S::LANES), mask) }
                });
                for (m, sum) in sum.iter_mut().enumerate() {
                    let x = S::splat(*x.add(m));
                    sum.iter_mut().zip(b).for_each(|(sum, b)| *sum = sum.plus_product(x, b));
                }
                x = x.add(a.x_step);
                dy = dy.add(a.dy_step);
            }
        }
        for (m, sum) in sum.iter().enumerate() {
            for (v, sum) in sum.iter().enumerate() {
                sum.store(at(m, v));
            }
        }
    }
}

/// The table of one instruction set: both kernels for every number of rows listed and one or two vectors.
macro_rules! kernels {
    ($name:ident, $module:ident, $vector:ty, $([$feature:meta])?, $($rows:literal)*) => {
        mod $module {
            use super::*;
            $(#[$feature])?
            unsafe fn gather<const M: usize, const V: usize>(a: &Gather) {
                // SAFETY: passed on.
                unsafe { super::gather::<$vector, M, V>(a) }
            }
            $(#[$feature])?
            unsafe fn correlate<const M: usize, const V: usize>(a: &Correlate) {
                // SAFETY: passed on.
                unsafe { super::correlate::<$vector, M, V>(a) }
            }
            pub(in super::super) static KERNELS: Kernels = Kernels {
                lanes: <$vector>::LANES,
                rows: [$($rows),*].len(),
                gather: [&[$(gather::<$rows, 1>),*], &[$(gather::<$rows, 2>),*]],
                correlate: [&[$(correlate::<$rows, 1>),*], &[$(correlate::<$rows, 2>),*]],
            };
        }
        pub(super) use $module::KERNELS as $name;
    };
}

kernels!(PLAIN, plain, Plain, , 1 2 3);
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, avx2, Avx2, [target_feature(enable = "avx2,fma")], 1 2 3 4 5 6);
#[cfg(target_arch = "x86_64")]
kernels!(AVX512, avx512, Avx512, [target_feature(enable = "avx512f")], 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
