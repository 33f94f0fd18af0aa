//! Convolution on the tape. It is bilinear, so the gradients of each pass are the other two.

use super::fused::{dgrad_chain, fprop_after, fprop_summed, wgrad_normed};
use super::{Geometry, dgrad, fprop, wgrad};
use crate::error::Result;
use crate::ops::batch_norm::{BatchNorm, Deferred, PastRelu, Sums};
use crate::shape::Shape;
use crate::tape::{Op, Share, Tape, Var};
use crate::tensor::Tensor;

struct Fprop {
    x: Var,
    w: Var,
    g: Geometry,
}

impl Op for Fprop {
    fn name(&self) -> &'static str {
        "conv3d"
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![
            needs[0].then(|| dgrad_recorded(t, dy, &self.w, self.x.shape(), &self.g)).transpose()?,
            needs[1].then(|| wgrad_recorded(t, &self.x, dy, self.w.shape(), &self.g)).transpose()?,
        ])
    }

    /// Where `x` comes from a batch norm with its rectifier, the gradient for `x` goes past that at once, with the sums the
    /// batch norm's own backward pass begins with.
    fn backward_share(&self, t: &Tape, dy: &Var, needs: &[bool], shares: &mut [Share]) -> Result<Vec<Option<Var>>> {
        if !needs[0] || !shares[0].last {
            return self.backward(t, dy, needs);
        }
        let so_far = shares[0].so_far.as_ref().map(Var::value);
        let chained = |layer: &BatchNorm| {
            let Some(before) = layer.before(Some(self.x.value()), so_far, dy.value().dtype()) else { return Ok(None) };
            dgrad_chain(dy.value(), self.w.value(), &self.g, &before)
        };
        let Some((dz, sums)) = self.x.ask(chained).transpose()?.flatten() else { return self.backward(t, dy, needs) };
        shares[0].so_far = None;
        let mut grads = self.backward(t, dy, &[false, needs[1]])?;
        grads[0] = Some(Var::noted(dz, PastRelu { sums }));
        Ok(grads)
    }
}

/// `x` (`n t h w c`) convolved with `w` (`k kt kh kw c/groups`): `n to ho wo k`, in the number type of `x`.
///
/// # Errors
/// As [`super::fprop`].
pub fn conv3d(t: &Tape, x: &Var, w: &Var, g: &Geometry) -> Result<Var> {
    let y = fprop(x.value(), w.value(), g)?;
    Ok(t.record(y, &[x, w], || Fprop { x: x.clone(), w: w.clone(), g: *g }))
}

/// [`conv3d`], and the sums of a following batch norm over each of `groups` equal parts of the samples where the device
/// takes them on the way; `shift` is a number near each channel's mean, `[k]`, f32.
///
/// # Errors
/// As [`super::fused::fprop_statistics`].
pub fn conv3d_summed(
    t: &Tape,
    x: &Var,
    w: &Var,
    g: &Geometry,
    shift: &Tensor,
    groups: usize,
) -> Result<(Var, Option<Sums>)> {
    match fprop_summed(x.value(), w.value(), g, shift, groups)? {
        None => Ok((conv3d(t, x, w, g)?, None)),
        Some((y, sums)) => {
            let y = t.record(y, &[x, w], || Fprop { x: x.clone(), w: w.clone(), g: *g });
            Ok((y, Some(sums)))
        }
    }
}

/// A convolution of the result of `layer`, which nothing stores.
struct After {
    layer: Deferred,
    w: Var,
    g: Geometry,
}

impl Op for After {
    fn name(&self) -> &'static str {
        "conv3d after batch_norm"
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        if !t.is_recording()
            && let Some(grads) = self.chained(t, dy.value(), needs)?
        {
            return Ok(grads);
        }
        let (layer, y) = (self.layer.op(), self.layer.apply(t)?);
        let mut grads = vec![None; 3];
        if needs[..3].contains(&true) {
            grads = layer.backward(t, &dgrad_recorded(t, dy, &self.w, y.shape(), &self.g)?, &needs[..3])?;
        }
        grads.push(needs[3].then(|| wgrad_recorded(t, &y, dy, self.w.shape(), &self.g)).transpose()?);
        Ok(grads)
    }
}

impl After {
    /// The gradients, past the rectifier at once and without the layer's result. `None` where that cannot be.
    fn chained(&self, t: &Tape, dy: &Tensor, needs: &[bool]) -> Result<Option<Vec<Option<Var>>>> {
        let (layer, [x, ..]) = (self.layer.op(), self.layer.inputs());
        let Some(before) = layer.before(None, None, dy.dtype()) else { return Ok(None) };
        let mut grads = vec![None; 3];
        if needs[..3].contains(&true) {
            let Some((dz, sums)) = dgrad_chain(dy, self.w.value(), &self.g, &before)? else { return Ok(None) };
            grads = layer.backward(t, &Var::noted(dz, PastRelu { sums }), &needs[..3])?;
        }
        let dw = || wgrad_normed(x.value(), &self.layer.norm(), dy, self.w.shape(), &self.g);
        let dw = if needs[3] { dw()? } else { None };
        if needs[3] && dw.is_none() {
            return Ok(None);
        }
        grads.push(dw.map(Var::constant));
        Ok(Some(grads))
    }
}

/// The convolution of a batch norm's result that is yet to be computed. On the CPU the tape holds the batch norm's input
/// alone, and tiles never store the result; on a GPU, and where `gamma` or `beta` is not f32, it is computed first. `summed`: the
/// sums of a following batch norm too, as [`conv3d_summed`] takes them, by a number near each channel's mean and how many parts.
///
/// # Errors
/// As [`conv3d_summed`], and [`Deferred::apply`].
pub fn conv3d_after(
    t: &Tape,
    layer: &Deferred,
    w: &Var,
    g: &Geometry,
    summed: Option<(&Tensor, usize)>,
) -> Result<(Var, Option<Sums>)> {
    let [x, gamma, beta] = layer.inputs();
    // Where the backward pass will go past the rectifier at once.
    if layer.op().before(None, None, x.value().dtype()).is_some()
        && let Some((y, sums)) = fprop_after(x.value(), &layer.norm(), w.value(), g, summed.map(|(_, parts)| parts))?
    {
        let op = || After { layer: layer.clone(), w: w.clone(), g: *g };
        return Ok((t.record(y, &[x, gamma, beta, w], op), sums));
    }
    let x = layer.apply(t)?;
    match summed {
        Some((near, groups)) => conv3d_summed(t, &x, w, g, near, groups),
        None => Ok((conv3d(t, &x, w, g)?, None)),
    }
}

struct Dgrad {
    dy: Var,
    w: Var,
    g: Geometry,
}

impl Op for Dgrad {
    fn name(&self) -> &'static str {
        "conv3d dgrad"
    }

    /// `d` is the gradient for `dx`, so it has the shape of `x`.
    fn backward(&self, t: &Tape, d: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![
            needs[0].then(|| conv3d(t, d, &self.w, &self.g)).transpose()?,
            needs[1].then(|| wgrad_recorded(t, d, &self.dy, self.w.shape(), &self.g)).transpose()?,
        ])
    }
}

/// The gradient of [`conv3d`] for an `x` of shape `x_shape`, recorded: also what a transposed convolution computes.
///
/// # Errors
/// As [`super::dgrad`].
pub fn dgrad_recorded(t: &Tape, dy: &Var, w: &Var, x_shape: Shape, g: &Geometry) -> Result<Var> {
    let dx = dgrad(dy.value(), w.value(), x_shape, g)?;
    Ok(t.record(dx, &[dy, w], || Dgrad { dy: dy.clone(), w: w.clone(), g: *g }))
}

struct Wgrad {
    x: Var,
    dy: Var,
    g: Geometry,
}

impl Op for Wgrad {
    fn name(&self) -> &'static str {
        "conv3d wgrad"
    }

    /// `d` is the gradient for `dw`, so it has the shape of `w`.
    fn backward(&self, t: &Tape, d: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![
            needs[0].then(|| dgrad_recorded(t, &self.dy, d, self.x.shape(), &self.g)).transpose()?,
            needs[1].then(|| conv3d(t, &self.x, d, &self.g)).transpose()?,
        ])
    }
}

/// The gradient of [`conv3d`] for filters of shape `w_shape`, recorded.
///
/// # Errors
/// As [`super::wgrad`].
pub fn wgrad_recorded(t: &Tape, x: &Var, dy: &Var, w_shape: Shape, g: &Geometry) -> Result<Var> {
    let dw = wgrad(x.value(), dy.value(), w_shape, g)?;
    Ok(t.record(dw, &[x, dy], || Wgrad { x: x.clone(), dy: dy.clone(), g: *g }))
}
