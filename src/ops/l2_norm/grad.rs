//! Row normalisation on the tape.

use super::{backward, forward, split};
use crate::error::Result;
use crate::ops::{add, div, mul, sub, sum_to};
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};

struct L2Norm {
    x: Var,
}

impl Op for L2Norm {
    fn name(&self) -> &'static str {
        "l2_norm"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let x = &self.x;
        if !t.is_recording() {
            return Ok(vec![Some(Var::constant(backward(x.value(), dy.value())?))]);
        }
        // The same in recorded operations. ‖x‖ = x·y, so no square root is needed; `unit` is 1 for the rows that are
        // divided by their length and 0 for those divided by ε, whose gradient is dy/ε.
        let [n, _] = x.shape().matrix("l2_norm", "x")?;
        let column = Shape::new(&[n, 1]);
        let y = l2_norm(t, x)?;
        let (unit, floor) = split(x.value())?;
        let (unit, floor) = (Var::constant(unit), Var::constant(floor));
        let norm = add(t, &mul(t, &sum_to(t, &mul(t, x, &y)?, column)?, &unit)?, &floor)?;
        let along = mul(t, &sum_to(t, &mul(t, &y, dy)?, column)?, &unit)?;
        Ok(vec![Some(div(t, &sub(t, dy, &mul(t, &y, &along)?)?, &norm)?)])
    }
}

/// The rows of `x [n d]` scaled to unit length.
///
/// # Errors
/// `Shape` when `x` is not a matrix.
pub fn l2_norm(t: &Tape, x: &Var) -> Result<Var> {
    let y = forward(x.value())?;
    Ok(t.record(y, &[x], || L2Norm { x: x.clone() }))
}
