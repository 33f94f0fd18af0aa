//! InfoNCE on the tape.

use super::{forward, forward_backward};
use crate::error::{ErrorKind, Result};
use crate::ops::mul;
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};
use crate::tensor::Tensor;

/// The loss of a batch, and how it went.
#[derive(Clone)]
pub struct Loss {
    /// Mean over the queries, in nats: a scalar.
    pub loss: Var,
    /// Mean probability of the positive.
    pub positive: f32,
    /// Share of the queries whose positive is strictly nearer than every key of the queue.
    pub accuracy: f32,
}

struct InfoNce {
    /// Gradient of the loss for the queries, from the forward sweep.
    dq: Tensor,
}

impl Op for InfoNce {
    fn name(&self) -> &'static str {
        "infonce"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        if t.is_recording() {
            return Err(ErrorKind::NoSecondOrder { op: "infonce" }.into());
        }
        let dy = Var::constant(dy.value().reshape([1, 1])?);
        Ok(vec![Some(mul(t, &Var::constant(self.dq.clone()), &dy)?)])
    }
}

/// The contrastive loss of `q [n d]` against positives `k [n d]` and negatives `queue [m d]` at temperature `tau`, with
/// `O(n·d)` memory. `k` and `queue` are constants.
///
/// # Errors
/// As [`super::infonce::forward`].
pub fn infonce(t: &Tape, q: &Var, k: &Tensor, queue: &Tensor, tau: f32) -> Result<Loss> {
    let wanted = t.is_recording() && q.has_grad();
    let (scores, dq) = if wanted {
        let (scores, dq) = forward_backward(q.value(), k, queue, tau)?;
        (scores, Some(dq))
    } else {
        (forward(q.value(), k, queue, tau)?, None)
    };
    let value = Tensor::full(Shape::new(&[]), scores.loss);
    let loss = match dq {
        Some(dq) => t.record(value, &[q], || InfoNce { dq: dq.cast(q.value().dtype()) }),
        None => Var::constant(value),
    };
    Ok(Loss { loss, positive: scores.positive, accuracy: scores.accuracy })
}
