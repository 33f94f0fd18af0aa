//! Equal shapes and a repeated innermost row (per-channel factors) run straight through memory; other broadcasts index.

use super::{Arith, reference};
use crate::shape::Shape;
use rayon::prelude::*;

/// Elements a task takes at once: enough to hide the cost of handing it out.
const CHUNK: usize = 1 << 15;

pub(super) fn apply(op: Arith, a: &[f32], a_shape: Shape, b: &[f32], b_shape: Shape, out: Shape, y: &mut [f32]) {
    match op {
        Arith::Add => run(|p, q| p + q, a, a_shape, b, b_shape, out, y),
        Arith::Sub => run(|p, q| p - q, a, a_shape, b, b_shape, out, y),
        Arith::Mul => run(|p, q| p * q, a, a_shape, b, b_shape, out, y),
        Arith::Div => run(|p, q| p / q, a, a_shape, b, b_shape, out, y),
    }
}

fn run(
    f: impl Fn(f32, f32) -> f32 + Sync,
    a: &[f32],
    a_shape: Shape,
    b: &[f32],
    b_shape: Shape,
    out: Shape,
    y: &mut [f32],
) {
    y.par_chunks_mut(CHUNK).enumerate().for_each(|(i, y)| {
        let at = i * CHUNK;
        if a_shape == out && b_shape == out {
            for ((y, &p), &q) in y.iter_mut().zip(&a[at..]).zip(&b[at..]) {
                *y = f(p, q);
            }
        } else if a_shape == out && b_shape.len() == b_shape.last() && b.len() == out.last() {
            let row = b.len();
            for (j, (y, &p)) in y.iter_mut().zip(&a[at..]).enumerate() {
                *y = f(p, b[(at + j) % row]);
            }
        } else {
            for (j, y) in y.iter_mut().enumerate() {
                *y = f(a[reference::offset(at + j, out, a_shape)], b[reference::offset(at + j, out, b_shape)]);
            }
        }
    });
}

pub(super) fn scale(a: &[f32], factor: f32, y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(y, a)| {
        for (y, a) in y.iter_mut().zip(a) {
            *y = factor * a;
        }
    });
}
