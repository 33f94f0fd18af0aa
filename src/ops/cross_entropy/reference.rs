//! The definition: plain loops.

use crate::ops::reference::Bounded;
use num_traits::Float;

/// Softmax of each row of `c` elements.
pub fn softmax<F: Float>(x: &[F], c: usize) -> Bounded<F> {
    let value: Vec<F> = x
        .chunks_exact(c)
        .flat_map(|row| {
            let top = row.iter().fold(F::neg_infinity(), |t, &v| t.max(v));
            let sum = row.iter().fold(F::zero(), |s, &v| s + (v - top).exp());
            row.iter().map(move |&v| (v - top).exp() / sum)
        })
        .collect();
    Bounded { magnitude: value.clone(), value, terms: c + 4 }
}

/// The mean cross-entropy, one value. The sum of exponentials has a relative error of `γ`, so its logarithm has an
/// absolute one.
pub fn forward<F: Float>(x: &[F], c: usize, labels: &[usize]) -> Bounded<F> {
    let n = F::from(labels.len()).unwrap_or_else(F::infinity);
    let (mut loss, mut magnitude) = (F::zero(), F::zero());
    for (row, &label) in x.chunks_exact(c).zip(labels) {
        let top = row.iter().fold(F::neg_infinity(), |t, &v| t.max(v));
        let log_sum = row.iter().fold(F::zero(), |s, &v| s + (v - top).exp()).ln();
        loss = loss + (log_sum + (top - row[label])) / n;
        magnitude = magnitude + (F::one() + log_sum.abs() + top.abs() + row[label].abs()) / n;
    }
    Bounded { value: vec![loss], magnitude: vec![magnitude], terms: c + labels.len() + 4 }
}

/// The gradient by the logits, times `dy`.
pub fn backward<F: Float>(x: &[F], c: usize, labels: &[usize], dy: F) -> Bounded<F> {
    let n = F::from(labels.len()).unwrap_or_else(F::infinity);
    let mut p = softmax(x, c);
    for (i, &label) in labels.iter().enumerate() {
        for j in 0..c {
            let (v, m) = (&mut p.value[i * c + j], &mut p.magnitude[i * c + j]);
            if j == label {
                *v = *v - F::one();
                *m = *m + F::one();
            }
            (*v, *m) = (*v * dy / n, *m * dy.abs() / n);
        }
    }
    p
}
