//! The layer on the tape: a fused kernel where the gradient is used up, a composition of primitives where it is to be
//! differentiated again.

use super::{Moments, Saved, Stats, bwd, fwd, normalise, statistics};
use crate::error::Result;
use crate::ops::conv3d::fused::{Before, Norm};
use crate::ops::{self, cast, mul, reshape, scale, sub, sum_to};
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};
use crate::tensor::{DType, Device, Tensor};
use std::any::Any;
use std::rc::Rc;

/// What follows the normalisation.
#[derive(Clone)]
pub(super) struct Ends {
    /// Whether something was added.
    pub residual: bool,
    /// Whether the result went through the rectifier.
    pub relu: bool,
    /// The result, where the rectifier's mask cannot be had from `x` alone.
    pub y: Option<Tensor>,
}

/// A gradient that the rectifier has let through, and per group and channel the sums of it and of its products with the
/// normalised input, `[groups 2 c]`: whoever made it has done the first half of the layer's backward pass.
pub(in crate::ops) struct PastRelu {
    pub sums: Tensor,
}

/// The layer as it is recorded.
#[derive(Clone)]
pub(in crate::ops) struct BatchNorm {
    x: Var,
    gamma: Var,
    beta: Var,
    saved: Saved,
    eps: f32,
    ends: Ends,
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        if t.is_recording() {
            return self.composed(t, dy, needs);
        }
        let sums = dy.note::<PastRelu>().map(|past| &past.sums);
        let g = bwd(self.x.value(), self.gamma.value(), self.beta.value(), &self.saved, &self.ends, dy.value(), sums)?;
        let grads = [Some(g.dx), Some(g.dgamma), Some(g.dbeta), g.dresidual];
        Ok(grads.into_iter().zip(needs).map(|(g, need)| g.filter(|_| *need).map(Var::constant)).collect())
    }

    fn known(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl BatchNorm {
    /// The layer as a convolution on its result `y` sees it, which need not be there where nothing was added; `None` where
    /// there is no rectifier, where numbers are of other types than the gradient's, and on a GPU, where the sums are merged
    /// from other parts.
    pub fn before<'a>(&'a self, y: Option<&'a Tensor>, so_far: Option<&'a Tensor>, dtype: DType) -> Option<Before<'a>> {
        let normed = self.x.value();
        let alike = [normed].into_iter().chain(y).chain(so_far).all(|t| t.dtype() == dtype);
        let affine = [self.gamma.value(), self.beta.value()];
        let f32s = affine.iter().all(|t| t.dtype() == DType::F32);
        if !self.ends.relu || !alike || !f32s || normed.device() != Device::Cpu {
            return None;
        }
        let again = self.ends.y.is_none().then_some(affine);
        Some(Before { relu: y, normed, mean: &self.saved.mean, inv_std: &self.saved.rstd, again, so_far })
    }

    /// The gradients in primitives, as functions of `x`, `gamma` and `dy`. Everything is `[groups rows c]`.
    fn composed(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        let Saved { rows: p, of_batch, .. } = self.saved;
        let (all, stat, vector) =
            (Shape::from([p.groups, p.rows, p.c]), Shape::from([p.groups, 1, p.c]), Shape::from([1, 1, p.c]));
        let dz = self.past_relu(t, dy)?;
        let flat = |v: &Var, shape: Shape| reshape(t, &cast(t, v, DType::F32)?, shape);
        let (x, g, gamma) = (flat(&self.x, all)?, flat(&dz, all)?, flat(&self.gamma, vector)?);
        let mean_of = |v: &Var| scale(t, &sum_to(t, v, stat)?, 1.0 / p.rows as f32);

        let (dev, rstd) = if of_batch {
            let dev = sub(t, &x, &mean_of(&x)?)?;
            let var = mean_of(&mul(t, &dev, &dev)?)?;
            let eps = Var::constant(Tensor::full_on(&x.value().device(), stat, self.eps)?);
            (dev, ops::recip(t, &ops::sqrt(t, &ops::add(t, &var, &eps)?)?)?)
        } else {
            let constant = |v: &Tensor| v.reshape(stat).map(Var::constant);
            (sub(t, &x, &constant(&self.saved.mean)?)?, constant(&self.saved.rstd)?)
        };
        let hat = mul(t, &dev, &rstd)?;
        let dx = || {
            let d = mul(t, &g, &gamma)?; // the gradient of the normalised value
            let d = if of_batch {
                let along = mul(t, &hat, &mean_of(&mul(t, &d, &hat)?)?)?;
                sub(t, &sub(t, &d, &mean_of(&d)?)?, &along)?
            } else {
                d
            };
            cast(t, &reshape(t, &mul(t, &d, &rstd)?, self.x.shape())?, self.x.value().dtype())
        };
        let channels = |v: &Var| reshape(t, &sum_to(t, v, vector)?, Shape::from([p.c]));
        let mut grads = vec![
            needs[0].then(dx).transpose()?,
            needs[1].then(|| channels(&mul(t, &g, &hat)?)).transpose()?,
            needs[2].then(|| channels(&g)).transpose()?,
        ];
        if self.ends.residual {
            grads.push(needs[3].then(|| cast(t, &dz, self.x.value().dtype())).transpose()?);
        }
        Ok(grads)
    }

    /// `dy` past the rectifier.
    fn past_relu(&self, t: &Tape, dy: &Var) -> Result<Var> {
        if !self.ends.relu {
            return Ok(dy.clone());
        }
        let y = match &self.ends.y {
            Some(y) => y.clone(),
            None => normalise(self.x.value(), self.gamma.value(), self.beta.value(), &self.saved, None, true)?,
        };
        ops::relu::mask(t, dy, &y)
    }
}

/// `relu((x - mean) / √(var + eps) · gamma + beta)` of which the statistics are known, but which is yet to be computed: a
/// convolution that applies it to what it reads needs no memory for it
/// ([`conv3d_after`](crate::ops::conv3d::conv3d_after)).
#[derive(Clone)]
pub struct Deferred(Rc<BatchNorm>);

impl Deferred {
    /// The result.
    ///
    /// # Errors
    /// Of a GPU what its driver says.
    pub fn apply(&self, t: &Tape) -> Result<Var> {
        let BatchNorm { x, gamma, beta, saved, .. } = self.op();
        let y = normalise(x.value(), gamma.value(), beta.value(), saved, None, true)?;
        Ok(t.record(y, &self.inputs(), || self.op().clone()))
    }

    /// What it is a function of: `x`, `gamma` and `beta`.
    pub(in crate::ops) fn inputs(&self) -> [&Var; 3] {
        [&self.0.x, &self.0.gamma, &self.0.beta]
    }

    /// What would be recorded.
    pub(in crate::ops) fn op(&self) -> &BatchNorm {
        &self.0
    }

    /// Its numbers.
    pub(in crate::ops) fn norm(&self) -> Norm<'_> {
        let BatchNorm { gamma, beta, saved, .. } = self.op();
        Norm { mean: &saved.mean, inv_std: &saved.rstd, gamma: gamma.value(), beta: beta.value() }
    }
}

/// [`batch_norm`] with the rectifier and without a residual, left to whoever reads the result.
///
/// # Errors
/// As [`batch_norm`].
pub fn deferred(x: &Var, gamma: &Var, beta: &Var, stats: Stats, eps: f32) -> Result<(Deferred, Option<Moments>)> {
    let (saved, moments) = statistics(x.value(), gamma.value(), beta.value(), stats, eps)?;
    let ends = Ends { residual: false, relu: true, y: None };
    let op = BatchNorm { x: x.clone(), gamma: gamma.clone(), beta: beta.clone(), saved, eps, ends };
    Ok((Deferred(Rc::new(op)), moments))
}

/// `y = relu((x - mean) / √(var + eps) · gamma + beta + residual)` with `x`, `residual` of `[n .. c]` and `gamma`, `beta`
/// of `[c]`; the rectifier where `relu`. Beside it the statistics of the whole batch (`None` for [`Stats::Fixed`]).
///
/// # Errors
/// See [`fwd`].
#[allow(clippy::too_many_arguments, reason = "one fused layer; each argument is a part of its formula")]
pub fn batch_norm(
    t: &Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    stats: Stats,
    eps: f32,
    residual: Option<&Var>,
    relu: bool,
) -> Result<(Var, Option<Moments>)> {
    let (y, saved, moments) = fwd(x.value(), gamma.value(), beta.value(), stats, eps, residual.map(Var::value), relu)?;
    let inputs: Vec<&Var> = [x, gamma, beta].into_iter().chain(residual).collect();
    let ends = || Ends { residual: residual.is_some(), relu, y: (relu && residual.is_some()).then(|| y.clone()) };
    let out = t.record(y.clone(), &inputs, || BatchNorm {
        x: x.clone(),
        gamma: gamma.clone(),
        beta: beta.clone(),
        saved,
        eps,
        ends: ends(),
    });
    Ok((out, moments))
}
