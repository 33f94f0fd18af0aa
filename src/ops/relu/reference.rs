//! The definition: plain loops.

use num_traits::Float;

/// `max(x, 0)`; NaN is propagated.
pub fn relu<F: Float>(x: &[F]) -> Vec<F> {
    x.iter().map(|&x| if x <= F::zero() { F::zero() } else { x }).collect()
}

/// `dy` where the result `y` is positive, 0 elsewhere.
pub fn backward<F: Float>(y: &[F], dy: &[F]) -> Vec<F> {
    y.iter().zip(dy).map(|(&y, &dy)| if y > F::zero() { dy } else { F::zero() }).collect()
}
