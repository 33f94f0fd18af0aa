//! The definition: plain loops.

use crate::ops::{arith::offset, reference::Bounded};
use crate::shape::Shape;
use num_traits::Float;

/// The sums.
pub fn sum_to<F: Float>(a: &[F], from: Shape, to: Shape) -> Bounded<F> {
    let (mut value, mut magnitude) = (vec![F::zero(); to.len()], vec![F::zero(); to.len()]);
    for (i, &v) in a.iter().enumerate() {
        let at = offset(i, from, to);
        value[at] = value[at] + v;
        magnitude[at] = magnitude[at] + v.abs();
    }
    Bounded { value, magnitude, terms: from.len() / to.len().max(1) }
}

/// The rows of `a`, added one after another.
pub fn in_order<F: Float>(a: &[F], rows: usize) -> Bounded<F> {
    let n = a.len() / rows;
    let column = |i: usize| (0..rows).map(move |row| a[row * n + i]);
    let value = (0..n).map(|i| column(i).fold(F::zero(), |sum, v| sum + v)).collect();
    let magnitude = (0..n).map(|i| column(i).fold(F::zero(), |sum, v| sum + v.abs())).collect();
    Bounded { value, magnitude, terms: rows }
}

/// Broadcasting.
pub fn broadcast_to<F: Float>(a: &[F], from: Shape, to: Shape) -> Vec<F> {
    (0..to.len()).map(|i| a[offset(i, to, from)]).collect()
}
