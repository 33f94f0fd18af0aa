//! One pass over the queue, block by block: the logits of a block of keys, their exponentials, and the sum of the keys
//! weighted by them.
//!
//! The queue is divided into parts of complete blocks, and each part is one task. The division depends only on the
//! shapes, and the parts are merged in order, so the result does not depend on the number of threads.

use super::exp::{self, Tops};
use super::kernel::{LANES, Product, Row};
use super::{Mask, Problem, Scores};
use crate::cpu::Isa;
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// Keys per block: as many as leave the block's logits for a panel of queries (12 KiB) and the panel itself in the L1
/// cache.
const KEYS: usize = 96;

/// Minimum and maximum number of tasks, each with a partial result: as many as have gradients that fit in a MiB.
const PARTS: [usize; 2] = [8, 64];

/// Partial results for the keys of one part, for panels of queries.
struct Part {
    tops: Vec<Tops>,
    /// `Σ exp(l - top)·key`: `d` rows for each panel; empty when no gradient is needed.
    weighted: Vec<Row>,
}

/// The scores and, in `dq [n d]`, the gradient of the mean loss.
pub(super) fn sweep(p: &Problem<'_>, q: &[f32], k: &[f32], queue: &Tensor, dq: Option<&mut [f32]>) -> Scores {
    let panels = panels(p, q);
    let share = share(p);
    let gradient = dq.is_some();
    let parts: Vec<Part> = (0..p.m.div_ceil(share))
        .into_par_iter()
        .map(|i| part(p, &panels, queue, i * share..((i + 1) * share).min(p.m), gradient))
        .collect();
    drop(panels);
    join(p, q, k, &parts, dq)
}

/// Keys per task.
fn share(p: &Problem<'_>) -> usize {
    let [least, most] = PARTS;
    let panels = p.n.div_ceil(LANES) * p.d * size_of::<Row>();
    let parts = ((1 << 20) / panels).clamp(least, most);
    p.m.div_ceil(KEYS).div_ceil(parts) * KEYS
}

/// The number of tasks.
pub(super) fn tasks(p: &Problem<'_>) -> usize {
    p.m.div_ceil(share(p))
}

/// The queries divided by `tau`, transposed: `d` rows for each panel. Lanes without a query are 0.
fn panels(p: &Problem<'_>, q: &[f32]) -> Vec<Row> {
    let mut rows = vec![Row::ZERO; p.n.div_ceil(LANES) * p.d];
    let scale = 1.0 / p.tau;
    for (i, q) in q.chunks_exact(p.d).enumerate() {
        for (row, q) in rows[i / LANES * p.d..].iter_mut().zip(q) {
            row.0[i % LANES] = q * scale;
        }
    }
    rows
}

fn part(p: &Problem<'_>, panels: &[Row], queue: &Tensor, rows: Range<usize>, gradient: bool) -> Part {
    let (isa, d) = (Isa::best(), p.d);
    let mut part = Part {
        tops: vec![Tops::NONE; panels.len() / d],
        weighted: vec![Row::ZERO; if gradient { panels.len() } else { 0 }],
    };
    let mut logits = vec![Row::ZERO; KEYS];
    let mut converted = Vec::new();
    for from in rows.clone().step_by(KEYS) {
        let to = (from + KEYS).min(rows.end);
        let keys = block(queue, from * d..to * d, &mut converted);
        let logits = &mut logits[..to - from];
        for (i, (panel, tops)) in panels.chunks_exact(d).zip(&mut part.tops).enumerate() {
            Product { a: keys, row: d, step: 1, b: panel, c: logits, fresh: true }.run(isa);
            hide(p, i * LANES, from, logits);
            let factors = exp::weights(isa, logits, tops);
            if gradient {
                let weighted = &mut part.weighted[i * d..(i + 1) * d];
                if let Some(factors) = factors {
                    weighted.iter_mut().for_each(|row| row.0.iter_mut().zip(&factors.0).for_each(|(v, f)| *v *= f));
                }
                Product { a: keys, row: 1, step: d, b: logits, c: weighted, fresh: false }.run(isa);
            }
        }
    }
    part
}

/// Sets the logits of keys that are masked for a query to minus infinity. The panel's first query is `first`, the key
/// of the first row `from`.
fn hide(p: &Problem<'_>, first: usize, from: usize, logits: &mut [Row]) {
    let Some(mask) = &p.mask else { return };
    let mut owners = [Mask::NOBODY; LANES];
    owners.iter_mut().zip(&mask.rows[first..]).for_each(|(o, &row)| *o = row);
    for (row, &key) in logits.iter_mut().zip(&mask.keys[from..]) {
        for (l, &own) in row.0.iter_mut().zip(&owners) {
            *l = if key == own || key == Mask::NOBODY { f32::NEG_INFINITY } else { *l };
        }
    }
}

/// The rows of the queue as f32; of a bf16 queue only the current block is converted.
fn block<'a>(queue: &'a Tensor, range: Range<usize>, converted: &'a mut Vec<f32>) -> &'a [f32] {
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

/// Merges the parts and the positives, one panel at a time.
fn join(p: &Problem<'_>, q: &[f32], k: &[f32], parts: &[Part], dq: Option<&mut [f32]>) -> Scores {
    let of_panel = LANES * p.d;
    let mut chunks: Vec<Option<&mut [f32]>> = match dq {
        Some(dq) => dq.chunks_mut(of_panel).map(Some).collect(),
        None => q.chunks(of_panel).map(|_| None).collect(),
    };
    let of_panels: Vec<[f64; 3]> = chunks
        .par_iter_mut()
        .zip(q.par_chunks(of_panel).zip(k.par_chunks(of_panel)))
        .enumerate()
        .map(|(i, (dq, (q, k)))| join_panel(p, i, q, k, parts, dq.as_deref_mut()))
        .collect();
    let [loss, positive, nearest] = [0, 1, 2].map(|i| of_panels.iter().map(|s| s[i]).sum::<f64>() / p.n as f64);
    Scores { loss: loss as f32, positive: positive as f32, accuracy: nearest as f32 }
}

/// For the queries of panel `i`: the sums of the loss, of the probability of the positive, and of whether it is the
/// nearest, all in f64. `loss = ln(1 + S₋·exp(top - l₊))` is accurate when it is small.
fn join_panel(p: &Problem<'_>, i: usize, q: &[f32], k: &[f32], parts: &[Part], dq: Option<&mut [f32]>) -> [f64; 3] {
    let d = p.d;
    let scale = 1.0 / (p.n as f64 * f64::from(p.tau));
    let mut sums = [0.0; 3];
    // Factors of the weights of keys in the gradient: for the positive, and for each part.
    let mut away = [0.0; LANES];
    let mut factors = vec![[0.0f64; LANES]; parts.len()];
    for (lane, (q, k)) in q.chunks_exact(d).zip(k.chunks_exact(d)).enumerate() {
        let l = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() / f64::from(p.tau);
        // A part whose keys are all masked for this query has no largest logit and contributes nothing.
        let seen = || {
            let all = parts.iter().map(|part| (f64::from(part.tops[i].top.0[lane]), part.tops[i].sum[lane]));
            all.enumerate().filter(|(_, (top, _))| *top > f64::NEG_INFINITY)
        };
        let top = seen().fold(f64::NEG_INFINITY, |t, (_, (top, _))| t.max(top));
        let negatives: f64 = seen().map(|(_, (of_part, sum))| sum * (of_part - top).exp()).sum();
        // exp(l₊ - M) and Σ exp(l - M), where M is the larger of l₊ and top.
        let (own, others) = if l > top { (1.0, negatives * (top - l).exp()) } else { ((l - top).exp(), negatives) };
        let total = own + others;
        sums[0] += if l > top { others.ln_1p() } else { total.ln() + top - l };
        sums[1] += own / total;
        sums[2] += f64::from(u8::from(l > top));
        away[lane] = -others / total * scale;
        let shift = if l > top { top - l } else { 0.0 };
        seen().for_each(|(j, (of_part, _))| factors[j][lane] = (of_part - top + shift).exp() / total * scale);
    }
    let Some(dq) = dq else { return sums };
    for c in 0..d {
        let mut sum = [0.0f64; LANES];
        k[c..].iter().step_by(d).zip(&away).zip(&mut sum).for_each(|((k, away), s)| *s = f64::from(*k) * away);
        for (part, factors) in parts.iter().zip(&factors) {
            let weighted = &part.weighted[i * d + c].0;
            weighted.iter().zip(factors).zip(&mut sum).for_each(|((w, f), s)| *s += f64::from(*w) * f);
        }
        dq[c..].iter_mut().step_by(d).zip(&sum).for_each(|(o, s)| *o = *s as f32);
    }
    sums
}
