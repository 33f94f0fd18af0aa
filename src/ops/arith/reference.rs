//! The definition: plain loops.

use super::Arith;
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

/// The offset that element `i` of an array of shape `out` has in one of shape `of`, whose extents of 1 are repeated.
pub fn offset(i: usize, out: Shape, of: Shape) -> usize {
    let (mut rest, mut stride, mut at) = (i, 1, 0);
    for (&o, &d) in out.dims().iter().zip(of.dims()).rev() {
        if d != 1 {
            at += (rest % o) * stride;
        }
        stride *= d;
        rest /= o;
    }
    at
}
