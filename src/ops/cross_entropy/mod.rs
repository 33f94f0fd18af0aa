//! Softmax, and the mean cross-entropy of logits `[n c]` against class labels.
//!
//! ```text
//! p = softmax(x) = exp(x - max x) / Σ exp(x - max x)      loss = 1/n Σᵢ (ln Σ exp xᵢ - xᵢ[labelᵢ])
//! dx = dy/n · (p - onehot)                                softmax: dx = p·(dp - Σ p·dp)
//! ```
//! Computed in f64 from f32 or bf16 logits (on a GPU in f32; differences from the largest logit are exact); the loss is
//! f32.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub(crate) use grad::cross_entropy_of;
pub use grad::{cross_entropy, softmax};

use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::tensor::{Integers, Place, Tensor};

/// Softmax of each row of `x [n c]`.
///
/// # Errors
/// `Shape` when `x` is not a matrix.
pub fn softmax_forward(x: &Tensor) -> Result<Tensor> {
    let [_, c] = x.shape().matrix("softmax", "x")?;
    match x.place("softmax", &[])? {
        Place::Cpu => {
            let _pass = traffic::pass("softmax", || Work::wide(x.shape().len(), x.shape().len()));
            let xs = x.host()?;
            Tensor::build_as(x.dtype(), x.shape(), |p| cpu::softmax(&xs, c, p))
        }
        Place::Gpu(gpu) => cuda::softmax(gpu, x),
    }
}

/// The mean cross-entropy, in nats; on a GPU this synchronises with the host.
///
/// # Errors
/// `Shape` when `logits` is not a non-empty matrix or the number of labels is not that of its rows; `Param` when a
/// label is not a class; on a GPU `OutOfMemory` and `Driver`.
pub fn forward(logits: &Tensor, labels: &[usize]) -> Result<f32> {
    loss_of(logits, &numbers(logits, labels)?)?.item()
}

/// The mean cross-entropy as a scalar on the device of the logits, where the labels may already be.
///
/// # Errors
/// As [`forward`].
fn loss_of(logits: &Tensor, labels: &Integers) -> Result<Tensor> {
    let c = check(logits, labels)?;
    match logits.place("cross_entropy", &[])? {
        Place::Cpu => {
            let _pass = traffic::pass("cross_entropy", || Work::wide(logits.shape().len(), 0));
            Ok(Tensor::scalar(cpu::loss(&logits.host()?, c, labels.values())))
        }
        Place::Gpu(gpu) => cuda::loss(gpu, logits, labels),
    }
}

/// The gradient of [`forward`] by the logits, times `dy`.
///
/// # Errors
/// As [`forward`].
pub fn backward(logits: &Tensor, labels: &[usize], dy: f32) -> Result<Tensor> {
    backward_by(logits, &numbers(logits, labels)?, &Tensor::full_on(&logits.device(), [], dy)?)
}

/// The gradient of [`forward`] by the logits, given `dy`, the gradient by the loss: a scalar on the device of the logits.
///
/// # Errors
/// As [`forward`]; `Shape` when `dy` is not a scalar.
fn backward_by(logits: &Tensor, labels: &Integers, dy: &Tensor) -> Result<Tensor> {
    let c = check(logits, labels)?;
    if dy.shape().len() != 1 {
        return Err(Error::shape("cross_entropy", "dy", "one number", dy.shape()));
    }
    match logits.place("cross_entropy", &[("dy", dy)])? {
        Place::Cpu => {
            let numbers = logits.shape().len();
            let _pass = traffic::pass("cross_entropy backward", || Work::wide(numbers, numbers));
            let dy = dy.item()?;
            let all = logits.host()?;
            let fill = |dx: &mut [f32]| cpu::backward(&all, c, labels.values(), dy, dx);
            Tensor::build_as(logits.dtype(), logits.shape(), fill)
        }
        Place::Gpu(gpu) => cuda::backward(gpu, logits, labels, dy),
    }
}

/// The labels as 32-bit integers. Labels out of range are kept, to be refused later, unless they exceed 32 bits.
fn numbers(logits: &Tensor, labels: &[usize]) -> Result<Integers> {
    let [_, c] = logits.shape().matrix("cross_entropy", "logits")?;
    if let Some(label) = labels.iter().find(|&&l| l >= c && l > u32::MAX as usize) {
        return Err(outside(label, c));
    }
    Ok(labels.iter().map(|&l| l as u32).collect())
}

fn outside(label: impl std::fmt::Display, c: usize) -> Error {
    Error::param("cross_entropy", "label", label, format!("the logits have {c} classes, from 0"))
}

fn check(logits: &Tensor, labels: &Integers) -> Result<usize> {
    let [n, c] = logits.shape().matrix("cross_entropy", "logits")?;
    if n == 0 || c == 0 {
        return Err(Error::shape("cross_entropy", "logits", "[n c] with elements", logits.shape()));
    }
    if labels.len() != n {
        return Err(Error::shape("cross_entropy", "labels", format!("{n} labels, one a row"), labels.len()));
    }
    if let Some(label) = labels.values().iter().find(|&&l| l as usize >= c) {
        return Err(outside(label, c));
    }
    Ok(c)
}
