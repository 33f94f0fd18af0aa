//! The definition: a plain loop.

use crate::ops::reference::Bounded;
use num_traits::Float;

/// `m·key + (1 - m)·query`.
pub fn update<F: Float>(key: &[F], query: &[F], m: F) -> Bounded<F> {
    let pairs = || key.iter().zip(query);
    Bounded {
        value: pairs().map(|(&k, &q)| m * k + (F::one() - m) * q).collect(),
        magnitude: pairs().map(|(&k, &q)| (m * k).abs() + ((F::one() - m) * q).abs()).collect(),
        terms: 3,
    }
}
