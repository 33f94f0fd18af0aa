//! The median of 3x3 or 5x5 pixels by sorting networks of minima and maxima, many pixels at once.
//!
//! Columns are sorted first, once for all the windows that share them, then the rows of each window. In a matrix with
//! sorted rows and columns an entry is no smaller than all those above and left of it. This leaves as candidates for
//! the median the main antidiagonal (3x3) or the three middle ones (5x5); counting again leaves three numbers. The test
//! below tries every arrangement of zeros and ones, which proves a network of minima and maxima correct (Knuth, volume
//! 3, 5.3.4).

use super::plane::{LINE, Plane};
use crate::cpu::simd::{Vector, Vectorized};

/// What a network compares: vectors lane by lane, or bits in its proof.
trait Ordered: Copy {
    /// # Safety
    /// As for [`Vector`].
    unsafe fn low(self, o: Self) -> Self;
    /// # Safety
    /// As for [`Vector`].
    unsafe fn high(self, o: Self) -> Self;
}

impl<V: Vector> Ordered for V {
    #[inline(always)]
    unsafe fn low(self, o: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.min(o) }
    }

    #[inline(always)]
    unsafe fn high(self, o: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.max(o) }
    }
}

/// The comparisons that sort five numbers.
const SORT_5: [(usize, usize); 9] = [(0, 3), (1, 4), (0, 2), (1, 3), (0, 1), (2, 4), (1, 2), (3, 4), (2, 3)];
/// The comparisons that sort three numbers.
const SORT_3: [(usize, usize); 3] = [(0, 2), (0, 1), (1, 2)];

#[inline(always)]
unsafe fn sort<V: Ordered, const K: usize>(mut v: [V; K]) -> [V; K] {
    let network: &[(usize, usize)] = if K == 5 { &SORT_5 } else { &SORT_3 };
    for &(a, b) in network {
        // SAFETY: the caller's promise.
        (v[a], v[b]) = unsafe { (v[a].low(v[b]), v[a].high(v[b])) };
    }
    v
}

/// The median of a window given as `K` sorted columns. The compiler removes the comparisons of each row's sorting whose
/// results are not used.
#[inline(always)]
unsafe fn middle<V: Ordered, const K: usize>(columns: [[V; K]; K]) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let mut m = columns;
        for y in 0..K {
            let mut row = columns[0];
            for x in 0..K {
                row[x] = columns[x][y];
            }
            m[y] = sort(row);
        }
        let mut main = m[0];
        for y in 0..K {
            main[y] = m[y][K - 1 - y];
        }
        let main = sort(main)[K / 2];
        if K == 3 {
            return main;
        }
        let below = m[0][3].high(m[1][2]).high(m[2][1].high(m[3][0]));
        let above = m[1][4].low(m[2][3]).low(m[3][2].low(m[4][1]));
        sort([below, main, above])[1]
    }
}

/// Rows from `first` on of the median of `from` over `size × size` pixels (3 or 5), the border replicated, written to
/// `to` (complete rows with their padding).
pub(super) struct Median<'a> {
    pub from: &'a Plane,
    pub size: usize,
    pub first: usize,
    pub to: &'a mut [f32],
}

impl Vectorized for Median<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.size {
                3 => rows::<V, 3>(self.from, self.first, self.to),
                _ => rows::<V, 5>(self.from, self.first, self.to),
            }
        }
    }
}

#[inline(always)]
unsafe fn rows<V: Vector, const K: usize>(from: &Plane, first: usize, to: &mut [f32]) {
    let (r, w, stride) = (K / 2, from.w, from.stride);
    let width = stride + 2 * LINE;
    // The sorted columns, K numbers each, as K rows with one cache line before and after for the replicated border.
    let mut sorted = vec![0.0f32; K * width];
    for (i, to) in to.chunks_exact_mut(stride).enumerate() {
        let near: [&[f32]; K] = std::array::from_fn(|k| from.row((first + i + k).saturating_sub(r).min(from.h - 1)));
        let mut x = 0;
        while x < stride {
            // SAFETY: every row is `stride` long, a multiple of N; row k of `sorted` holds `stride` numbers from LINE.
            unsafe {
                let mut column = [V::splat(0.0); K];
                for (column, near) in column.iter_mut().zip(&near) {
                    *column = V::load(near.as_ptr().add(x));
                }
                for (k, column) in sort(column).into_iter().enumerate() {
                    column.store(sorted.as_mut_ptr().add(k * width + LINE + x));
                }
            }
            x += V::LANES;
        }
        for row in sorted.chunks_exact_mut(width) {
            let (left, right) = (row[LINE], row[LINE + w - 1]);
            row[LINE - r..LINE].fill(left);
            row[LINE + w..LINE + w + r].fill(right);
        }
        let mut x = 0;
        while x < stride {
            // SAFETY: loads reach r numbers beyond either end of the `stride` numbers, within the lines around them.
            unsafe {
                let mut columns = [[V::splat(0.0); K]; K];
                for (c, column) in columns.iter_mut().enumerate() {
                    for (k, entry) in column.iter_mut().enumerate() {
                        *entry = V::load(sorted.as_ptr().add(k * width + LINE + x + c - r));
                    }
                }
                middle(columns).store(to.as_mut_ptr().add(x));
            }
            x += V::LANES;
        }
        to[w..].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 64 arrangements of zeros and ones at once: the minimum of two bits is their "and".
    #[derive(Clone, Copy)]
    struct Bits(u64);

    impl Ordered for Bits {
        unsafe fn low(self, o: Self) -> Self {
            Bits(self.0 & o.0)
        }
        unsafe fn high(self, o: Self) -> Self {
            Bits(self.0 | o.0)
        }
    }

    /// Entry `i` of 64 arrangements numbered from `64 · block`: bit `i` of each number.
    fn entry(i: usize, block: u64) -> Bits {
        const LOW: [u64; 6] = [
            0xaaaa_aaaa_aaaa_aaaa,
            0xcccc_cccc_cccc_cccc,
            0xf0f0_f0f0_f0f0_f0f0,
            0xff00_ff00_ff00_ff00,
            0xffff_0000_ffff_0000,
            0xffff_ffff_0000_0000,
        ];
        Bits(if i < 6 { LOW[i] } else { (block >> (i - 6) & 1).wrapping_neg() })
    }

    /// Whether more than half of the K² entries are one, per arrangement.
    fn majority(number: u64, k: usize) -> bool {
        (number.count_ones() as usize) > k * k / 2
    }

    fn prove<const K: usize>() {
        for block in 0..1u64 << (K * K - 6) {
            let columns: [[Bits; K]; K] = std::array::from_fn(|x| std::array::from_fn(|y| entry(x * K + y, block)));
            // SAFETY: bits need no instruction set.
            let got = unsafe { middle(columns.map(|c| sort(c))) };
            let want = (0..64).fold(0, |w, i| w | u64::from(majority(block * 64 + i, K)) << i);
            assert_eq!(got.0, want, "{K}x{K}, arrangements from {}", block * 64);
        }
    }

    #[test]
    fn the_networks_find_the_median_of_every_arrangement() {
        prove::<3>();
        prove::<5>();
    }
}
