//! ReLU, `y = max(x, 0)`, and the mask of its gradients.
//!
//! The derivative at 0 is 0, as in PyTorch. NaN is propagated.
//!
//! ```
//! use tubelet::{Tensor, ops::relu};
//! let y = relu::forward(&Tensor::from_f32([3], &[-1.0, 0.0, 2.0])?)?;
//! assert_eq!(y.load()?[..], [0.0, 0.0, 2.0]);
//! assert_eq!(relu::backward(&Tensor::full([3], 5.0), &y)?.load()?[..], [0.0, 0.0, 5.0]);
//! # Ok::<(), tubelet::Error>(())
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub(crate) use grad::mask;
pub use grad::relu;

use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::ops::lanes;
use crate::tensor::{DType, Element, Place, Tensor};
use half::bf16;

/// `max(x, 0)`, in the shape and data type of `x`.
///
/// # Errors
/// `OutOfMemory`; on a GPU also `Driver`.
pub fn forward(x: &Tensor) -> Result<Tensor> {
    match x.place("relu", &[])? {
        Place::Cpu => {
            let tasks = || x.shape().len().div_ceil(lanes::CHUNK);
            let _pass = traffic::pass("relu", || Work::moves(x.bytes(), x.bytes(), tasks()));
            match x.dtype() {
                DType::F32 => Tensor::build(x.shape(), |y| cpu::relu(f32::of(x), y)),
                DType::BF16 => Tensor::build_bf16(x.shape(), |y| cpu::relu(bf16::of(x), y)),
            }
        }
        Place::Gpu(gpu) => cuda::relu(gpu, x),
    }
}

/// `dy` where `y` is positive, 0 elsewhere: the gradient of `y = max(x, 0)`.
///
/// # Errors
/// `Shape` when `dy` and `y` differ in shape; `Device` when they are on different devices.
pub fn backward(dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    if dy.shape() != y.shape() {
        return Err(Error::shape("relu", "dy", y.shape(), dy.shape()));
    }
    match dy.place("relu", &[("y", y)])? {
        Place::Cpu => {
            let tasks = || y.shape().len().div_ceil(lanes::CHUNK);
            let _pass = traffic::pass("relu backward", || Work::moves(2 * dy.bytes(), dy.bytes(), tasks()));
            let y = y.cast(dy.dtype())?;
            match dy.dtype() {
                DType::F32 => Tensor::build(dy.shape(), |dx| cpu::mask(f32::of(dy), f32::of(&y), dx)),
                DType::BF16 => Tensor::build_bf16(dy.shape(), |dx| cpu::mask(bf16::of(dy), bf16::of(&y), dx)),
            }
        }
        Place::Gpu(gpu) => cuda::mask(gpu, dy, y),
    }
}
