//! The linear layer `y[n o] = x[n i] · w[o i]ᵀ + b[o]` (PyTorch's `Linear`, whose weights are `o i`).

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod grad;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub use grad::linear;

use super::matmul;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// `x · wᵀ + b`, in the data type of `x`.
///
/// # Errors
/// `Shape` when `x` or `w` is not a matrix, their inner extents differ, or `b` is not of shape `[o]`.
pub fn forward(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let [_, i] = x.shape().matrix("linear", "x")?;
    let [o, wi] = w.shape().matrix("linear", "w")?;
    if wi != i {
        return Err(Error::shape("linear", "w", format!("o i with i = {i}"), w.shape()));
    }
    match b {
        None => matmul::forward(x, w, false, true),
        Some(b) if b.dims() == [o] => matmul::apply_biased(x, w, b),
        Some(b) => Err(Error::shape("linear", "b", format!("[{o}], one per output"), b.shape())),
    }
}
