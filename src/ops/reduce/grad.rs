//! Sums and broadcasting on the tape: each is the other's gradient.

use super::{broadcast_to_forward, sum_to_forward};
use crate::error::Result;
use crate::ops::{cast, reshape, scale};
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};
use crate::tensor::DType;

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
/// `Shape`; see [`super::sum_to_forward`].
pub fn sum_to(t: &Tape, a: &Var, shape: Shape) -> Result<Var> {
    if a.shape() == shape {
        return Ok(a.clone());
    }
    let y = sum_to_forward(a.value(), shape)?;
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
/// `Shape`; see [`super::broadcast_to_forward`].
pub fn broadcast_to(t: &Tape, a: &Var, shape: Shape) -> Result<Var> {
    if a.shape() == shape {
        return Ok(a.clone());
    }
    let y = broadcast_to_forward(a.value(), shape)?;
    Ok(t.record(y, &[a], || BroadcastTo { from: a.shape() }))
}

/// The sum of all elements of `a`, f32, `[1]`.
///
/// ```
/// use tubelet::{Mode, Tape, Tensor, ops};
/// let t = Tape::new();
/// let a = t.leaf(Tensor::from_f32([2, 2], &[1.0, 2.0, 3.0, 6.0])?);
/// let mean = ops::mean(&t, &a)?;
/// assert_eq!((ops::sum(&t, &a)?.value().item()?, mean.value().item()?), (12.0, 3.0));
/// let da = t.grad(&mean, &[&a], Mode::Free)?.remove(0).unwrap();
/// assert_eq!(da.value().load()?[..], [0.25; 4]);
/// # Ok::<(), tubelet::Error>(())
/// ```
///
/// # Errors
/// `OutOfMemory`; of a GPU what its driver says.
pub fn sum(t: &Tape, a: &Var) -> Result<Var> {
    let a = cast(t, a, DType::F32)?;
    let ones = Shape::new(&vec![1; a.shape().rank()]);
    reshape(t, &sum_to(t, &a, ones)?, Shape::from([1]))
}

/// The mean of all elements of `a`, f32, `[1]`; NaN where there are none.
///
/// # Errors
/// As [`sum`].
pub fn mean(t: &Tape, a: &Var) -> Result<Var> {
    scale(t, &sum(t, a)?, 1.0 / a.shape().len() as f32)
}
