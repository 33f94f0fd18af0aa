//! ReLU on the tape. Its gradient is a mask, which is linear in the gradient it is applied to, so the mask is its own
//! gradient.

use super::{backward, forward};
use crate::error::Result;
use crate::tape::{Op, Tape, Var};
use crate::tensor::Tensor;

struct Relu {
    y: Tensor,
}

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(mask(t, dy, &self.y)?)])
    }
}

/// `max(x, 0)`, element by element.
///
/// # Errors
/// As [`super::forward`].
pub fn relu(t: &Tape, x: &Var) -> Result<Var> {
    let y = forward(x.value())?;
    Ok(t.record(y.clone(), &[x], || Relu { y }))
}

struct Mask {
    y: Tensor,
}

impl Op for Mask {
    fn name(&self) -> &'static str {
        "relu_mask"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(mask(t, dy, &self.y)?)])
    }
}

/// `dy` where `y` is positive, 0 elsewhere.
pub(crate) fn mask(t: &Tape, dy: &Var, y: &Tensor) -> Result<Var> {
    Ok(t.record(backward(dy.value(), y)?, &[dy], || Mask { y: y.clone() }))
}
