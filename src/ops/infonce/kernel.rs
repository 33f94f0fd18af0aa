//! Products of queries and keys, and of weights and keys, for each instruction set.
//!
//! The lanes of a panel are queries, so that the numbers of a key are read directly from the queue, one after another,
//! and each multiplied with a full panel: the queue is never rearranged. Values per query (its largest logit, its sum)
//! are lanes too.

use crate::cpu::Isa;
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{Avx2, Avx512};
use crate::cpu::simd::{Plain, Vector};

/// Queries per panel.
pub(super) const LANES: usize = 32;

/// One number for each query of a panel.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Row(pub [f32; LANES]);

impl Row {
    pub(super) const ZERO: Row = Row([0.0; LANES]);
}

/// `c[r] (+)= Σ over k of a[r·row + k·step] · b[k]`
pub(super) struct Product<'a> {
    pub a: &'a [f32],
    pub row: usize,
    pub step: usize,
    pub b: &'a [Row],
    pub c: &'a mut [Row],
    /// Whether `c` is overwritten instead of added to.
    pub fresh: bool,
}

/// Computes a tile of rows.
type TileFn = unsafe fn(a: *const f32, row: usize, step: usize, b: &[Row], c: &mut [Row], fresh: bool);

impl Product<'_> {
    /// Computes the product.
    pub(super) fn run(self, isa: Isa) {
        let Product { a, row, step, b, c, fresh } = self;
        if c.is_empty() {
            return;
        }
        assert!(
            b.is_empty() || a.len() > (c.len() - 1) * row + (b.len() - 1) * step,
            "a product reads past its factor"
        );
        let mut done = 0;
        for &(rows, tile) in tiles(isa) {
            while c.len() - done >= rows {
                // Without steps nothing is read, and the address may lie outside of an empty `a`.
                let from = a.as_ptr().wrapping_add(done * row);
                // SAFETY: the instructions are there, and the assertion covers all that is read.
                unsafe { tile(from, row, step, b, &mut c[done..done + rows], fresh) };
                done += rows;
            }
        }
    }
}

/// The tiles of an instruction set and their rows; the last has one row. The tallest use all registers.
fn tiles(isa: Isa) -> &'static [(usize, TileFn)] {
    match isa.or_less() {
        Isa::Portable => &[(2, plain::<2>), (1, plain::<1>)],
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &[(3, avx2::<3>), (2, avx2::<2>), (1, avx2::<1>)],
        #[cfg(target_arch = "x86_64")]
        _ => &[(12, avx512::<12>), (8, avx512::<8>), (4, avx512::<4>), (2, avx512::<2>), (1, avx512::<1>)],
        #[cfg(not(target_arch = "x86_64"))]
        _ => &[(2, plain::<2>), (1, plain::<1>)],
    }
}

/// # Safety
/// As [`tile`].
unsafe fn plain<const R: usize>(a: *const f32, row: usize, step: usize, b: &[Row], c: &mut [Row], fresh: bool) {
    // SAFETY: as the caller vouches.
    unsafe { tile::<Plain, R, 4>(a, row, step, b, c, fresh) }
}

/// # Safety
/// As [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize>(a: *const f32, row: usize, step: usize, b: &[Row], c: &mut [Row], fresh: bool) {
    // SAFETY: as the caller vouches.
    unsafe { tile::<Avx2, R, 4>(a, row, step, b, c, fresh) }
}

/// # Safety
/// As [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<const R: usize>(a: *const f32, row: usize, step: usize, b: &[Row], c: &mut [Row], fresh: bool) {
    // SAFETY: as the caller vouches.
    unsafe { tile::<Avx512, R, 2>(a, row, step, b, c, fresh) }
}

/// `R` rows of `N` vectors, which together have [`LANES`] lanes.
///
/// # Safety
/// The processor has the instructions of `V`; `a[r·row + k·step]` is readable for `r < R` and `k < b.len()`.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "rows and vectors are numbered alike in several arrays")]
unsafe fn tile<V: Vector, const R: usize, const N: usize>(
    a: *const f32,
    row: usize,
    step: usize,
    b: &[Row],
    c: &mut [Row],
    fresh: bool,
) {
    const { assert!(N * V::LANES == LANES) };
    let c: &mut [Row; R] = c.try_into().expect("a tile is given its rows");
    // SAFETY: as the caller vouches; rows are `LANES` numbers long.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        if !fresh {
            for r in 0..R {
                for n in 0..N {
                    sums[r][n] = V::load(c[r].0.as_ptr().add(n * V::LANES));
                }
            }
        }
        for (k, b) in b.iter().enumerate() {
            let mut vectors = [V::zero(); N];
            for n in 0..N {
                vectors[n] = V::load(b.0.as_ptr().add(n * V::LANES));
            }
            let a = a.add(k * step);
            for r in 0..R {
                let factor = V::splat(*a.add(r * row));
                for n in 0..N {
                    sums[r][n] = factor.mul_add(vectors[n], sums[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                sums[r][n].store(c[r].0.as_mut_ptr().add(n * V::LANES));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, whose sums are exact in any order.
    #[test]
    fn every_form_multiplies() {
        let number = |i: usize| ((i * 37 + 11) % 17) as f32 - 8.0;
        for &isa in Isa::available() {
            for (rows, steps, across) in [(1, 1, true), (12, 5, true), (27, 3, false), (8, 96, true), (3, 0, false)] {
                let a: Vec<f32> = (0..rows * steps).map(number).collect();
                let (row, step) = if across { (steps, 1) } else { (1, rows) };
                let b: Vec<Row> = (0..steps).map(|k| Row(std::array::from_fn(|l| number(k * LANES + l)))).collect();
                for fresh in [true, false] {
                    let mut c = vec![Row([3.0; LANES]); rows];
                    Product { a: &a, row, step, b: &b, c: &mut c, fresh }.run(isa);
                    for (r, c) in c.iter().enumerate() {
                        for l in 0..LANES {
                            let sum: f32 = (0..steps).map(|k| a[r * row + k * step] * b[k].0[l]).sum();
                            let want = sum + if fresh { 0.0 } else { 3.0 };
                            assert_eq!(c.0[l], want, "{isa:?} {rows} {steps} {r} {l}");
                        }
                    }
                }
            }
        }
    }
}
