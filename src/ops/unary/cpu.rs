//! Element-wise functions in one pass over memory.

use super::Unary;
use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 1 << 14;

pub(super) fn apply(f: Unary, x: &[f32], y: &mut [f32]) {
    match f {
        Unary::Exp => run(f32::exp, x, y),
        Unary::Ln => run(f32::ln, x, y),
        Unary::Sqrt => run(f32::sqrt, x, y),
        Unary::Recip => run(f32::recip, x, y),
    }
}

fn run(f: impl Fn(f32) -> f32 + Sync, x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f(x);
        }
    });
}
