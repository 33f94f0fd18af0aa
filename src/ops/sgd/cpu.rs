//! One pass over the three arrays; elements are independent.

use rayon::prelude::*;

/// Elements a task takes at once.
const CHUNK: usize = 1 << 15;

pub(super) fn step(momentum: f32, nesterov: bool, decay: f32, lr: f32, w: &mut [f32], grad: &[f32], v: &mut [f32]) {
    w.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)).zip(grad.par_chunks(CHUNK)).for_each(|((w, v), grad)| {
        for ((w, v), g) in w.iter_mut().zip(v).zip(grad) {
            let g = g + decay * *w;
            *v = momentum * *v + g;
            *w -= lr * if nesterov { g + momentum * *v } else { *v };
        }
    });
}
