//! Products of bf16 matrices in the tile registers of AMX, accumulated in f32, and f32 numbers as sums of bf16 terms.
//!
//! A tile holds 16 rows of 64 bytes. One instruction adds to a tile of 16 × 16 f32 the product of 16 rows of 32 numbers
//! (A) with 32 rows of 16 (B). B is stored in pairs: row `r` of its tile holds, for each of the 16 columns, the numbers
//! of rows `2r` and `2r + 1` next to each other. Subnormal numbers are treated as 0, in operands and results.
//!
//! The compiler does not know about tiles, so none is live outside a block of assembly: [`multiply`](Tiles::multiply)
//! clears or loads its sums, goes through all steps, and stores them. Only the tile configuration persists, for which
//! [`Tiles`] is the guard.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no tiles"))]

#[cfg(target_arch = "x86_64")]
mod kernel;

use half::bf16;
use std::marker::PhantomData;

/// Bytes of a full tile.
pub(crate) const TILE: usize = 1024;

/// bf16 numbers in a row of a full tile.
pub(crate) const DEPTH: usize = 32;

/// Rows of a tile, and its columns of f32.
pub(crate) const SIDE: usize = 16;

/// Offsets of the operands of one step, in bytes from the operands of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Offsets {
    /// First row of the first tile of A.
    pub a: isize,
    /// First tile of B, which is followed by the second.
    pub b: isize,
}

/// A block of products: `16·M` rows by `16·N` columns, summed over `steps`.
///
/// Operands of 2 or 3 bf16 terms, the largest first, are multiplied term by term, except for the pairs whose products
/// are smaller than the error of the splitting: 3 of 4 pairs, and 6 of 9.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a> {
    pub steps: &'a [Offsets],
    /// 1, 2 or 3.
    pub parts: usize,
    /// Rows of A: `16·M` of them, `a_stride` bytes apart; the second 16 start `a_second` bytes after the first.
    pub a: *const u8,
    pub a_stride: isize,
    pub a_second: isize,
    /// Bytes from one term of a tile to the next.
    pub a_part: isize,
    /// Tiles of B, each of as many rows of 64 bytes as configured.
    pub b: *const u8,
    /// Bytes from the first tile of B to the second.
    pub b_second: isize,
    /// Bytes from one term of a tile to the next.
    pub b_part: isize,
    /// The sums, in rows of 32.
    pub c: *mut f32,
    /// Whether `c` is overwritten instead of added to.
    pub fresh: bool,
}

/// The configuration of this thread's tile registers, from creation to drop. Until then no other may be created on the
/// same thread: do not call into rayon while holding one, since it may run a task that creates its own.
pub(crate) struct Tiles {
    /// Tile registers belong to a thread, so this is not `Send`.
    of: PhantomData<*const ()>,
}

impl Tiles {
    /// Full tiles, except that rows of A have `depth` bf16 numbers and so B has `depth / 2` rows.
    ///
    /// # Safety
    /// `Isa::Amx` is available; `depth` is even, at least 2 and at most [`DEPTH`]; this thread holds no other
    /// configuration.
    pub unsafe fn new(depth: usize) -> Self {
        debug_assert!(depth.is_multiple_of(2) && (2..=DEPTH).contains(&depth));
        // SAFETY: as the caller vouches.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            kernel::configure(depth)
        };
        Tiles { of: PhantomData }
    }

    /// `c (+)= Σ a·b`, where `M` and `N` are 1 or 2.
    ///
    /// # Safety
    /// All rows that `p` describes are readable, in all terms, `c` is writable, and the steps are as deep as the
    /// configuration.
    #[inline]
    pub unsafe fn multiply<const M: usize, const N: usize>(&self, p: &Product) {
        // SAFETY: as the caller vouches; `self` holds the configuration.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            match p.parts {
                1 => kernel::whole::<M, N>(p),
                2 => kernel::in_two::<M, N>(p),
                _ => kernel::in_three::<M, N>(p),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no tiles: {p:?}")
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there is a configuration; tiles are not live between calls.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!("tilerelease", options(nostack, nomem))
        };
    }
}

/// Splits numbers into sums of `P` bf16 terms, the largest first. Each is the rounded remainder of those before it, so
/// two terms leave about 2⁻¹⁷ of a number and three 2⁻²⁵. Numbers that are not finite stay so in the first term, with 0
/// in the others; those too large to be rounded are truncated instead.
///
/// # Safety
/// `Isa::Amx` is available.
pub(crate) unsafe fn split<const P: usize>(x: &[f32], planes: [&mut [bf16]; P]) {
    debug_assert!(planes.iter().all(|p| p.len() == x.len()));
    #[cfg(target_arch = "x86_64")]
    {
        let planes = planes.map(|p| p.as_mut_ptr());
        // SAFETY: every plane is as long as `x`; the caller vouches for the instructions.
        unsafe { x86::split(x.as_ptr(), planes, x.len()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no tiles: {x:?} {planes:?}")
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use half::bf16;
    use std::arch::x86_64::*;

    /// Converts bf16 numbers to f32.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn wide(v: __m256i) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v)))
    }

    /// The next term of 16 numbers, and the remainder.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(crate) fn plane(x: __m512) -> (__m256i, __m512) {
        // SAFETY: both are 16 numbers of 16 bits.
        let rounded: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(x)) };
        let rest = _mm512_sub_ps(x, wide(rounded));
        // Infinite or NaN: because `x` is, or because rounding overflowed.
        let wild = _mm512_fpclass_ps_mask::<0x99>(rest);
        if wild == 0 {
            return (rounded, rest);
        }
        let cut = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(x)));
        let finite = _mm512_knot(_mm512_fpclass_ps_mask::<0x99>(x));
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x); // truncation could turn NaN into infinity
        let chosen = _mm256_mask_mov_epi16(rounded, wild & number, cut);
        let rest = _mm512_mask_sub_ps(rest, wild, x, wide(chosen));
        (chosen, _mm512_maskz_mov_ps(finite, rest))
    }

    /// How many numbers ahead [`split`] prefetches.
    const AHEAD: usize = 512;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn split<const P: usize>(x: *const f32, planes: [*mut bf16; P], len: usize) {
        for i in (0..len).step_by(16) {
            let mask = ((1u32 << (len - i).min(16)) - 1) as __mmask16;
            // What follows is usually read by the next call; a prefetch past the end does nothing.
            _mm_prefetch::<_MM_HINT_T0>(x.wrapping_add(i + AHEAD).cast());
            // SAFETY: lanes past the end are masked.
            let mut rest = unsafe { _mm512_maskz_loadu_ps(mask, x.add(i)) };
            for to in planes {
                let (number, left) = plane(rest);
                // SAFETY: as above.
                unsafe { _mm256_mask_storeu_epi16(to.add(i).cast(), mask, number) };
                rest = left;
            }
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::cpu::Isa;

    fn product<const M: usize, const N: usize>(parts: usize, depth: usize, steps: usize) {
        let number = |i: usize| bf16::from_f32((i * 7 % 13) as f32 - 6.0);
        let (row, tile) = (depth * steps, SIDE * depth);
        let (part_a, part_b) = (SIDE * M * row, N * tile * steps);
        let a: Vec<bf16> = (0..part_a * parts).map(number).collect();
        let b: Vec<bf16> = (0..part_b * parts).map(|i| number(3 * i + 1)).collect();
        let of_step = |s: usize| Offsets { a: (2 * depth * s) as isize, b: (2 * N * tile * s) as isize };
        let list: Vec<Offsets> = (0..steps).map(of_step).collect();
        let mut c = vec![1.0f32; SIDE * M * 32];
        for fresh in [true, false] {
            // SAFETY: the test checked that AMX is available; every row is inside of its array.
            unsafe {
                Tiles::new(depth).multiply::<M, N>(&Product {
                    steps: &list,
                    parts,
                    a: a.as_ptr().cast(),
                    a_stride: 2 * row as isize,
                    a_second: (2 * SIDE * row) as isize,
                    a_part: 2 * part_a as isize,
                    b: b.as_ptr().cast(),
                    b_second: 2 * tile as isize,
                    b_part: 2 * part_b as isize,
                    c: c.as_mut_ptr(),
                    fresh,
                });
            }
        }
        for (i, got) in c.chunks(32).enumerate() {
            for (j, &got) in got.iter().enumerate().take(SIDE * N) {
                let term = |e: usize| {
                    let (s, d) = (e / depth, e % depth);
                    let a = |part: usize| a[part * part_a + i * row + e].to_f32() as i32;
                    let column = (s * N + j / SIDE) * tile + d / 2 * 32 + j % SIDE * 2 + d % 2;
                    let b = |part: usize| b[part * part_b + column].to_f32() as i32;
                    let pairs = (0..parts).flat_map(|of_a| (0..parts - of_a).map(move |of_b| (of_a, of_b)));
                    pairs.map(|(of_a, of_b)| a(of_a) * b(of_b)).sum::<i32>()
                };
                let want = 2 * (0..row).map(term).sum::<i32>();
                let what = format!("{M} x {N} tiles in {parts} parts, {steps} steps of {depth}");
                assert_eq!(got as i32, want, "{what}: row {i}, column {j}");
            }
        }
    }

    #[test]
    fn every_form_multiplies() {
        if !Isa::available().contains(&Isa::Amx) {
            return eprintln!("no tiles here");
        }
        for (depth, steps) in [(32, 5), (22, 1), (2, 3)] {
            for parts in 1..=3 {
                product::<2, 2>(parts, depth, steps);
                product::<2, 1>(parts, depth, steps);
                product::<1, 2>(parts, depth, steps);
                product::<1, 1>(parts, depth, steps);
            }
        }
    }

    #[test]
    fn parts_add_up() {
        if !Isa::available().contains(&Isa::Amx) {
            return eprintln!("no tiles here");
        }
        let mut x: Vec<f32> = (1..999).map(|i| (i as f32 * 0.37).sin() * 1.7f32.powi(i % 60 - 30)).collect();
        x.extend([0.0, -0.0, f32::MAX, f32::MIN, 3.3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
        let mut parts = [(); 3].map(|()| vec![bf16::ZERO; x.len()]);
        let [p0, p1, p2] = &mut parts;
        // SAFETY: the test checked that AMX is available.
        unsafe { split(&x, [p0, p1, p2]) };
        for (i, &x) in x.iter().enumerate() {
            let sum = |n: usize| parts[..n].iter().map(|p| p[i].to_f64()).sum::<f64>();
            if x.is_finite() {
                for (n, bits) in [(1, 8), (2, 16), (3, 23)] {
                    let off = (sum(n) - f64::from(x)).abs();
                    // A number that is truncated instead of rounded loses one bit more.
                    let bits = if x.abs() > 3.38e38 { bits - 1 } else { bits };
                    assert!(off <= f64::from(x).abs() * 0.5f64.powi(bits), "{n} parts of {x:e} are {off:e} off");
                }
            } else {
                assert_eq!((parts[0][i].to_f32().to_bits() >> 16, sum(2) == sum(1)), (x.to_bits() >> 16, !x.is_nan()));
            }
        }
    }
}

#[cfg(test)]
mod range {
    use crate::ops::conv3d::Products;
    use half::bf16;

    /// The sum of a number's three bf16 terms as tiles read them, on any machine: terms below 2⁻¹²⁶ are 0.
    fn kept(x: f32) -> f64 {
        let (mut rest, mut sum) = (x, 0.0);
        for _ in 0..3 {
            let part = bf16::from_f32(rest).to_f32();
            rest -= part;
            sum += f64::from(if part.abs() < f32::MIN_POSITIVE { 0.0 } else { part });
        }
        sum
    }

    #[test]
    fn from_the_stated_size_on_parts_keep_half_of_the_last_place() {
        let lost = |x: f32| (kept(x) - f64::from(x)).abs();
        let numbers = |exponent: i32| {
            let last = move |i: i32| {
                2f32.powi(exponent) * (1.0 + (i * 977 % 8192) as f32 / 8192.0 + i as f32 * 2f32.powi(-23))
            };
            (0..512).map(last)
        };
        assert_eq!(Products::EXACT_FROM, 2f32.powi(-102));
        for exponent in -102..=20 {
            assert!(numbers(exponent).all(|x| lost(x) <= f64::from(x) * 2f64.powi(-24)), "2^{exponent}");
        }
        for exponent in -126..-102 {
            assert!(numbers(exponent).all(|x| lost(x) <= 2f64.powi(-126) * (1.0 + 2f64.powi(-8))), "2^{exponent}");
        }
        // Four powers of two below, numbers already lose more than that.
        assert!(numbers(-106).any(|x| lost(x) > f64::from(x) * 2f64.powi(-24)));
        assert_eq!(kept(1e-38), 0.0);
    }
}
