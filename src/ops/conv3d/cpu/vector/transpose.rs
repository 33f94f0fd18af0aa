//! Transposing a matrix in blocks.

#[cfg(target_arch = "x86_64")]
use crate::cpu::Isa;

/// `to[j·to_step + i] = from[i·from_step + j]` for `i < rows` and `j < columns`.
pub(super) fn transpose(from: &[f32], from_step: usize, to: &mut [f32], to_step: usize, rows: usize, columns: usize) {
    #[cfg(target_arch = "x86_64")]
    if Isa::best() >= Isa::Avx512 && rows >= SIDE && columns >= SIDE {
        let (whole_rows, whole_columns) = (rows / SIDE * SIDE, columns / SIDE * SIDE);
        assert!((rows - 1) * from_step + columns <= from.len() && (columns - 1) * to_step + rows <= to.len());
        for i in (0..whole_rows).step_by(SIDE) {
            for j in (0..whole_columns).step_by(SIDE) {
                let (from, to) = (from[i * from_step + j..].as_ptr(), to[j * to_step + i..].as_mut_ptr());
                // SAFETY: both blocks are inside, as was just checked; the machine has the instructions.
                unsafe { square(from, from_step, to, to_step) }
            }
        }
        if whole_columns < columns {
            let (from, to) = (&from[whole_columns..], &mut to[whole_columns * to_step..]);
            fours(from, from_step, to, to_step, whole_rows, columns - whole_columns);
        }
        if whole_rows < rows {
            fours(
                &from[whole_rows * from_step..],
                from_step,
                &mut to[whole_rows..],
                to_step,
                rows - whole_rows,
                columns,
            );
        }
        return;
    }
    fours(from, from_step, to, to_step, rows, columns);
}

/// The same, in blocks of four by four.
fn fours(from: &[f32], from_step: usize, to: &mut [f32], to_step: usize, rows: usize, columns: usize) {
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    for i in (0..whole_rows).step_by(4) {
        for j in (0..whole_columns).step_by(4) {
            let row = |r: usize| -> [f32; 4] {
                let at = (i + r) * from_step + j;
                [from[at], from[at + 1], from[at + 2], from[at + 3]]
            };
            let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
            for r in 0..4 {
                let at = (j + r) * to_step + i;
                to[at..at + 4].copy_from_slice(&[a[r], b[r], c[r], d[r]]);
            }
        }
    }
    for i in 0..rows {
        for j in if i < whole_rows { whole_columns } else { 0 }..columns {
            to[j * to_step + i] = from[i * from_step + j];
        }
    }
}

/// Rows and columns of [`square`].
#[cfg(target_arch = "x86_64")]
const SIDE: usize = 16;

/// Transposes one block of [`SIDE`] by [`SIDE`]. With loops instead of iterators: closures in a function with target
/// features are not inlined.
///
/// # Safety
/// Both blocks are inside of their arrays, which do not overlap, and the machine has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn square(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    unsafe {
        // For four rows: each 128-bit lane of `of[j]` holds the four rows' numbers of one column, column `j` of that
        // lane's four.
        let mut of = [[_mm512_setzero_ps(); 4]; 4];
        for (g, of) in of.iter_mut().enumerate() {
            let from = from.add(4 * g * from_step);
            let (a, b) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(from_step)));
            let (c, d) = (_mm512_loadu_ps(from.add(2 * from_step)), _mm512_loadu_ps(from.add(3 * from_step)));
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
            _mm512_storeu_ps(to, _mm512_shuffle_f32x4::<0x88>(first, first2));
            _mm512_storeu_ps(to.add(4 * to_step), _mm512_shuffle_f32x4::<0xdd>(first, first2));
            _mm512_storeu_ps(to.add(8 * to_step), _mm512_shuffle_f32x4::<0x88>(last, last2));
            _mm512_storeu_ps(to.add(12 * to_step), _mm512_shuffle_f32x4::<0xdd>(last, last2));
        }
    }
}
