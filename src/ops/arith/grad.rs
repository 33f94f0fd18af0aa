//! The four operations on the tape.

use super::{Arith, forward, scale_forward};
use crate::error::Result;
use crate::ops::{cast, sum_to};
use crate::tape::{Op, Tape, Var};
use crate::tensor::DType;

struct Binary {
    op: Arith,
    a: Var,
    b: Var,
}

impl Op for Binary {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        let (a, b) = (&self.a, &self.b);
        let da = || match self.op {
            Arith::Add | Arith::Sub => Ok(dy.clone()),
            Arith::Mul => mul(t, dy, b),
            Arith::Div => div(t, dy, b),
        };
        let db = || match self.op {
            Arith::Add => Ok(dy.clone()),
            Arith::Sub => scale(t, dy, -1.0),
            Arith::Mul => mul(t, dy, a),
            // d(a/b)/db = -(a/b)/b
            Arith::Div => scale(t, &mul(t, dy, &div(t, &div(t, a, b)?, b)?)?, -1.0),
        };
        Ok(vec![
            needs[0].then(|| back_to(t, &da()?, a)).transpose()?,
            needs[1].then(|| back_to(t, &db()?, b)).transpose()?,
        ])
    }
}

/// The gradient `d` summed to the shape of `input` and cast to its data type; sums for f32 inputs are in f32.
fn back_to(t: &Tape, d: &Var, input: &Var) -> Result<Var> {
    let dtype = input.value().dtype();
    let d = if dtype == DType::F32 { cast(t, d, dtype)? } else { d.clone() };
    cast(t, &sum_to(t, &d, input.shape())?, dtype)
}

fn binary(t: &Tape, op: Arith, a: &Var, b: &Var) -> Result<Var> {
    let y = forward(op, a.value(), b.value())?;
    Ok(t.record(y, &[a, b], || Binary { op, a: a.clone(), b: b.clone() }))
}

impl Tape {
    /// A tape that records.
    #[allow(clippy::new_without_default, reason = "a tape is either recording or not; neither is a default")]
    pub fn new() -> Self {
        Tape::adding(add, true)
    }

    /// A tape that does not record: every result is a constant, and activations are freed as soon as they have been
    /// used.
    pub fn no_grad() -> Self {
        Tape::adding(add, false)
    }
}

/// `a + b`, broadcasting.
///
/// # Errors
/// `Shape` when the shapes do not broadcast; see [`super::forward`].
pub fn add(t: &Tape, a: &Var, b: &Var) -> Result<Var> {
    binary(t, Arith::Add, a, b)
}

/// `a - b`, broadcasting.
///
/// # Errors
/// As [`add`].
pub fn sub(t: &Tape, a: &Var, b: &Var) -> Result<Var> {
    binary(t, Arith::Sub, a, b)
}

/// `a · b` element by element, broadcasting.
///
/// # Errors
/// As [`add`].
pub fn mul(t: &Tape, a: &Var, b: &Var) -> Result<Var> {
    binary(t, Arith::Mul, a, b)
}

/// `a / b` element by element, broadcasting.
///
/// # Errors
/// As [`add`].
pub fn div(t: &Tape, a: &Var, b: &Var) -> Result<Var> {
    binary(t, Arith::Div, a, b)
}

struct Scale(f32);

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(scale(t, dy, self.0)?)])
    }
}

/// `factor · a`.
///
/// # Errors
/// As [`super::scale_forward`].
pub fn scale(t: &Tape, a: &Var, factor: f32) -> Result<Var> {
    Ok(t.record(scale_forward(a.value(), factor)?, &[a], || Scale(factor)))
}
