//! Element-wise sum, difference, product and quotient, with broadcasting over extents of 1.
//!
//! For inputs `a`, `b` of equal rank the result has, on each axis, the larger of the two extents; an extent of 1 is
//! repeated. Gradients are summed back over repeated axes ([`super::sum_to`]).
//!
//! ```
//! use tubelet::{Tape, Tensor, ops};
//! let t = Tape::new();
//! let a = t.leaf(Tensor::from_f32([2, 2], &[1.0, 2.0, 3.0, 4.0])?);
//! let b = t.leaf(Tensor::from_f32([1, 2], &[10.0, 20.0])?); // repeated for both rows
//! assert_eq!(ops::mul(&t, &a, &b)?.value().load()?[..], [10.0, 40.0, 30.0, 80.0]);
//! # Ok::<(), tubelet::Error>(())
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod cases;
pub(super) mod cpu;
pub(super) mod cuda;
mod grad;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub use grad::{add, div, mul, scale, sub};

use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::ops::lanes;
use crate::shape::Shape;
use crate::tensor::{DType, Element, Place, Tensor};
use half::bf16;

/// Which of the four operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arith {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
}

impl Arith {
    /// The operation's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Arith::Add => "add",
            Arith::Sub => "sub",
            Arith::Mul => "mul",
            Arith::Div => "div",
        }
    }
}

/// `a ∘ b` with broadcasting; the result has the data type of `a`.
///
/// # Errors
/// `Shape` when the ranks differ, when on some axis the extents differ and neither is 1, or when the result would
/// exceed the maximum size of a tensor; `OutOfMemory`; `Device` when `a` and `b` are on different devices.
pub fn forward(op: Arith, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let out = broadcast_shape(op.name(), a.shape(), b.shape())?;
    match a.place(op.name(), &[("b", b)])? {
        Place::Cpu if a.shape() == b.shape() && a.dtype() == b.dtype() => {
            let _pass = traffic::pass(op.name(), || Work::moves(2 * a.bytes(), a.bytes(), tasks(out)));
            match a.dtype() {
                DType::F32 => Tensor::build(out, |y| cpu::alike(op, f32::of(a), f32::of(b), y)),
                DType::BF16 => Tensor::build_bf16(out, |y| cpu::alike(op, bf16::of(a), bf16::of(b), y)),
            }
        }
        Place::Cpu => {
            let _pass = traffic::pass(op.name(), || Work::wide(a.shape().len() + b.shape().len(), out.len()));
            let (av, bv) = (a.host()?, b.host()?);
            Tensor::build_as(a.dtype(), out, |y| cpu::apply(op, &av, a.shape(), &bv, b.shape(), out, y))
        }
        Place::Gpu(gpu) => cuda::apply(gpu, op, a, b, out),
    }
}

/// `factor · a`, in the data type of `a`.
///
/// # Errors
/// `OutOfMemory`; on a GPU also `Driver`.
pub fn scale_forward(a: &Tensor, factor: f32) -> Result<Tensor> {
    match a.place("scale", &[])? {
        Place::Cpu => {
            let _pass = traffic::pass("scale", || Work::moves(a.bytes(), a.bytes(), tasks(a.shape())));
            match a.dtype() {
                DType::F32 => Tensor::build(a.shape(), |y| cpu::scale(f32::of(a), factor, y)),
                DType::BF16 => Tensor::build_bf16(a.shape(), |y| cpu::scale(bf16::of(a), factor, y)),
            }
        }
        Place::Gpu(gpu) => cuda::scale(gpu, a, factor),
    }
}

fn tasks(out: Shape) -> usize {
    out.len().div_ceil(lanes::CHUNK)
}

/// The common shape of two shapes under broadcasting.
fn broadcast_shape(op: &'static str, a: Shape, b: Shape) -> Result<Shape> {
    if a.rank() != b.rank() {
        return Err(Error::shape(op, "b", format!("of the rank of a, {a}"), b));
    }
    let mut out = [1; 5];
    for (i, (&x, &y)) in a.dims().iter().zip(b.dims()).enumerate() {
        if x != y && x != 1 && y != 1 {
            return Err(Error::shape(op, "b", format!("equal to {a} or 1 on every axis"), b));
        }
        out[i] = if x == 1 { y } else { x };
    }
    Shape::new(&out[..a.rank()]).check(op, "a and b")
}

/// The offset that element `i` of an array of shape `out` has in one of shape `of`, whose extents of 1 are repeated.
pub(super) fn offset(i: usize, out: Shape, of: Shape) -> usize {
    let (mut rest, mut stride, mut at) = (i, 1, 0);
    for (&o, &d) in out.dims().iter().zip(of.dims()).rev() {
        if d != 1 {
            at += (rest % o) * stride;
        }
        stride *= d;
        rest /= o;
    }
    at
}
