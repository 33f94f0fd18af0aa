//! Rows scaled to unit length: `y = x / max(‖x‖, ε)` for each row of `x [n d]`, with `ε = 1e-12`, as PyTorch's
//! `F.normalize`.
//!
//! Gradient: `dx = (dy - y·(y·dy)) / ‖x‖`, and `dx = dy / ε` for rows of length at most `ε`, on which the map is linear.
//!
//! ```
//! use tubelet::{Tensor, ops::l2_norm};
//! let codes = l2_norm::forward(&Tensor::from_f32([1, 2], &[3.0, 4.0])?)?;
//! assert_eq!(codes.load()?[..], [0.6, 0.8]);
//! # Ok::<(), tubelet::Error>(())
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub use grad::l2_norm;

use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::tensor::{Place, Tensor};

/// Rows shorter than this are divided by it instead of by their length.
pub const EPS: f32 = 1e-12;

/// The rows of `x [n d]` scaled to unit length, in the data type of `x`. Sums of squares are computed in f64.
///
/// # Errors
/// `Shape` when `x` is not a matrix.
pub fn forward(x: &Tensor) -> Result<Tensor> {
    let [_, d] = x.shape().matrix("l2_norm", "x")?;
    match x.place("l2_norm", &[])? {
        Place::Cpu => {
            let _pass = traffic::pass("l2_norm", || Work::wide(x.shape().len(), x.shape().len()));
            let xs = x.host()?;
            Tensor::build_as(x.dtype(), x.shape(), |y| cpu::forward(&xs, d, y))
        }
        Place::Gpu(gpu) => cuda::forward(gpu, x),
    }
}

/// The gradient by `x [n d]` given that by the result, `dy [n d]`.
///
/// # Errors
/// `Shape` when `x` is not a matrix or `dy` has another shape; `Device` when they are on different devices.
pub fn backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let [_, d] = x.shape().matrix("l2_norm", "x")?;
    if dy.shape() != x.shape() {
        return Err(Error::shape("l2_norm", "dy", x.shape(), dy.shape()));
    }
    match x.place("l2_norm", &[("dy", dy)])? {
        Place::Cpu => {
            let _pass = traffic::pass("l2_norm backward", || Work::wide(2 * x.shape().len(), x.shape().len()));
            let (xs, dys) = (x.host()?, dy.host()?);
            Tensor::build_as(x.dtype(), x.shape(), |dx| cpu::backward(&xs, &dys, d, dx))
        }
        Place::Gpu(gpu) => cuda::backward(gpu, x, dy),
    }
}

/// Two columns from which recorded operations compute each row's divisor, `[n 1]` f32 each: `(1, 0)` for rows longer
/// than ε, which are divided by their length, and `(0, ε)` for the others.
fn split(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let [n, d] = x.shape().matrix("l2_norm", "x")?;
    match x.place("l2_norm", &[])? {
        Place::Cpu => {
            let _pass = traffic::pass("l2_norm lengths", || Work::wide(x.shape().len(), 2 * n));
            let (mut unit, mut floor) = (vec![0.0; n], vec![EPS; n]);
            for (i, row) in x.host()?.chunks_exact(d.max(1)).enumerate() {
                if cpu::longer_than_eps(row) {
                    (unit[i], floor[i]) = (1.0, 0.0);
                }
            }
            Ok((Tensor::from_f32([n, 1], &unit)?, Tensor::from_f32([n, 1], &floor)?))
        }
        Place::Gpu(gpu) => cuda::split(gpu, x),
    }
}
