//! Element-wise functions: `exp`, natural logarithm, square root, reciprocal.
//!
//! ```
//! use tubelet::{Tensor, ops::unary::{self, Unary}};
//! assert_eq!(unary::forward(Unary::Sqrt, &Tensor::full([2], 9.0))?.load()?[..], [3.0, 3.0]);
//! # Ok::<(), tubelet::Error>(())
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub use grad::{exp, ln, recip, sqrt};

use crate::cpu::traffic::{self, Work};
use crate::error::Result;
use crate::tensor::{Place, Tensor};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// `eˣ`
    Exp,
    /// `ln x`; NaN for negative `x`, minus infinity for 0
    Ln,
    /// `√x`; NaN for negative `x`
    Sqrt,
    /// `1 / x`
    Recip,
}

impl Unary {
    /// The operation's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Unary::Exp => "exp",
            Unary::Ln => "ln",
            Unary::Sqrt => "sqrt",
            Unary::Recip => "recip",
        }
    }
}

/// `f(x)` for every element, in the shape and data type of `x`. Arguments outside the function's domain give the
/// results of IEEE arithmetic (NaN, infinities), not an error.
///
/// # Errors
/// `OutOfMemory`; on a GPU also `Driver`.
pub fn forward(f: Unary, x: &Tensor) -> Result<Tensor> {
    match x.place(f.name(), &[])? {
        Place::Cpu => {
            let _pass = traffic::pass(f.name(), || Work::wide(x.shape().len(), x.shape().len()));
            let xs = x.host()?;
            Tensor::build_as(x.dtype(), x.shape(), |y| cpu::apply(f, &xs, y))
        }
        Place::Gpu(gpu) => cuda::apply(gpu, f, x),
    }
}
