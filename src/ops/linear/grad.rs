//! The linear layer on the tape.

use super::forward;
use crate::error::Result;
use crate::ops::matmul::matmul_as;
use crate::ops::{cast, reshape, sum_to};
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};
use crate::tensor::DType;

struct Linear {
    x: Var,
    w: Var,
    b: Option<Shape>,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        let Linear { x, w, b } = self;
        let dx = || matmul_as(t, x.value().dtype(), dy, w, false, false);
        let dw = || matmul_as(t, w.value().dtype(), dy, x, true, false);
        let mut grads = vec![needs[0].then(dx).transpose()?, needs[1].then(dw).transpose()?];
        if let Some(shape) = *b {
            let db = || reshape(t, &sum_to(t, &cast(t, dy, DType::F32)?, Shape::from([1, shape.len()]))?, shape);
            grads.push(needs[2].then(db).transpose()?);
        }
        Ok(grads)
    }
}

/// `y[n o] = x[n i] · w[o i]ᵀ + b[o]`.
///
/// # Errors
/// `Shape`; see [`super::forward`].
pub fn linear(t: &Tape, x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    let y = forward(x.value(), w.value(), b.map(Var::value))?;
    let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
    Ok(t.record(y, &inputs, || Linear { x: x.clone(), w: w.clone(), b: b.map(Var::shape) }))
}
