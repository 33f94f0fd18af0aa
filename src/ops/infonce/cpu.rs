//! One sweep over the queue: logits of a block of keys, their exponentials, and the keys they weigh.
//!
//! The queue is cut into at most [`PARTS`] parts of whole blocks, and each part is one task. The cut depends only on the
//! length of the queue and the parts are joined in order, so the bits do not depend on the thread count.

use super::{Problem, Scores, exp};
use crate::tensor::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

/// Keys of a block: 256·128 f32 are 128 KiB and stay in the second-level cache while all queries meet them.
const KEYS: usize = 256;
/// Queries of a tile: its logits (256 KiB) stay there too.
const QUERIES: usize = 256;
/// At most so many tasks, and partial results.
const PARTS: usize = 16;

/// For each query, what the keys of one part leave behind.
struct Part {
    /// The largest logit.
    top: Vec<f32>,
    /// `Σ exp(l - top)`.
    sum: Vec<f64>,
    /// `Σ exp(l - top)·key`, `[n d]`; empty when no gradient is wanted.
    weighted: Vec<f32>,
}

/// The scores and, in `dq [n d]`, the gradient of the mean loss.
pub(super) fn sweep(p: &Problem<'_>, q: &[f32], k: &[f32], queue: &Tensor, dq: Option<&mut [f32]>) -> Scores {
    let blocks = p.m.div_ceil(KEYS);
    let share = blocks.div_ceil(PARTS) * KEYS;
    let wants_gradient = dq.is_some();
    let parts: Vec<Part> = (0..p.m.div_ceil(share))
        .into_par_iter()
        .map(|i| part(p, q, queue, i * share..((i + 1) * share).min(p.m), wants_gradient))
        .collect();
    join(p, q, k, &parts, dq)
}

fn part(p: &Problem<'_>, q: &[f32], queue: &Tensor, rows: std::ops::Range<usize>, gradient: bool) -> Part {
    let (n, d) = (p.n, p.d);
    let mut part = Part {
        top: vec![f32::NEG_INFINITY; n],
        sum: vec![0.0; n],
        weighted: if gradient { vec![0.0; n * d] } else { Vec::new() },
    };
    let mut logits = vec![0.0; QUERIES.min(n) * KEYS];
    let mut converted = Vec::new();
    for from in rows.clone().step_by(KEYS) {
        let to = (from + KEYS).min(rows.end);
        let keys = block(queue, from * d..to * d, &mut converted);
        let count = to - from;
        for first in (0..n).step_by(QUERIES) {
            let last = (first + QUERIES).min(n);
            let logits = &mut logits[..(last - first) * KEYS];
            if count < KEYS {
                logits.fill(f32::NEG_INFINITY);
            }
            similarities(&q[first * d..last * d], keys, d, 1.0 / p.tau, logits);
            for (row, logits) in (first..last).zip(logits.chunks_exact_mut(KEYS)) {
                if let Some(mask) = &p.mask {
                    mask.hide(row, from, &mut logits[..count]);
                }
                let top = exp::max(logits).max(part.top[row]);
                if top == f32::NEG_INFINITY {
                    // Every key so far is masked, and there is nothing to weigh; or they are NaN, which must show.
                    if logits.iter().any(|l| l.is_nan()) {
                        (part.top[row], part.sum[row]) = (0.0, f64::NAN);
                    }
                    logits.fill(0.0);
                    continue;
                }
                if top > part.top[row] {
                    let shrink = (part.top[row] - top).exp();
                    part.sum[row] *= f64::from(shrink);
                    if gradient {
                        part.weighted[row * d..(row + 1) * d].iter_mut().for_each(|v| *v *= shrink);
                    }
                    part.top[row] = top;
                }
                part.sum[row] += f64::from(exp::exp(logits, top));
            }
            if gradient {
                weigh(logits, keys, d, &mut part.weighted[first * d..last * d]);
            }
        }
    }
    part
}

/// The rows of the queue as f32; of a bf16 queue only this block is ever converted.
fn block<'a>(queue: &'a Tensor, range: std::ops::Range<usize>, converted: &'a mut Vec<f32>) -> &'a [f32] {
    match (queue.f32(), queue.bf16()) {
        (Ok(all), _) => &all[range],
        (_, Ok(all)) => {
            converted.clear();
            converted.extend(all[range].iter().map(|v| v.to_f32()));
            converted
        }
        _ => unreachable!("a tensor is f32 or bf16"),
    }
}

/// `logits[i][j] = scale · q_i · key_j`, rows of `logits` being `KEYS` long.
fn similarities(q: &[f32], keys: &[f32], d: usize, scale: f32, logits: &mut [f32]) {
    let (rows, count) = (q.len() / d, keys.len() / d);
    debug_assert!(logits.len() == rows * KEYS && count <= KEYS);
    let d_stride = d as isize;
    // SAFETY: the extents and strides address q [rows d], keys [count d] and logits [rows KEYS] inside their slices, and
    // logits overlaps neither.
    unsafe {
        gemm::gemm(
            rows,
            count,
            d,
            logits.as_mut_ptr(),
            1,
            KEYS as isize,
            false,
            q.as_ptr(),
            1,
            d_stride,
            keys.as_ptr(),
            d_stride,
            1,
            0.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// `out_i += Σ_j weights[i][j] · key_j`, rows of `weights` being `KEYS` long.
fn weigh(weights: &[f32], keys: &[f32], d: usize, out: &mut [f32]) {
    let (rows, count) = (out.len() / d, keys.len() / d);
    debug_assert!(weights.len() == rows * KEYS && count <= KEYS);
    let d_stride = d as isize;
    // SAFETY: the extents and strides address weights [rows KEYS], keys [count d] and out [rows d] inside their slices,
    // and out overlaps neither.
    unsafe {
        gemm::gemm(
            rows,
            d,
            count,
            out.as_mut_ptr(),
            1,
            d_stride,
            true,
            weights.as_ptr(),
            1,
            KEYS as isize,
            keys.as_ptr(),
            1,
            d_stride,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Joins the parts and the positives, in f64: `loss = ln(1 + S₋·exp(top - l₊))` keeps its digits when it is small.
fn join(p: &Problem<'_>, q: &[f32], k: &[f32], parts: &[Part], mut dq: Option<&mut [f32]>) -> Scores {
    let (n, d) = (p.n, p.d);
    let scale = 1.0 / (n as f64 * f64::from(p.tau));
    let (mut loss, mut positive, mut nearest) = (0.0, 0.0, 0usize);
    for i in 0..n {
        let (q, k) = (&q[i * d..(i + 1) * d], &k[i * d..(i + 1) * d]);
        let l = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() / f64::from(p.tau);
        let top = parts.iter().fold(f64::NEG_INFINITY, |t, part| t.max(f64::from(part.top[i])));
        // A part whose keys are all masked for this query has no largest logit and weighs nothing.
        let seen = |part: &&Part| part.top[i] > f32::NEG_INFINITY;
        let negatives: f64 =
            parts.iter().filter(seen).map(|part| part.sum[i] * (f64::from(part.top[i]) - top).exp()).sum();
        // exp(l₊ - M) and Σ exp(l - M) with M the larger of l₊ and top.
        let (own, others) = if l > top { (1.0, negatives * (top - l).exp()) } else { ((l - top).exp(), negatives) };
        let total = own + others;
        loss += if l > top { others.ln_1p() } else { total.ln() + top - l };
        positive += own / total;
        nearest += usize::from(l > top);
        if let Some(dq) = &mut dq {
            let dq = &mut dq[i * d..(i + 1) * d];
            let away = -others / total * scale;
            let mut sum: Vec<f64> = k.iter().map(|k| f64::from(*k) * away).collect();
            let shift = if l > top { top - l } else { 0.0 };
            for part in parts.iter().filter(seen) {
                let factor = (f64::from(part.top[i]) - top + shift).exp() / total * scale;
                for (s, w) in sum.iter_mut().zip(&part.weighted[i * d..(i + 1) * d]) {
                    *s += f64::from(*w) * factor;
                }
            }
            dq.iter_mut().zip(&sum).for_each(|(o, s)| *o = *s as f32);
        }
    }
    let n = n as f64;
    Scores { loss: (loss / n) as f32, positive: (positive / n) as f32, accuracy: (nearest as f64 / n) as f32 }
}
