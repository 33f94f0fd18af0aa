//! Sum, difference, product and quotient, element by element, with extents of 1 repeated (broadcast).
//!
//! For inputs `a`, `b` of equal rank the result has, on each axis, the larger of the two extents; an extent of 1 is
//! repeated. Gradients are summed back over repeated axes ([`super::sum_to`]).

pub mod cases;
pub(super) mod cpu;
mod grad;
pub mod reference;

pub use grad::{add, div, mul, scale, sub};

use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Which of the four.
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
    pub fn name(self) -> &'static str {
        match self {
            Arith::Add => "add",
            Arith::Sub => "sub",
            Arith::Mul => "mul",
            Arith::Div => "div",
        }
    }
}

/// `a ∘ b` with broadcasting; the result has the number type of `a`.
///
/// # Errors
/// `Shape` when the ranks differ, or when on some axis the extents differ and neither is 1.
pub fn apply(op: Arith, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let out = broadcast_shape(op.name(), a.shape(), b.shape())?;
    Ok(Tensor::build_as(a.dtype(), out, |y| cpu::apply(op, &a.load(), a.shape(), &b.load(), b.shape(), out, y)))
}

/// `factor · a`, in the number type of `a`.
pub fn apply_scale(a: &Tensor, factor: f32) -> Tensor {
    Tensor::build_as(a.dtype(), a.shape(), |y| cpu::scale(&a.load(), factor, y))
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
    Ok(Shape::new(&out[..a.rank()]))
}
