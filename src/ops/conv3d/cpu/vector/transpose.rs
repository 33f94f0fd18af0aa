//! Transposing a matrix of elements in blocks.

use super::operand::Number;
#[cfg(target_arch = "x86_64")]
use crate::cpu::Isa;

/// Element `j` of row `i` of `from` becomes element `i` of row `j` of `to`, for `i < rows`. Rows of `from` have so many
/// `numbers`; an element that they do not fill gets zeros. Steps are distances between rows, in numbers.
pub(super) fn transpose<N: Number>(
    from: &[N],
    from_step: usize,
    to: &mut [N],
    to_step: usize,
    rows: usize,
    numbers: usize,
) {
    if rows == 0 || numbers == 0 {
        return;
    }
    let (columns, left) = (numbers / N::DEPTH, numbers % N::DEPTH);
    assert!((rows - 1) * from_step + numbers <= from.len());
    assert!((numbers.div_ceil(N::DEPTH) - 1) * to_step + rows * N::DEPTH <= to.len());
    let m = Matrix { from: from.as_ptr(), from_step, to: to.as_mut_ptr(), to_step };
    // SAFETY: every element is inside, as was just checked, and the machine has the instructions.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        let (square_rows, square_columns) = match Isa::best() >= Isa::Avx512 {
            true => (rows / SIDE * SIDE, columns / SIDE * SIDE),
            false => (0, 0),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let (square_rows, square_columns) = (0, 0);
        #[cfg(target_arch = "x86_64")]
        for i in (0..square_rows).step_by(SIDE) {
            for j in (0..square_columns).step_by(SIDE) {
                let m = m.at(i, j);
                square(m.from, from_step, m.to, to_step);
            }
        }
        m.at(0, square_columns).fours(square_rows, columns - square_columns);
        m.at(square_rows, 0).fours(rows - square_rows, columns);
    }
    if left > 0 {
        for (i, to) in to[columns * to_step..].chunks_exact_mut(N::DEPTH).take(rows).enumerate() {
            to.fill(N::zeroed());
            to[..left].copy_from_slice(&from[i * from_step + numbers - left..][..left]);
        }
    }
}

/// A matrix and where its transpose goes.
struct Matrix<N> {
    from: *const N,
    from_step: usize,
    to: *mut N,
    to_step: usize,
}

impl<N: Number> Matrix<N> {
    /// The part from row `i` and element `j` on.
    fn at(&self, i: usize, j: usize) -> Matrix<N> {
        Matrix {
            from: self.from.wrapping_add(i * self.from_step + j * N::DEPTH),
            to: self.to.wrapping_add(j * self.to_step + i * N::DEPTH),
            ..*self
        }
    }

    /// Transposes so many rows and columns in blocks of four by four.
    ///
    /// # Safety
    /// They are inside of the arrays, which do not overlap.
    unsafe fn fours(&self, rows: usize, columns: usize) {
        let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
        for i in (0..whole_rows).step_by(4) {
            for j in (0..whole_columns).step_by(4) {
                // SAFETY: the caller's promise.
                let row = |r: usize| unsafe { self.at(i + r, j).from.cast::<[u32; 4]>().read_unaligned() };
                let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
                for r in 0..4 {
                    // SAFETY: as above.
                    unsafe { self.at(i, j + r).to.cast::<[u32; 4]>().write_unaligned([a[r], b[r], c[r], d[r]]) }
                }
            }
        }
        for i in 0..rows {
            for j in if i < whole_rows { whole_columns } else { 0 }..columns {
                let one = self.at(i, j);
                // SAFETY: as above.
                unsafe { one.to.cast::<u32>().write_unaligned(one.from.cast::<u32>().read_unaligned()) }
            }
        }
    }
}

/// Rows and columns of [`square`].
#[cfg(target_arch = "x86_64")]
const SIDE: usize = 16;

/// Transposes one block of [`SIDE`] by [`SIDE`] elements. With loops instead of iterators: closures in a function with target
/// features are not inlined.
///
/// # Safety
/// Both blocks are inside of their arrays, which do not overlap, and the machine has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn square<N: Number>(from: *const N, from_step: usize, to: *mut N, to_step: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    unsafe {
        // For four rows: each 128-bit lane of `of[j]` holds the four rows' numbers of one column, column `j` of that
        // lane's four.
        let mut of = [[_mm512_setzero_ps(); 4]; 4];
        for (g, of) in of.iter_mut().enumerate() {
            let from = from.add(4 * g * from_step);
            let (a, b) = (_mm512_loadu_ps(from.cast()), _mm512_loadu_ps(from.add(from_step).cast()));
            let (c, d) = (from.add(2 * from_step), from.add(3 * from_step));
            let (c, d) = (_mm512_loadu_ps(c.cast()), _mm512_loadu_ps(d.cast()));
            let (low, high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (low2, high2) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let (low, low2) = (_mm512_castps_pd(low), _mm512_castps_pd(low2));
            let (high, high2) = (_mm512_castps_pd(high), _mm512_castps_pd(high2));
            of[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2));
            of[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2));
            of[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2));
            of[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2));
        }
        #[allow(clippy::needless_range_loop, reason = "iterators may not be inlined, as closures are not")]
        for j in 0..4 {
            let first = _mm512_shuffle_f32x4::<0x44>(of[0][j], of[1][j]);
            let first2 = _mm512_shuffle_f32x4::<0x44>(of[2][j], of[3][j]);
            let last = _mm512_shuffle_f32x4::<0xee>(of[0][j], of[1][j]);
            let last2 = _mm512_shuffle_f32x4::<0xee>(of[2][j], of[3][j]);
            let to = to.add(j * to_step);
            _mm512_storeu_ps(to.cast(), _mm512_shuffle_f32x4::<0x88>(first, first2));
            _mm512_storeu_ps(to.add(4 * to_step).cast(), _mm512_shuffle_f32x4::<0xdd>(first, first2));
            _mm512_storeu_ps(to.add(8 * to_step).cast(), _mm512_shuffle_f32x4::<0x88>(last, last2));
            _mm512_storeu_ps(to.add(12 * to_step).cast(), _mm512_shuffle_f32x4::<0xdd>(last, last2));
        }
    }
}
