//! Batch norm on the tape: a fused kernel for first-order gradients, a composition of primitives where the gradient is
//! to be differentiated again.

use super::{
    BatchStatistics, Incoming, Norm, ReluMask, Signs, Stats, Unformed, backward_handing, forward_keeping, statistics,
};
use crate::error::{ErrorKind, Result};
use crate::ops::{self, cast, mul, reshape, scale, sub, sum_to};
use crate::shape::Shape;
use crate::tape::{Edge, Op, Share, Tape, Var};
use crate::tensor::{DType, Tensor};
use std::rc::Rc;

/// A batch norm as recorded: `norm(x)`, with a residual added if there is one, and ReLU if `relu`.
pub(in crate::ops) struct BatchNorm {
    x: Var,
    gamma: Var,
    beta: Var,
    residual: Option<Edge>,
    norm: Norm,
    eps: f32,
    relu: bool,
    /// The result, where ReLU's mask cannot be recomputed from `x` alone.
    y: Option<Tensor>,
    /// Its signs, where a convolution's dgrad can read them in its place.
    signs: Option<Signs>,
}

impl Op for Rc<BatchNorm> {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        self.backward_share(t, dy, needs, &mut [])
    }

    fn backward_share(&self, t: &Tape, dy: &Var, needs: &[bool], shares: &mut [Share]) -> Result<Vec<Option<Var>>> {
        if t.is_recording() {
            return self.composed(t, dy, needs);
        }
        self.backward_from(&Incoming::Result(dy.value().clone()), needs, shares.first(), 0)
    }
}

impl BatchNorm {
    /// The input.
    pub fn x(&self) -> &Var {
        &self.x
    }

    /// The recorded inputs: `x`, `gamma`, `beta`, and the residual if there is one.
    pub fn inputs(&self) -> Vec<Edge> {
        [&self.x, &self.gamma, &self.beta].map(Var::edge).into_iter().chain(self.residual.clone()).collect()
    }

    /// The normalisation, with its statistics.
    pub fn norm(&self) -> &Norm {
        &self.norm
    }

    /// How ReLU's mask is obtained.
    pub fn mask(&self) -> ReluMask<'_> {
        match (self.relu, &self.y) {
            (false, _) => ReluMask::None,
            (true, None) => ReluMask::FromInput,
            (true, Some(y)) => ReluMask::FromResult(y),
        }
    }

    /// The signs of the result, where they were kept.
    pub fn signs(&self) -> Option<&Signs> {
        self.signs.as_ref()
    }

    /// The gradients of its inputs as constants; ReLU's mask may have been applied to `dy` already. That by `x` is handed in
    /// parts to the operation that computed `x`, if `of_x` and the `silent` operations of [`Share::hand`] allow it.
    pub fn backward_from(
        &self,
        dy: &Incoming,
        needs: &[bool],
        of_x: Option<&Share>,
        silent: usize,
    ) -> Result<Vec<Option<Var>>> {
        let hand = |of: &Unformed| needs[0] && of_x.is_some_and(|share| share.hand(silent, of));
        let g = backward_handing(self.x.value(), &self.norm, self.mask(), self.residual.is_some(), dy, &hand)?;
        let grads = [Some(g.dx), Some(g.dgamma), Some(g.dbeta), g.dresidual];
        Ok(grads.into_iter().zip(needs).map(|(g, need)| g.filter(|_| *need).map(Var::constant)).collect())
    }

    /// The result of a batch norm without a residual, recorded.
    pub fn apply(self: &Rc<Self>, t: &Tape) -> Result<Var> {
        Ok(self.record(t, self.norm.apply(self.x.value(), None, self.relu)?))
    }

    /// Records its result `y` on the tape.
    pub fn record(self: &Rc<Self>, t: &Tape, y: Tensor) -> Var {
        t.record_on(y, self.inputs(), || self.clone())
    }

    /// The gradients in primitives, as functions of `x`, `gamma` and `dy`. Everything is `[parts rows c]`.
    fn composed(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        if self.norm.peers().is_some() {
            return Err(ErrorKind::NoSecondOrder { op: "batch_norm over ranks" }.into()); // it would be an exchange on the tape
        }
        let p = self.norm.rows(self.x.shape())?;
        let (all, stat, vector) =
            (Shape::from([p.parts, p.rows, p.c]), Shape::from([p.parts, 1, p.c]), Shape::from([1, 1, p.c]));
        let dz = self.past_relu(t, dy)?;
        let flat = |v: &Var, shape: Shape| reshape(t, &cast(t, v, DType::F32)?, shape);
        let (x, g, gamma) = (flat(&self.x, all)?, flat(&dz, all)?, flat(&self.gamma, vector)?);
        let mean_of = |v: &Var| scale(t, &sum_to(t, v, stat)?, 1.0 / p.rows as f32);

        let (dev, inv_std) = if self.norm.of_batch() {
            let dev = sub(t, &x, &mean_of(&x)?)?;
            let var = mean_of(&mul(t, &dev, &dev)?)?;
            let eps = Var::constant(Tensor::full_on(&x.value().device(), stat, self.eps)?);
            (dev, ops::recip(t, &ops::sqrt(t, &ops::add(t, &var, &eps)?)?)?)
        } else {
            let constant = |v: &Tensor| v.reshape(stat).map(Var::constant);
            (sub(t, &x, &constant(self.norm.mean())?)?, constant(self.norm.inv_std())?)
        };
        let hat = mul(t, &dev, &inv_std)?;
        let dx = || {
            let d = mul(t, &g, &gamma)?; // the gradient of the normalised value
            let d = if self.norm.of_batch() {
                let along = mul(t, &hat, &mean_of(&mul(t, &d, &hat)?)?)?;
                sub(t, &sub(t, &d, &mean_of(&d)?)?, &along)?
            } else {
                d
            };
            cast(t, &reshape(t, &mul(t, &d, &inv_std)?, self.x.shape())?, self.x.value().dtype())
        };
        let channels = |v: &Var| reshape(t, &sum_to(t, v, vector)?, Shape::from([p.c]));
        let mut grads = vec![
            needs[0].then(dx).transpose()?,
            needs[1].then(|| channels(&mul(t, &g, &hat)?)).transpose()?,
            needs[2].then(|| channels(&g)).transpose()?,
        ];
        if self.residual.is_some() {
            grads.push(needs[3].then(|| cast(t, &dz, self.x.value().dtype())).transpose()?);
        }
        Ok(grads)
    }

    /// `dy` with ReLU's mask applied.
    fn past_relu(&self, t: &Tape, dy: &Var) -> Result<Var> {
        match self.mask() {
            ReluMask::None => Ok(dy.clone()),
            ReluMask::FromResult(y) => ops::relu::mask(t, dy, y),
            ReluMask::FromInput => ops::relu::mask(t, dy, &self.norm.apply(self.x.value(), None, true)?),
        }
    }
}

/// A batch norm with its result, which is not on the tape yet, and the statistics of the whole batch.
#[allow(clippy::too_many_arguments, reason = "one fused layer; each argument is a part of its formula")]
pub(in crate::ops) fn normalised(
    x: &Var,
    gamma: &Var,
    beta: &Var,
    stats: Stats,
    eps: f32,
    residual: Option<&Var>,
    relu: bool,
) -> Result<(Rc<BatchNorm>, Tensor, Option<BatchStatistics>)> {
    let masked = relu && residual.is_some();
    // Without a gradient nobody reads the signs.
    let keep = masked && [Some(x), Some(gamma), residual].into_iter().flatten().any(Var::has_grad);
    let residual_value = residual.map(Var::value);
    let (y, signs, norm, batch) =
        forward_keeping(x.value(), gamma.value(), beta.value(), stats, eps, residual_value, relu, keep)?;
    let kept = masked.then(|| y.clone());
    let (x, gamma, beta) = (x.clone(), gamma.clone(), beta.clone());
    let layer = BatchNorm { x, gamma, beta, residual: residual.map(Var::edge), norm, eps, relu, y: kept, signs };
    Ok((Rc::new(layer), y, batch))
}

/// A batch norm with ReLU and without a residual whose result is not computed yet.
pub(in crate::ops) fn deferred(
    x: &Var,
    gamma: &Var,
    beta: &Var,
    stats: Stats,
    eps: f32,
) -> Result<(Rc<BatchNorm>, Option<BatchStatistics>)> {
    let (norm, batch) = statistics(x.value(), gamma.value(), beta.value(), stats, eps)?;
    let (x, gamma, beta) = (x.clone(), gamma.clone(), beta.clone());
    Ok((Rc::new(BatchNorm { x, gamma, beta, residual: None, norm, eps, relu: true, y: None, signs: None }), batch))
}

/// `y = relu((x - mean) / √(var + eps) · gamma + beta + residual)` with `x`, `residual` of `[n .. c]` and `gamma`,
/// `beta` of `[c]`; ReLU if `relu`. Also returns the statistics of the whole batch (`None` for [`Stats::Fixed`]).
///
/// # Errors
/// See [`forward`](super::forward).
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
) -> Result<(Var, Option<BatchStatistics>)> {
    let (layer, y, batch) = normalised(x, gamma, beta, stats, eps, residual, relu)?;
    Ok((layer.record(t, y), batch))
}
