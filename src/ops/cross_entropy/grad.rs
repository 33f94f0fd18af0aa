//! Softmax and cross-entropy on the tape.

use super::{backward_by, loss_of, numbers, softmax_forward};
use crate::error::Result;
use crate::ops::{mul, reshape, scale, sub, sum_to};
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};
use crate::tensor::{Integers, Tensor};

struct Softmax {
    x: Var,
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn backward(&self, t: &Tape, dp: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let p = softmax(t, &self.x)?;
        let row_sums = Shape::new(&[p.shape().dims()[0], 1]);
        let mean = sum_to(t, &mul(t, &p, dp)?, row_sums)?;
        Ok(vec![Some(mul(t, &p, &sub(t, dp, &mean)?)?)])
    }
}

/// Softmax of each row of `x [n c]`.
///
/// # Errors
/// `Shape` when `x` is not a matrix.
pub fn softmax(t: &Tape, x: &Var) -> Result<Var> {
    let p = softmax_forward(x.value())?;
    Ok(t.record(p, &[x], || Softmax { x: x.clone() }))
}

struct CrossEntropy {
    logits: Var,
    labels: Integers,
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let logits = self.logits.value();
        if !t.is_recording() {
            return Ok(vec![Some(Var::constant(backward_by(logits, &self.labels, dy.value())?))]);
        }
        let [n, c] = logits.shape().matrix("cross_entropy", "logits")?;
        let mut onehot = vec![0.0; n * c];
        self.labels.values().iter().enumerate().for_each(|(i, &label)| onehot[i * c + label as usize] = 1.0);
        let onehot = Tensor::from_f32(logits.shape(), &onehot)?.to(&logits.device())?;
        let onehot = Var::constant(onehot);
        let error = sub(t, &softmax(t, &self.logits)?, &onehot)?;
        let dy = reshape(t, dy, Shape::new(&[1, 1]))?;
        Ok(vec![Some(scale(t, &mul(t, &error, &dy)?, 1.0 / n as f32)?)])
    }
}

/// The mean cross-entropy, in nats, of `logits [n c]` against one label per row: a scalar.
///
/// # Errors
/// As [`super::forward`].
pub fn cross_entropy(t: &Tape, logits: &Var, labels: &[usize]) -> Result<Var> {
    cross_entropy_of(t, logits, &numbers(logits.value(), labels)?)
}

/// As [`cross_entropy`], with labels that may already be on the device of the logits, in which case they are not
/// copied.
///
/// # Errors
/// As [`super::forward`].
pub fn cross_entropy_of(t: &Tape, logits: &Var, labels: &Integers) -> Result<Var> {
    let loss = loss_of(logits.value(), labels)?;
    Ok(t.record(loss, &[logits], || CrossEntropy { logits: logits.clone(), labels: labels.clone() }))
}
