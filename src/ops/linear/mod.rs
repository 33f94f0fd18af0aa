//! The linear layer `y[n o] = x[n i] · w[o i]ᵀ + b[o]` (PyTorch's `Linear`, whose weights are `o i`).
//!
//! ```
//! use tubelet::{Tensor, ops::linear};
//! let x = Tensor::from_f32([1, 3], &[1.0, 2.0, 3.0])?;
//! let w = Tensor::from_f32([2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0])?;
//! let b = Tensor::from_f32([2], &[0.5, -0.5])?;
//! assert_eq!(linear::forward(&x, &w, Some(&b))?.load()?[..], [1.5, 4.5]);
//! # Ok::<(), tubelet::Error>(())
//! ```

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
