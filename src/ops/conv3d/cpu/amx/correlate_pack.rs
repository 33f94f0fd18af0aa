//! Packing for wgrad on AMX tiles: gradients are transposed, so that a row holds one filter's gradients at 32
//! positions; inputs are interleaved in pairs of positions, the layout of a tile of B.

use crate::cpu::amx::x86::plane;
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Filters transposed at a time: as many as fill 16 bytes.
const GROUP: usize = 8;

/// Transposes the gradients of 32 positions into tiles: `filters` numbers from each of `rows`, sixteen filters per
/// tile, tiles `pitch` bytes apart. Rows of tiles beyond `filters` are not written. As many bytes from `next` on are
/// prefetched.
///
/// # Safety
/// `Isa::Amx` is available; `filters` numbers of every row are readable, and `to` is writable for their tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn transpose(rows: &[*const bf16; 32], next: *const bf16, filters: usize, to: *mut u8, pitch: usize) {
    for first in (0..filters).step_by(GROUP) {
        for line in 0..GROUP {
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(32 * (first + line)).cast());
        }
        // SAFETY: sixteen filters per tile, eight rows of 64 bytes per group.
        let to = unsafe { to.add(first / 16 * pitch + first % 16 * 64) };
        if first + GROUP <= filters {
            // SAFETY: eight numbers follow in every row.
            unsafe { transpose_group(rows, first, to) };
        } else {
            let mut rest = [[bf16::ZERO; GROUP]; 32];
            for (rest, row) in rest.iter_mut().zip(rows) {
                // SAFETY: that many are left.
                unsafe { rest.as_mut_ptr().copy_from_nonoverlapping(row.add(first), filters - first) };
            }
            let mut rows = *rows;
            for (row, rest) in rows.iter_mut().zip(&rest) {
                *row = rest.as_ptr();
            }
            // SAFETY: the copies have eight numbers each.
            unsafe { transpose_group(&rows, 0, to) };
        }
    }
}

/// Transposes eight numbers from number `first` on of each of 32 rows. Lane `u` takes rows `8u` to `8u + 7`, so that no
/// number has to change lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn transpose_group(rows: &[*const bf16; 32], first: usize, to: *mut u8) {
    let four = |i: usize| {
        // SAFETY: the caller vouches for 16 bytes of every row.
        let lane = |u: usize| unsafe { _mm_loadu_si128(rows[8 * u + i].add(first).cast()) };
        let z = _mm512_castsi128_si512(lane(0));
        let z = _mm512_inserti32x4::<1>(z, lane(1));
        let z = _mm512_inserti32x4::<2>(z, lane(2));
        _mm512_inserti32x4::<3>(z, lane(3))
    };
    let mut pairs = [_mm512_setzero_si512(); 8]; // filters 0 to 3 of four pairs of positions, then 4 to 7
    for j in 0..4 {
        let (a, b) = (four(2 * j), four(2 * j + 1));
        (pairs[j], pairs[4 + j]) = (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
    }
    for half in 0..2 {
        let [a, b, c, d] = [pairs[4 * half], pairs[4 * half + 1], pairs[4 * half + 2], pairs[4 * half + 3]];
        let (first, second) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (third, fourth) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        // SAFETY: four of the group's eight rows.
        unsafe {
            let to = to.add(4 * half * 64);
            _mm512_storeu_si512(to.cast(), _mm512_unpacklo_epi64(first, second));
            _mm512_storeu_si512(to.add(64).cast(), _mm512_unpackhi_epi64(first, second));
            _mm512_storeu_si512(to.add(128).cast(), _mm512_unpacklo_epi64(third, fourth));
            _mm512_storeu_si512(to.add(192).cast(), _mm512_unpackhi_epi64(third, fourth));
        }
    }
}

/// Interleaves the numbers at `count` positions, `step` numbers apart, in pairs of positions: sixteen columns of a pair
/// are 64 bytes, followed by the next pair; the next sixteen columns begin `pitch` bytes later. If `count` is odd, the
/// last position is paired with zeros.
///
/// # Safety
/// `Isa::Amx` is available; sixteen numbers are readable for every block and position, and `to` is writable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn interleave(
    from: *const bf16,
    step: usize,
    count: usize,
    blocks: usize,
    to: *mut u8,
    pitch: usize,
) {
    // Pair by pair, since the numbers of a position are contiguous.
    for j in 0..count / 2 {
        // SAFETY: the caller vouches for sixteen numbers here and 64 bytes there.
        unsafe {
            let (even, to) = (from.add(2 * j * step), to.add(64 * j));
            let odd = even.add(step);
            for block in 0..blocks {
                let at = |v: *const bf16| _mm512_cvtepu16_epi32(_mm256_loadu_si256(v.add(16 * block).cast()));
                let pair = _mm512_or_si512(at(even), _mm512_slli_epi32::<16>(at(odd)));
                _mm512_store_si512(to.add(block * pitch).cast(), pair);
            }
        }
    }
    if count % 2 == 1 {
        for block in 0..blocks {
            // SAFETY: as above.
            unsafe {
                let last = _mm256_loadu_si256(from.add((count - 1) * step + 16 * block).cast());
                _mm512_store_si512(to.add(block * pitch + count / 2 * 64).cast(), _mm512_cvtepu16_epi32(last));
            }
        }
    }
}

/// [`interleave`] for positions at arbitrary addresses `places`, of which there is an even number: `columns` numbers
/// from each, padded with zeros to complete tiles.
///
/// # Safety
/// As [`interleave`], except that only `columns` numbers need be readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn interleave_places(places: &[*const bf16], columns: usize, to: *mut u8, pitch: usize) {
    let whole = columns / 16;
    let mask = ((1u32 << (columns % 16)) - 1) as __mmask16;
    // Pair by pair, since the numbers of a position are contiguous.
    for (j, pair) in places.chunks_exact(2).enumerate() {
        // SAFETY: lanes beyond the columns are masked; the caller vouches for 64 bytes of each sixteen columns.
        unsafe {
            let to = to.add(64 * j);
            for block in 0..whole {
                let at = |i: usize| _mm512_cvtepu16_epi32(_mm256_loadu_si256(pair[i].add(16 * block).cast()));
                let pair = _mm512_or_si512(at(0), _mm512_slli_epi32::<16>(at(1)));
                _mm512_store_si512(to.add(block * pitch).cast(), pair);
            }
            if mask != 0 {
                let at =
                    |i: usize| _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, pair[i].add(16 * whole).cast()));
                let pair = _mm512_or_si512(at(0), _mm512_slli_epi32::<16>(at(1)));
                _mm512_store_si512(to.add(whole * pitch).cast(), pair);
            }
        }
    }
}

/// As [`interleave_places`], with numbers split into bf16 terms stored `part` bytes apart.
///
/// # Safety
/// As [`interleave_places`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn interleave_split<const P: usize>(
    places: &[*const f32],
    columns: usize,
    to: *mut u8,
    pitch: usize,
    part: usize,
) {
    for (j, pair) in places.chunks_exact(2).enumerate() {
        for block in 0..columns.div_ceil(16) {
            let mask = ((1u32 << (columns - 16 * block).min(16)) - 1) as __mmask16;
            // SAFETY: lanes beyond the columns are masked; the caller vouches for 64 bytes of each term.
            unsafe {
                let at = |i: usize| _mm512_maskz_loadu_ps(mask, pair[i].add(16 * block));
                let mut rest = [at(0), at(1)];
                for p in 0..P {
                    let ((a, rest_a), (b, rest_b)) = (plane(rest[0]), plane(rest[1]));
                    let pair =
                        _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(b)));
                    _mm512_store_si512(to.add(p * part + block * pitch + 64 * j).cast(), pair);
                    rest = [rest_a, rest_b];
                }
            }
        }
    }
}

/// Memory that will be read soon, prefetched a few lines at a time while tiles multiply.
#[derive(Default)]
pub(super) struct Prefetcher {
    places: Vec<Range<*const u8>>,
    /// Lines per call of [`Prefetcher::prefetch`].
    lines: usize,
}

impl Prefetcher {
    /// Prefetches `places` in about `times` calls.
    pub fn new(places: Vec<Range<*const u8>>, times: usize) -> Self {
        let lines: usize = places.iter().map(|p| (p.end as usize - p.start as usize).div_ceil(LINE)).sum();
        let lines = lines.div_ceil(times.max(1));
        Prefetcher { places, lines: if lines <= MOST_LINES { lines } else { 0 } }
    }

    /// Prefetches the next lines.
    #[inline]
    pub fn prefetch(&mut self) {
        for _ in 0..self.lines {
            let Some(place) = self.places.last_mut() else { return };
            // SAFETY: a hint; it reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(place.start.cast()) };
            place.start = place.start.wrapping_add(LINE);
            if place.start >= place.end {
                self.places.pop();
            }
        }
    }
}

/// Bytes per cache line.
const LINE: usize = 64;

/// Maximum number of lines to prefetch per call. Where more would be needed, the computation is memory-bound, and
/// sequential reads are best left to the hardware prefetcher.
const MOST_LINES: usize = 80;
