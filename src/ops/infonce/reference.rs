//! The definition: plain loops over all keys.

use crate::ops::reference::Bounded;
use num_traits::Float;

/// Probabilities and logits of one query's candidates, its positive first.
struct Row<F> {
    logits: Vec<F>,
    probabilities: Vec<F>,
    /// The largest sum of magnitudes `Σ |q·k|/τ` of a logit.
    spread: F,
    log_sum: F,
}

fn dot<F: Float>(a: &[F], b: &[F], f: impl Fn(F) -> F) -> F {
    a.iter().zip(b).fold(F::zero(), |s, (&p, &q)| s + f(p * q))
}

fn row<F: Float>(q: &[F], k: &[F], queue: &[F], tau: F) -> Row<F> {
    let keys = || std::iter::once(k).chain(queue.chunks_exact(q.len()));
    let logits: Vec<F> = keys().map(|k| dot(q, k, |v| v) / tau).collect();
    let spread = keys().map(|k| dot(q, k, |v| v.abs()) / tau).fold(F::zero(), F::max);
    let top = logits.iter().fold(F::neg_infinity(), |t, &l| t.max(l));
    let log_sum = top + logits.iter().fold(F::zero(), |s, &l| s + (l - top).exp()).ln();
    let probabilities = logits.iter().map(|&l| (l - log_sum).exp()).collect();
    Row { logits, probabilities, spread, log_sum }
}

fn count<F: Float>(n: usize) -> F {
    F::from(n).unwrap_or_else(F::infinity)
}

/// The mean loss, one value. Errors of the logits, each a sum of `d` products, enter the loss at most twice; the sum of
/// exponentials has a relative error of `γ`, so its logarithm has an absolute one.
pub fn forward<F: Float>(q: &[F], k: &[F], queue: &[F], d: usize, tau: F) -> Bounded<F> {
    let n = count::<F>(q.len() / d);
    let (mut loss, mut magnitude) = (F::zero(), F::zero());
    for (q, k) in q.chunks_exact(d).zip(k.chunks_exact(d)) {
        let r = row(q, k, queue, tau);
        loss = loss + (r.log_sum - r.logits[0]) / n;
        magnitude = magnitude + (r.spread + r.spread + F::one() + r.log_sum.abs() + r.logits[0].abs()) / n;
    }
    Bounded { value: vec![loss], magnitude: vec![magnitude], terms: d + queue.len() / d + q.len() / d + 16 }
}

/// The gradient `[n d]` of the mean loss by `q`. The relative error of a probability is twice that of the logits, plus
/// that of the sum.
pub fn backward<F: Float>(q: &[F], k: &[F], queue: &[F], d: usize, tau: F) -> Bounded<F> {
    let scale = F::one() / (count::<F>(q.len() / d) * tau);
    let (mut value, mut magnitude) = (Vec::with_capacity(q.len()), Vec::with_capacity(q.len()));
    for (q, k) in q.chunks_exact(d).zip(k.chunks_exact(d)) {
        let r = row(q, k, queue, tau);
        let others = r.probabilities[1..].iter().fold(F::zero(), |s, &p| s + p);
        let growth = F::one() + F::one() + r.spread + r.spread;
        for c in 0..d {
            let terms = || r.probabilities[1..].iter().zip(queue.chunks_exact(d)).map(|(&p, key)| p * key[c]);
            let weighted = terms().fold(F::zero(), |s, v| s + v);
            let size = terms().fold(F::zero(), |s, v| s + v.abs());
            value.push(scale * (weighted - others * k[c]));
            magnitude.push(scale * growth * (size + others * k[c].abs()));
        }
    }
    Bounded { value, magnitude, terms: d + queue.len() / d + 16 }
}
