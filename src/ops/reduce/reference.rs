//! The definition: plain loops.

use crate::ops::arith::reference::offset;
use crate::shape::Shape;
use num_traits::Float;

/// The sums, and beside each the sum of its terms' magnitudes (from which a tolerance is derived).
pub fn sum_to<F: Float>(a: &[F], from: Shape, to: Shape) -> (Vec<F>, Vec<F>) {
    let (mut y, mut mag) = (vec![F::zero(); to.len()], vec![F::zero(); to.len()]);
    for (i, &v) in a.iter().enumerate() {
        let at = offset(i, from, to);
        y[at] = y[at] + v;
        mag[at] = mag[at] + v.abs();
    }
    (y, mag)
}

/// The repetition.
pub fn broadcast_to<F: Float>(a: &[F], from: Shape, to: Shape) -> Vec<F> {
    (0..to.len()).map(|i| a[offset(i, to, from)]).collect()
}
