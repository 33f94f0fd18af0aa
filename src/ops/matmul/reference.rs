//! The definition: plain loops.

use crate::ops::reference::Bounded;
use num_traits::Float;

/// `y[i j] = Σ_l op(a)[i l] · op(b)[l j]`.
pub fn apply<F: Float>([m, k, n]: [usize; 3], a: &[F], ta: bool, b: &[F], tb: bool) -> Bounded<F> {
    let (mut value, mut magnitude) = (vec![F::zero(); m * n], vec![F::zero(); m * n]);
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                let p = if ta { a[l * m + i] } else { a[i * k + l] };
                let q = if tb { b[j * k + l] } else { b[l * n + j] };
                value[i * n + j] = value[i * n + j] + p * q;
                magnitude[i * n + j] = magnitude[i * n + j] + (p * q).abs();
            }
        }
    }
    Bounded { value, magnitude, terms: k }
}

/// The gradients by `a` and `b`, in the shapes in which they are stored, for the gradient `dy[m n]` of the product.
pub fn backward<F: Float>(
    [m, k, n]: [usize; 3],
    a: &[F],
    ta: bool,
    b: &[F],
    tb: bool,
    dy: &[F],
) -> (Bounded<F>, Bounded<F>) {
    // op(a) = dy · op(b)ᵀ, and a is its transpose where `ta`; b alike.
    let da = if ta { apply([k, n, m], b, tb, dy, true) } else { apply([m, n, k], dy, false, b, !tb) };
    let db = if tb { apply([n, m, k], dy, true, a, ta) } else { apply([k, m, n], a, !ta, dy, false) };
    (da, db)
}
