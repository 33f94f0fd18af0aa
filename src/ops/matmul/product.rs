//! Matrix products in main memory, by the crates `gemm-f32` and `gemm-f64`: packed, blocked, with AVX-512 where the
//! machine has it. The crate `gemm` on top of them would add complex numbers as a dependency.

use gemm_common::Parallelism;
use num_traits::Float;

/// A matrix in memory: element `(i, j)` is at `i·rows + j·cols`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
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

/// `m n k`, then the result (pointer, column and row stride, whether to add to it), both operands (the same), their
/// factors, three conjugations, threads.
#[rustfmt::skip]
type Gemm<T> = unsafe fn(
    usize, usize, usize, *mut T, isize, isize, bool, *const T, isize, isize, *const T, isize, isize, T, T, bool, bool, bool,
    Parallelism,
);

/// A number whose matrices can be multiplied.
pub(crate) trait Number: Float {
    /// The implementation for this processor.
    fn gemm() -> Gemm<Self>;
}

impl Number for f32 {
    fn gemm() -> Gemm<f32> {
        gemm_f32::gemm::f32::get_gemm_fn()
    }
}

#[cfg(feature = "train")]
impl Number for f64 {
    fn gemm() -> Gemm<f64> {
        gemm_f64::gemm::f64::get_gemm_fn()
    }
}

/// `out [m n] = a [m k] · b [k n]`, on the calling thread.
#[cfg(feature = "train")]
pub(crate) fn product<T: Number>(a: Matrix<'_, T>, b: Matrix<'_, T>, out: &mut [T]) {
    multiply(a, b, out, false, Parallelism::None);
}

/// `out [m n] += a [m k] · b [k n]`. The order of the additions does not depend on the number of threads: they divide
/// the tiles of `out`, never the inner extent.
pub(super) fn add_product(a: Matrix<'_, f32>, b: Matrix<'_, f32>, out: &mut [f32]) {
    multiply(a, b, out, true, Parallelism::Rayon(0));
}

fn multiply<T: Number>(a: Matrix<'_, T>, b: Matrix<'_, T>, out: &mut [T], add: bool, threads: Parallelism) {
    let ([m, k], [k2, n]) = (a.extents, b.extents);
    let fits = k == k2 && m.checked_mul(n) == Some(out.len());
    assert!(fits, "a product of [{m} {k}] and [{k2} {n}] into {} elements", out.len());
    // The kernels prefer a column-major result: rows of `out` are columns of its transpose.
    let (a, b, m, n, out_cols) = if n > 1 { (b.t(), a.t(), n, m, n) } else { (a, b, m, n, 1) };
    let [a_rows, a_cols] = a.strides.map(|s| s as isize);
    let [b_rows, b_cols] = b.strides.map(|s| s as isize);
    let (a, b, out) = (a.data.as_ptr(), b.data.as_ptr(), out.as_mut_ptr());
    let one = T::one();
    // SAFETY: `Matrix` keeps extents and strides inside of its slice, the extents agree (asserted), and `out`, borrowed
    // mutably, overlaps neither.
    unsafe {
        #[rustfmt::skip]
        T::gemm()(
            m, n, k, out, out_cols as isize, 1, add, a, a_cols, a_rows, b, b_cols, b_rows,
            if add { one } else { T::zero() }, one, false, false, false, threads,
        );
    }
}
