//! Sums and broadcasting on the tape: each is the other's gradient.

use super::{apply_broadcast_to, apply_sum_to};
use crate::error::Result;
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};

struct SumTo {
    from: Shape,
}

impl Op for SumTo {
    fn name(&self) -> &'static str {
        "sum_to"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(broadcast_to(t, dy, self.from)?)])
    }
}

/// `a` summed over every axis on which `shape` is 1.
///
/// # Errors
/// `Shape`; see [`super::apply_sum_to`].
pub fn sum_to(t: &Tape, a: &Var, shape: Shape) -> Result<Var> {
    if a.shape() == shape {
        return Ok(a.clone());
    }
    let y = apply_sum_to(a.value(), shape)?;
    Ok(t.record(y, &[a], || SumTo { from: a.shape() }))
}

struct BroadcastTo {
    from: Shape,
}

impl Op for BroadcastTo {
    fn name(&self) -> &'static str {
        "broadcast_to"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![Some(sum_to(t, dy, self.from)?)])
    }
}

/// `a` broadcast along every axis on which it has extent 1 and `shape` has more.
///
/// # Errors
/// `Shape`; see [`super::apply_broadcast_to`].
pub fn broadcast_to(t: &Tape, a: &Var, shape: Shape) -> Result<Var> {
    if a.shape() == shape {
        return Ok(a.clone());
    }
    let y = apply_broadcast_to(a.value(), shape)?;
    Ok(t.record(y, &[a], || BroadcastTo { from: a.shape() }))
}
