//! A matrix product on the calling thread.

use gemm::Parallelism;
use num_traits::Float;

/// A matrix in memory: element `(i, j)` is at `i·rows + j·cols`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: &'a [T],
    extents: [usize; 2],
    strides: [usize; 2],
}

impl<'a, T> Matrix<'a, T> {
    /// `data` as rows of length `cols`.
    pub fn rows(data: &'a [T], cols: usize) -> Self {
        debug_assert_eq!(data.len() % cols, 0);
        Matrix { data, extents: [data.len() / cols, cols], strides: [cols, 1] }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        let ([m, n], [p, q]) = (self.extents, self.strides);
        Matrix { data: self.data, extents: [n, m], strides: [q, p] }
    }
}

/// `out [m n] = a [m k] · b [k n]`, in f32 or f64.
pub(super) fn product<T: Float + 'static>(a: Matrix<'_, T>, b: Matrix<'_, T>, out: &mut [T]) {
    let ([m, k], [k2, n]) = (a.extents, b.extents);
    let fits = k == k2 && m.checked_mul(n) == Some(out.len());
    assert!(fits, "a product of [{m} {k}] and [{k2} {n}] into {} elements", out.len());
    let [a_rows, a_cols] = a.strides.map(|s| s as isize);
    let [b_rows, b_cols] = b.strides.map(|s| s as isize);
    // SAFETY: `Matrix` keeps extents and strides inside its slice, the extents agree (asserted), and `out`, borrowed
    // mutably, overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.data.as_ptr(),
            a_cols,
            a_rows,
            b.data.as_ptr(),
            b_cols,
            b_rows,
            T::zero(),
            T::one(),
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
