//! Row by row; rows are independent, so results do not depend on the number of threads.

use super::EPS;
use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 1 << 14;

fn rows_per_task(d: usize) -> usize {
    (CHUNK / d.max(1)).max(1) * d.max(1)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(p, q)| f64::from(*p) * f64::from(*q)).sum()
}

pub(super) fn longer_than_eps(row: &[f32]) -> bool {
    dot(row, row).sqrt() > f64::from(EPS)
}

pub(super) fn forward(x: &[f32], d: usize, y: &mut [f32]) {
    if d == 0 {
        return;
    }
    let chunk = rows_per_task(d);
    y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let scale = 1.0 / dot(x, x).sqrt().max(f64::from(EPS));
            y.iter_mut().zip(x).for_each(|(y, x)| *y = (f64::from(*x) * scale) as f32);
        }
    });
}

pub(super) fn backward(x: &[f32], dy: &[f32], d: usize, dx: &mut [f32]) {
    if d == 0 {
        return;
    }
    let chunk = rows_per_task(d);
    dx.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).zip(dy.par_chunks(chunk)).for_each(|((dx, x), dy)| {
        for ((dx, x), dy) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d)) {
            let square = dot(x, x);
            let norm = square.sqrt();
            // y·(y·dy) = x·(x·dy)/‖x‖²; for rows shorter than ε the map is the linear x/ε.
            let (along, scale) =
                if norm > f64::from(EPS) { (dot(x, dy) / square, 1.0 / norm) } else { (0.0, 1.0 / f64::from(EPS)) };
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = ((f64::from(*dy) - f64::from(*x) * along) * scale) as f32;
            }
        }
    });
}
