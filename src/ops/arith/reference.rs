//! The definition: plain loops.

use super::{Arith, offset};
use crate::shape::Shape;
use num_traits::Float;

/// `y[i] = a[i] ∘ b[i]`; along axes of extent 1 the index is 0.
pub fn apply<F: Float>(op: Arith, a: &[F], a_shape: Shape, b: &[F], b_shape: Shape, out: Shape) -> Vec<F> {
    (0..out.len())
        .map(|i| {
            let (x, y) = (a[offset(i, out, a_shape)], b[offset(i, out, b_shape)]);
            match op {
                Arith::Add => x + y,
                Arith::Sub => x - y,
                Arith::Mul => x * y,
                Arith::Div => x / y,
            }
        })
        .collect()
}
