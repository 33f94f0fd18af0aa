//! Matrix products on the CPU; the multiplication is in [`super::product`].

use super::product::{self, Matrix};

/// `y[m n] += op(a)[m k] · op(b)[k n]`, row-major.
pub(super) fn add_product(y: &mut [f32], [m, k, n]: [usize; 3], a: &[f32], ta: bool, b: &[f32], tb: bool) {
    let holds = |v: &[f32], rows: usize, columns: usize| rows.checked_mul(columns) == Some(v.len());
    assert!(holds(y, m, n) && holds(a, m, k) && holds(b, k, n), "checked by the caller");
    if y.is_empty() || k == 0 {
        return;
    }
    let a = if ta { Matrix::rows(a, m).t() } else { Matrix::rows(a, k) };
    let b = if tb { Matrix::rows(b, k).t() } else { Matrix::rows(b, n) };
    product::add_product(a, b, y);
}
