//! The functions on the tape. Their derivatives are recorded operations of the argument, so they can be differentiated
//! to any order.

use super::{Unary, forward};
use crate::error::Result;
use crate::ops::{mul, scale};
use crate::tape::{Op, Tape, Var};

struct Function {
    f: Unary,
    x: Var,
}

impl Op for Function {
    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let x = &self.x;
        let slope = match self.f {
            Unary::Exp => exp(t, x)?,
            Unary::Ln => recip(t, x)?,
            Unary::Sqrt => scale(t, &recip(t, &sqrt(t, x)?)?, 0.5)?,
            Unary::Recip => scale(t, &recip(t, &mul(t, x, x)?)?, -1.0)?,
        };
        Ok(vec![Some(mul(t, dy, &slope)?)])
    }
}

fn unary(t: &Tape, f: Unary, x: &Var) -> Result<Var> {
    Ok(t.record(forward(f, x.value())?, &[x], || Function { f, x: x.clone() }))
}

/// `eˣ`, element by element.
///
/// # Errors
/// As [`super::forward`].
pub fn exp(t: &Tape, x: &Var) -> Result<Var> {
    unary(t, Unary::Exp, x)
}

/// The natural logarithm, element by element; NaN below 0.
///
/// # Errors
/// As [`super::forward`].
pub fn ln(t: &Tape, x: &Var) -> Result<Var> {
    unary(t, Unary::Ln, x)
}

/// The square root, element by element; NaN below 0.
///
/// # Errors
/// As [`super::forward`].
pub fn sqrt(t: &Tape, x: &Var) -> Result<Var> {
    unary(t, Unary::Sqrt, x)
}

/// `1 / x`, element by element.
///
/// # Errors
/// As [`super::forward`].
pub fn recip(t: &Tape, x: &Var) -> Result<Var> {
    unary(t, Unary::Recip, x)
}
