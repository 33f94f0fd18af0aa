//! The definition: plain loops.

use crate::ops::{matmul, reference::Bounded};
use num_traits::Float;

/// `y[n o] = Σ_i x[n i] w[o i] + b[o]`; extents `n i o`.
pub fn linear<F: Float>([n, i, o]: [usize; 3], x: &[F], w: &[F], b: Option<&[F]>) -> Bounded<F> {
    let mut y = matmul::reference::apply([n, i, o], x, false, w, true);
    if let Some(b) = b {
        for (at, (v, m)) in y.value.iter_mut().zip(&mut y.magnitude).enumerate() {
            *v = *v + b[at % o];
            *m = *m + b[at % o].abs();
        }
        y.terms += 1;
    }
    y
}

/// The gradients by `x`, `w` and `b` for the gradient `dy[n o]` of the result.
pub fn backward<F: Float>([n, i, o]: [usize; 3], x: &[F], w: &[F], dy: &[F]) -> [Bounded<F>; 3] {
    let (dx, dw) = matmul::reference::backward([n, i, o], x, false, w, true, dy);
    let ones = vec![F::one(); n];
    [dx, dw, matmul::reference::apply([1, n, o], &ones, false, dy, false)]
}
