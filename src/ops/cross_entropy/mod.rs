//! Softmax, and the mean cross-entropy of logits `[n c]` against class labels.
//!
//! ```text
//! p = softmax(x) = exp(x - max x) / Σ exp(x - max x)      loss = 1/n Σᵢ (ln Σ exp xᵢ - xᵢ[labelᵢ])
//! dx = dy/n · (p - onehot)                                softmax: dx = p·(dp - Σ p·dp)
//! ```
//! Computed in f64 from f32 or bf16 logits; the loss is f32.

pub mod cases;
mod cpu;
mod grad;
pub mod reference;

pub use grad::{cross_entropy, softmax};

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of `x [n c]` as probabilities.
///
/// # Errors
/// `Shape` when `x` is not a matrix.
pub fn probabilities(x: &Tensor) -> Result<Tensor> {
    let [_, c] = x.shape().matrix("softmax", "x")?;
    Ok(Tensor::build_as(x.dtype(), x.shape(), |p| cpu::softmax(&x.host(), c, p)))
}

/// The mean cross-entropy, in nats.
///
/// # Errors
/// `Shape` when `logits` is not a matrix with elements or the number of labels is not that of its rows; `Param` when a
/// label is not a class.
pub fn forward(logits: &Tensor, labels: &[usize]) -> Result<f32> {
    let c = check(logits, labels)?;
    Ok(cpu::loss(&logits.host(), c, labels))
}

/// The gradient of [`forward`] for the logits, times `dy`.
///
/// # Errors
/// As [`forward`].
pub fn backward(logits: &Tensor, labels: &[usize], dy: f32) -> Result<Tensor> {
    let c = check(logits, labels)?;
    Ok(Tensor::build_as(logits.dtype(), logits.shape(), |dx| cpu::backward(&logits.host(), c, labels, dy, dx)))
}

fn check(logits: &Tensor, labels: &[usize]) -> Result<usize> {
    let [n, c] = logits.shape().matrix("cross_entropy", "logits")?;
    if n == 0 || c == 0 {
        return Err(Error::shape("cross_entropy", "logits", "[n c] with elements", logits.shape()));
    }
    if labels.len() != n {
        return Err(Error::shape("cross_entropy", "labels", format!("{n} labels, one a row"), labels.len()));
    }
    if let Some(label) = labels.iter().find(|&&l| l >= c) {
        return Err(Error::param("cross_entropy", "label", label, format!("the logits have {c} classes, from 0")));
    }
    Ok(c)
}
