//! The definition: plain loops.

use crate::ops::reference::Bounded;
use num_traits::Float;

/// Edges of a flow `(u, v)` of `h w` pixels, clamped and scaled to 0 to 1.
///
/// Each of the four responses is a sum of eight products. The error of the root of the sum of their squares is at most
/// the root of the sum of *their errors'* squares, hence the magnitude.
pub fn flow_edges<F: Float>(u: &[F], v: &[F], h: usize, w: usize, clamp: F) -> Bounded<F> {
    const ACROSS: [[i8; 3]; 3] = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]];
    const DOWN: [[i8; 3]; 3] = [[-1, -2, -1], [0, 0, 0], [1, 2, 1]];
    let (mut value, mut magnitude) = (Vec::with_capacity(h * w), Vec::with_capacity(h * w));
    for y in 0..h {
        for x in 0..w {
            let (mut square, mut size) = (F::zero(), F::zero());
            for field in [u, v] {
                for kernel in [ACROSS, DOWN] {
                    let (mut sum, mut terms) = (F::zero(), F::zero());
                    for (i, weights) in kernel.iter().enumerate() {
                        for (j, &weight) in weights.iter().enumerate() {
                            let row = (y + i).saturating_sub(1).min(h - 1);
                            let column = (x + j).saturating_sub(1).min(w - 1);
                            let term = F::from(weight).unwrap_or_else(F::nan) * field[row * w + column];
                            sum = sum + term;
                            terms = terms + term.abs();
                        }
                    }
                    square = square + sum * sum;
                    size = size + terms * terms;
                }
            }
            let edge = square.sqrt();
            value.push(if edge > clamp { clamp } else { edge } / clamp);
            magnitude.push(size.sqrt() / clamp);
        }
    }
    // Eight additions per response, its square and the sum of squares, the root and the division.
    Bounded { value, magnitude, terms: 8 + 4 + 2 }
}

/// Motion boundary of one channel of a flow, `h w`: the magnitude of the two Prewitt responses, in the channel's unit.
pub fn motion_boundary<F: Float>(field: &[F], h: usize, w: usize) -> Bounded<F> {
    let (mut value, mut magnitude) = (Vec::with_capacity(h * w), Vec::with_capacity(h * w));
    for y in 0..h {
        for x in 0..w {
            let ([mut gx, mut gy], [mut terms_x, mut terms_y]) = ([F::zero(); 2], [F::zero(); 2]);
            for i in 0..3 {
                for j in 0..3 {
                    let (row, column) = ((y + i).saturating_sub(1).min(h - 1), (x + j).saturating_sub(1).min(w - 1));
                    let number = |k: usize| F::from(k).unwrap_or_else(F::nan) - F::one();
                    let (across, down) = (number(j) * field[row * w + column], number(i) * field[row * w + column]);
                    (gx, gy) = (gx + across, gy + down);
                    (terms_x, terms_y) = (terms_x + across.abs(), terms_y + down.abs());
                }
            }
            value.push((gx * gx + gy * gy).sqrt());
            magnitude.push((terms_x * terms_x + terms_y * terms_y).sqrt());
        }
    }
    // Six additions per response, its square and the sum of squares, the root.
    Bounded { value, magnitude, terms: 6 + 4 }
}

/// Mean over three channels of `|next - this| / 255`.
pub fn frame_difference<F: Float>(this: &[u8], next: &[u8]) -> Bounded<F> {
    let number = |x: f64| F::from(x).unwrap_or_else(F::nan);
    let pixel = |(a, b): (&[u8], &[u8])| {
        let sum = a.iter().zip(b).fold(F::zero(), |s, (a, b)| s + number((f64::from(*a) - f64::from(*b)).abs()));
        sum / number(3.0 * 255.0)
    };
    let value: Vec<F> = this.chunks_exact(3).zip(next.chunks_exact(3)).map(pixel).collect();
    Bounded { magnitude: value.clone(), value, terms: 2 }
}
