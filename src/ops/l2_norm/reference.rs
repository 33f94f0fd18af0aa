//! The definition: plain loops.

use super::EPS;
use crate::ops::reference::Bounded;
use num_traits::{Float, NumCast};

fn eps<F: Float>() -> F {
    <F as NumCast>::from(EPS).unwrap_or_else(F::epsilon)
}

fn dot<F: Float>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).fold(F::zero(), |s, (&p, &q)| s + p * q)
}

/// `y = x / max(‖x‖, ε)` for rows of `d`. The relative error of the square root of a sum of squares is half that of the
/// sum, so the magnitude is that of the value.
pub fn forward<F: Float>(x: &[F], d: usize) -> Bounded<F> {
    let value: Vec<F> = x
        .chunks_exact(d)
        .flat_map(|x| {
            let norm = dot(x, x).sqrt().max(eps());
            x.iter().map(move |&v| v / norm)
        })
        .collect();
    let magnitude = value.iter().map(|v| v.abs()).collect();
    Bounded { value, magnitude, terms: d + 2 }
}

/// `dx = (dy - y·(y·dy)) / ‖x‖`.
pub fn backward<F: Float>(x: &[F], dy: &[F], d: usize) -> Bounded<F> {
    let (mut value, mut magnitude) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
    for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
        let norm = dot(x, x).sqrt();
        if norm <= eps() {
            value.extend(dy.iter().map(|&g| g / eps()));
            magnitude.extend(dy.iter().map(|&g| g.abs() / eps()));
            continue;
        }
        let along = dot(x, dy) / norm;
        let spread = x.iter().zip(dy).fold(F::zero(), |s, (&x, &g)| s + (x * g).abs()) / norm;
        for (&x, &g) in x.iter().zip(dy) {
            value.push((g - x / norm * along) / norm);
            magnitude.push((g.abs() + (x / norm).abs() * spread) / norm);
        }
    }
    Bounded { value, magnitude, terms: 2 * d + 6 }
}
