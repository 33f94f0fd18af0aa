//! The definition: plain loops.

use super::Unary;
use num_traits::Float;

/// `f(x)`.
pub fn apply<F: Float>(f: Unary, x: &[F]) -> Vec<F> {
    x.iter()
        .map(|&x| match f {
            Unary::Exp => x.exp(),
            Unary::Ln => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Recip => x.recip(),
        })
        .collect()
}

/// `dy · f'(x)`.
pub fn backward<F: Float>(f: Unary, x: &[F], dy: &[F]) -> Vec<F> {
    let slope = |x: F| match f {
        Unary::Exp => x.exp(),
        Unary::Ln => x.recip(),
        Unary::Sqrt => (x.sqrt() + x.sqrt()).recip(),
        Unary::Recip => -(x * x).recip(),
    };
    x.iter().zip(dy).map(|(&x, &dy)| dy * slope(x)).collect()
}
