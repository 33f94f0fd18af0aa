//! Rows scaled to unit length: `y = x / max(‖x‖, ε)` for each row of `x [n d]`, with `ε = 1e-12`, as PyTorch's
//! `F.normalize`.
//!
//! Gradient: `dx = (dy - y·(y·dy)) / ‖x‖`, and `dx = dy / ε` for rows of length at most `ε`, on which the map is linear.

pub mod cases;
mod cpu;
mod grad;
pub mod reference;

pub use grad::l2_norm;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Rows no longer than this are divided by it instead of by their length.
pub const EPS: f32 = 1e-12;

/// The rows of `x [n d]` at unit length, in the number type of `x`. Sums of squares are formed in f64.
///
/// # Errors
/// `Shape` when `x` is not a matrix.
pub fn forward(x: &Tensor) -> Result<Tensor> {
    let [_, d] = x.shape().matrix("l2_norm", "x")?;
    Ok(Tensor::build_as(x.dtype(), x.shape(), |y| cpu::forward(&x.host(), d, y)))
}

/// The gradient for `x [n d]` given that of the result, `dy [n d]`.
///
/// # Errors
/// `Shape` when `x` is not a matrix or `dy` is not of its shape.
pub fn backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let [_, d] = x.shape().matrix("l2_norm", "x")?;
    if dy.shape() != x.shape() {
        return Err(Error::shape("l2_norm", "dy", x.shape(), dy.shape()));
    }
    Ok(Tensor::build_as(x.dtype(), x.shape(), |dx| cpu::backward(&x.host(), &dy.host(), d, dx)))
}
