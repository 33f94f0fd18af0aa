//! Copies of f32 operands of wgrad in the order in which [`super::correlate`] reads them.

use super::kernel::{Segment, Side, VECTORS};
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{Avx2, Avx512};
use crate::cpu::simd::{Plain, Vector, prefetch};

/// Copies some vectors of each pixel of the segments' `b` to consecutive places, `width` numbers apart.
pub(super) struct Pack<'a> {
    pub segments: &'a [Segment],
    pub from: Side<f32>,
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

/// The copying functions of one instruction set; [`Pack`]'s is indexed by vectors - 1.
pub(super) struct Packers {
    pub pack: [unsafe fn(&Pack); VECTORS],
    pub pack_tiles: unsafe fn(&PackTiles),
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

/// The table of one instruction set.
macro_rules! packers {
    ($name:ident, $module:ident, $vector:ty $(, $feature:meta)?) => {
        mod $module {
            use super::*;
            $(#[$feature])?
            unsafe fn pack<const V: usize>(a: &Pack) {
                // SAFETY: passed on.
                unsafe { super::pack::<$vector, V>(a) }
            }
            $(#[$feature])?
            unsafe fn pack_tiles(a: &PackTiles) {
                // SAFETY: as above.
                unsafe { super::pack_tiles::<$vector>(a) }
            }
            pub(in super::super) static PACKERS: Packers = Packers { pack: [pack::<1>, pack::<2>], pack_tiles };
        }
        pub(super) use $module::PACKERS as $name;
    };
}

packers!(PLAIN, plain, Plain);
#[cfg(target_arch = "x86_64")]
packers!(AVX2, avx2, Avx2, target_feature(enable = "avx2,fma"));
#[cfg(target_arch = "x86_64")]
packers!(AVX512, avx512, Avx512, target_feature(enable = "avx512f"));
