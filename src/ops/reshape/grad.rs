//! Reshaping on the tape: its gradient is reshaped back.

use crate::error::Result;
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};

struct Reshape {
    from: Shape,
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(reshape(t, dy, self.from)?)])
    }
}

/// `a` in another shape with the same number of elements; the memory is shared.
///
/// # Errors
/// `Shape` when the number of elements differs.
pub fn reshape(t: &Tape, a: &Var, shape: Shape) -> Result<Var> {
    let y = a.value().reshape(shape)?;
    Ok(t.record(y, &[a], || Reshape { from: a.shape() }))
}
