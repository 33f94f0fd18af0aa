//! Channel maps and alignment losses on the tape.
//!
//! The map is one of three operations that are each other's gradients. The loss is recorded as a chain: loss, fused
//! gradient, fused derivative of the gradient; derivatives of third order and beyond are composed of primitives.

use super::{Cosines, backward, cpu, double_backward, forward, grid, map_backward_f, map_backward_g, map_forward};
use crate::error::Result;
use crate::ops::{add, l2_norm, mul, reshape, scale, sub, sum_to};
use crate::shape::Shape;
use crate::tape::{Mode, Op, Tape, Var};
use crate::tensor::Tensor;

/// `T(g, f, d) = Σ w(g) f d` is linear in each argument; the three operations are its partial derivatives.
struct Map {
    g: Var,
    f: Var,
}

impl Op for Map {
    fn name(&self) -> &'static str {
        "channel_map"
    }

    fn backward(&self, t: &Tape, d: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![
            needs[0].then(|| for_weighing(t, d, &self.f)).transpose()?,
            needs[1].then(|| for_weighed(t, &self.g, d)).transpose()?,
        ])
    }
}

/// `m[n t h w] = Σ_c w[n t c] f[n t h w c]`, where `w[n t c]` is the mean over `h w` of `g[n t h w c]`: the map that
/// MCL aligns with motion, before its ReLU (`docs/papers/mcl.md` section 3.4). In the released form both arguments are
/// the gradient of a similarity; in Grad-CAM `f` is the features.
///
/// # Errors
/// As [`map_forward`].
pub fn channel_map(t: &Tape, g: &Var, f: &Var) -> Result<Var> {
    let m = map_forward(g.value(), f.value())?;
    Ok(t.record(m, &[g, f], || Map { g: g.clone(), f: f.clone() }))
}

struct Weighed {
    g: Var,
    d: Var,
}

impl Op for Weighed {
    fn name(&self) -> &'static str {
        "channel_map for f"
    }

    /// `u` is the gradient by `df`, so it has the shape of `f`.
    fn backward(&self, t: &Tape, u: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![
            needs[0].then(|| for_weighing(t, &self.d, u)).transpose()?,
            needs[1].then(|| channel_map(t, &self.g, u)).transpose()?,
        ])
    }
}

/// The gradient of a map by `f`.
fn for_weighed(t: &Tape, g: &Var, d: &Var) -> Result<Var> {
    let df = map_backward_f(g.value(), d.value())?;
    Ok(t.record(df, &[g, d], || Weighed { g: g.clone(), d: d.clone() }))
}

struct Weighing {
    d: Var,
    f: Var,
}

impl Op for Weighing {
    fn name(&self) -> &'static str {
        "channel_map for g"
    }

    /// `u` is the gradient by `dg`, so it has the shape of `g`.
    fn backward(&self, t: &Tape, u: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![
            needs[0].then(|| channel_map(t, u, &self.f)).transpose()?,
            needs[1].then(|| for_weighed(t, u, &self.d)).transpose()?,
        ])
    }
}

/// The gradient of a map by `g`.
fn for_weighing(t: &Tape, d: &Var, f: &Var) -> Result<Var> {
    let dg = map_backward_g(d.value(), f.value())?;
    Ok(t.record(dg, &[d, f], || Weighing { d: d.clone(), f: f.clone() }))
}

/// The alignment loss of a batch, and its statistics.
#[derive(Clone)]
pub struct Loss {
    /// The mean over `n` of the weighted `1 - S`: a scalar.
    pub loss: Var,
    /// Means over `n`, `[4]`, on the map's device: `1 - S_st`, `1 - S_s`, `1 - S_t`, unweighted, and the plain cosine
    /// of the map and the target over all `t h w`.
    pub stats: Tensor,
}

/// What the loss and its derivatives of all orders share.
#[derive(Clone)]
struct Aligned {
    p: Var,
    y: Tensor,
    how: Cosines,
}

impl Op for Aligned {
    fn name(&self) -> &'static str {
        "map_alignment"
    }

    fn backward(&self, t: &Tape, dy: &Var, _: &[bool]) -> Result<Vec<Option<Var>>> {
        let dp = backward(self.p.value(), &self.y, &self.how, dy.value())?;
        Ok(vec![Some(t.record(dp, &[&self.p, dy], || Gradient { of: self.clone(), dy: dy.clone() }))])
    }
}

/// The loss of maps `p` against targets `y`, both `n t h w` of f32, as three cosines (`docs/papers/mcl.md` section
/// 3.4): 0 where `p` is a positive multiple of `y`, the sum of the weights where `p` is 0. `y` is a constant.
///
/// # Errors
/// As [`forward`].
pub fn map_alignment(t: &Tape, p: &Var, y: &Tensor, how: &Cosines) -> Result<Loss> {
    let (loss, stats) = forward(p.value(), y, how)?;
    let loss = t.record(loss, &[p], || Aligned { p: p.clone(), y: y.clone(), how: *how });
    Ok(Loss { loss, stats })
}

struct Gradient {
    of: Aligned,
    dy: Var,
}

impl Op for Gradient {
    fn name(&self) -> &'static str {
        "map_alignment gradient"
    }

    /// `u` is the gradient by `dp`: `dy · H u` for the map, `⟨∇L, u⟩` for `dy`.
    fn backward(&self, t: &Tape, u: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        let Aligned { p, y, how } = &self.of;
        let inner = |t: &Tape, slope: &Var| -> Result<Var> {
            let product = mul(t, slope, u)?;
            reshape(t, &sum_to(t, &product, Shape::from([1; 4]))?, self.dy.shape())
        };
        if t.is_recording() {
            // Third order and beyond. A map that needs no gradient becomes a leaf, so that its gradient can be taken
            // here.
            let p = if p.has_grad() { p.clone() } else { t.leaf(p.value().clone()) };
            let slope = slope(t, &p, y, how)?;
            let along = || -> Result<Var> {
                let dy = reshape(t, &self.dy, Shape::from([1; 4]))?;
                let second = t.grad_from(&slope, mul(t, u, &dy)?, &[&p], Mode::Keep)?.remove(0);
                Ok(second.unwrap_or(Var::constant(Tensor::zeros_on(&u.value().device(), u.shape())?)))
            };
            return Ok(vec![needs[0].then(along).transpose()?, needs[1].then(|| inner(t, &slope)).transpose()?]);
        }
        let (p, dy) = (p.value(), self.dy.value());
        let along = || double_backward(p, y, how, dy, u.value()).map(Var::constant);
        let one = || -> Result<Var> {
            let one = Tensor::full_on(&p.device(), dy.shape(), 1.0)?;
            inner(t, &Var::constant(backward(p, y, how, &one)?))
        };
        Ok(vec![needs[0].then(along).transpose()?, needs[1].then(one).transpose()?])
    }
}

/// The gradient of [`composed`] by `p`, recorded.
fn slope(t: &Tape, p: &Var, y: &Tensor, how: &Cosines) -> Result<Var> {
    let loss = composed(t, p, y, how)?;
    let slope = t.grad(&loss, &[p], Mode::Keep)?.remove(0);
    Ok(slope.unwrap_or(Var::constant(Tensor::zeros_on(&p.value().device(), p.shape())?)))
}

/// The loss composed of primitives, which have derivatives of any order; in f32, and without the rule for flat vectors.
/// On a GPU it synchronises with the host, to compute the weights of the frames.
fn composed(t: &Tape, p: &Var, y: &Tensor, how: &Cosines) -> Result<Var> {
    let g = grid(p.value(), &[("y", y)], how)?;
    let y = Var::constant(y.clone());
    let cosines = |a: &Var, b: &Var| -> Result<Var> {
        let [rows, d] = a.shape().matrix("map_alignment", "p")?;
        let column = Shape::from([rows, 1]);
        let unit = |v: &Var| -> Result<Var> {
            if !how.centred {
                return l2_norm(t, v);
            }
            l2_norm(t, &sub(t, v, &scale(t, &sum_to(t, v, column)?, 1.0 / d as f32)?)?)
        };
        sum_to(t, &mul(t, &unit(a)?, &unit(b)?)?, column)
    };
    let frames = |v: &Var| reshape(t, v, Shape::from([g.n * g.t, g.area]));
    let means = |v: &Var| -> Result<Var> {
        let sums = sum_to(t, &reshape(t, v, Shape::from([g.n, g.t, g.area]))?, Shape::from([g.n, 1, g.area]))?;
        reshape(t, &scale(t, &sums, 1.0 / g.t as f32)?, Shape::from([g.n, g.area]))
    };
    let sums = |v: &Var| -> Result<Var> {
        reshape(t, &sum_to(t, &frames(v)?, Shape::from([g.n * g.t, 1]))?, Shape::from([g.n, g.t]))
    };
    let host = y.value().load()?;
    let weights: Vec<f32> = host
        .chunks_exact(g.t * g.area)
        .flat_map(|y| {
            let sums: Vec<f64> = y.chunks_exact(g.area).map(|f| f.iter().map(|v| f64::from(*v)).sum()).collect();
            cpu::cosines::attention(&sums, g.area, how.target_norm)
        })
        .map(|a| a as f32)
        .collect();
    let weights = Var::constant(Tensor::from_f32([g.n * g.t, 1], &weights)?.to(&p.value().device())?);
    let one = Shape::from([1, 1]);
    let spatio_temporal = sum_to(t, &mul(t, &cosines(&frames(p)?, &frames(&y)?)?, &weights)?, one)?;
    let spatial = sum_to(t, &cosines(&means(p)?, &means(&y)?)?, one)?;
    let temporal = sum_to(t, &cosines(&sums(p)?, &sums(&y)?)?, one)?;
    let part = |v: &Var, weight: f32| scale(t, v, -weight / g.n as f32);
    let k = how.terms;
    let cosines = add(t, &part(&spatio_temporal, k.spatio_temporal)?, &part(&spatial, k.spatial)?)?;
    reshape(t, &add(t, &cosines, &part(&temporal, k.temporal)?)?, Shape::from([]))
}
