//! Row by row; the mean is taken over the rows in order.

use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 1 << 14;

/// The largest element of a row, and `Σ exp(x - largest)`.
fn log_sum(row: &[f32]) -> (f64, f64) {
    let top = row.iter().fold(f32::NEG_INFINITY, |t, &v| t.max(v));
    (f64::from(top), row.iter().map(|&v| f64::from(v - top).exp()).sum())
}

fn by_rows(y: &mut [f32], c: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if c == 0 {
        return;
    }
    let rows = (CHUNK / c).max(1);
    y.par_chunks_mut(rows * c).enumerate().for_each(|(chunk, y)| {
        y.chunks_exact_mut(c).enumerate().for_each(|(i, y)| f(chunk * rows + i, y));
    });
}

pub(super) fn softmax(x: &[f32], c: usize, p: &mut [f32]) {
    by_rows(p, c, |i, p| {
        let row = &x[i * c..(i + 1) * c];
        let (top, sum) = log_sum(row);
        p.iter_mut().zip(row).for_each(|(p, &x)| *p = ((f64::from(x) - top).exp() / sum) as f32);
    });
}

pub(super) fn loss(x: &[f32], c: usize, labels: &[u32]) -> f32 {
    let total: f64 = x
        .chunks_exact(c)
        .zip(labels)
        .map(|(row, &label)| {
            let (top, sum) = log_sum(row);
            sum.ln() + (top - f64::from(row[label as usize]))
        })
        .sum();
    (total / labels.len() as f64) as f32
}

pub(super) fn backward(x: &[f32], c: usize, labels: &[u32], dy: f32, dx: &mut [f32]) {
    let scale = f64::from(dy) / labels.len() as f64;
    by_rows(dx, c, |i, dx| {
        let row = &x[i * c..(i + 1) * c];
        let (top, sum) = log_sum(row);
        for (j, (dx, &x)) in dx.iter_mut().zip(row).enumerate() {
            let hit = if j == labels[i] as usize { 1.0 } else { 0.0 };
            *dx = (scale * ((f64::from(x) - top).exp() / sum - hit)) as f32;
        }
    });
}
