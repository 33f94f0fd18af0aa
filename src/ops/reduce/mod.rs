//! Sums over axes, and their adjoint, broadcasting.
//!
//! `sum_to(a, s)` sums `a` over every axis on which `s` has extent 1; `broadcast_to(a, s)` repeats `a` along every axis
//! on which it has extent 1 and `s` has more. Each is the gradient of the other.
//!
//! ```
//! use tubelet::{Tape, Tensor, ops};
//! let t = Tape::new();
//! let x = t.leaf(Tensor::from_f32([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?);
//! assert_eq!(ops::sum_to(&t, &x, [1, 3].into())?.value().load()?[..], [5.0, 7.0, 9.0]);
//! assert_eq!(ops::mean(&t, &x)?.value().item()?, 3.5);
//! # Ok::<(), tubelet::Error>(())
//! ```
//!
//! [`raw`] sums device memory that you allocate: a bias's gradient.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
pub mod raw;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub use grad::{broadcast_to, mean, sum, sum_to};

use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::ops::lanes;
use crate::shape::Shape;
use crate::tensor::{DType, Element, Place, Tensor};
use half::bf16;

/// `a` summed to `shape`, which on every axis must equal the shape of `a` or be 1. Sums are in a fixed order.
///
/// # Errors
/// `Shape` when the ranks differ, or an extent is neither equal nor 1.
pub fn sum_to_forward(a: &Tensor, shape: Shape) -> Result<Tensor> {
    check("sum_to", a.shape(), shape)?;
    if a.shape() == shape {
        return Ok(a.clone());
    }
    match a.place("sum_to", &[])? {
        Place::Cpu => {
            let _pass = traffic::pass("sum_to", || Work::wide(a.shape().len(), shape.len()));
            let all = a.host()?;
            Tensor::build_as(a.dtype(), shape, |y| cpu::sum_to(&all, a.shape(), shape, y))
        }
        Place::Gpu(gpu) => cuda::sum_to(gpu, a, shape),
    }
}

/// The rows of `x [rows ..]`, at least one, added one after another in f32: `((x0 + x1) + x2) + ..`, `[..]` of `dtype`. The
/// bits are those of as many additions of tensors, on every device.
///
/// # Errors
/// `Shape` when there is no row; on a GPU `OutOfMemory` and `Driver`.
pub fn in_order(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let (rows, shape) = match x.dims() {
        [rows, row @ ..] if *rows > 0 => (*rows, Shape::new(row)),
        _ => return Err(Error::shape("in_order", "x", "rows, at least one", x.shape())),
    };
    match x.place("in_order", &[])? {
        Place::Cpu => {
            let tasks = || shape.len().div_ceil(lanes::CHUNK);
            let _pass = traffic::pass("in_order", || Work::moves(x.bytes(), dtype.size() * shape.len(), tasks()));
            match (x.dtype(), dtype) {
                (DType::F32, DType::F32) => Tensor::build(shape, |y| cpu::in_order(f32::of(x), rows, y)),
                (DType::F32, DType::BF16) => Tensor::build_bf16(shape, |y| cpu::in_order(f32::of(x), rows, y)),
                (DType::BF16, DType::F32) => Tensor::build(shape, |y| cpu::in_order(bf16::of(x), rows, y)),
                (DType::BF16, DType::BF16) => Tensor::build_bf16(shape, |y| cpu::in_order(bf16::of(x), rows, y)),
            }
        }
        Place::Gpu(gpu) => cuda::in_order(gpu, x, dtype, shape),
    }
}

/// `a` broadcast to `shape`; on every axis `a` must have the same extent or extent 1.
///
/// # Errors
/// `Shape` when the ranks differ, an extent is neither equal nor 1, or the result would exceed the maximum size of a
/// tensor.
pub fn broadcast_to_forward(a: &Tensor, shape: Shape) -> Result<Tensor> {
    check("broadcast_to", shape.check("broadcast_to", "shape")?, a.shape())?;
    if a.shape() == shape {
        return Ok(a.clone());
    }
    match a.place("broadcast_to", &[])? {
        Place::Cpu => {
            let _pass = traffic::pass("broadcast_to", || Work::wide(a.shape().len(), shape.len()));
            let all = a.host()?;
            Tensor::build_as(a.dtype(), shape, |y| cpu::broadcast_to(&all, a.shape(), shape, y))
        }
        Place::Gpu(gpu) => cuda::broadcast_to(gpu, a, shape),
    }
}

fn check(op: &'static str, large: Shape, small: Shape) -> Result<()> {
    let fits = large.rank() == small.rank() && large.dims().iter().zip(small.dims()).all(|(l, s)| l == s || *s == 1);
    if fits { Ok(()) } else { Err(Error::shape(op, "shape", format!("{large} with some extents 1"), small)) }
}
