//! The product itself is the `gemm` crate's: packed, blocked, AVX-512 where the machine has it.

use gemm::Parallelism;

/// `y[m n] += op(a)[m k] · op(b)[k n]`, row-major. The order of the additions does not depend on the thread count:
/// threads share out tiles of `y`, never the inner extent.
pub(super) fn add_product(y: &mut [f32], [m, k, n]: [usize; 3], a: &[f32], ta: bool, b: &[f32], tb: bool) {
    let holds = |v: &[f32], rows: usize, columns: usize| rows.checked_mul(columns) == Some(v.len());
    assert!(holds(y, m, n) && holds(a, m, k) && holds(b, k, n), "checked by the caller");
    if y.is_empty() || k == 0 {
        return;
    }
    let (m_, k_, n_) = (m as isize, k as isize, n as isize);
    // (columns, rows) strides of op(a) and op(b).
    let (a_cs, a_rs) = if ta { (m_, 1) } else { (1, k_) };
    let (b_cs, b_rs) = if tb { (k_, 1) } else { (1, n_) };
    // SAFETY: the three slices hold m·n, m·k and k·n elements (asserted above), which the strides stay within, and `y`
    // is borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n_,
            true,
            a.as_ptr(),
            a_cs,
            a_rs,
            b.as_ptr(),
            b_cs,
            b_rs,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}
