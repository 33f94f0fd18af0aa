//! Convolution on the tape. It is bilinear, so the gradients of each pass are the other two.

use super::fusion::{self, GradEpilogue, Prologue};
use super::{Geometry, dgrad, fprop, wgrad};
use crate::error::Result;
use crate::ops::batch_norm::{Incoming, Unformed};
use crate::ops::convert;
use crate::shape::Shape;
use crate::tape::{Op, Tape, Var};
use crate::tensor::Tensor;
use std::any::Any;
use std::cell::RefCell;

struct Fprop {
    x: Var,
    w: Var,
    g: Geometry,
    /// The copy of `x` that fprop read, where wgrad can read it too. If `x` is of f32 and the filters are not, that is `x`
    /// rounded to their type.
    kept: Option<Tensor>,
    /// What the incoming gradient is to be formed with.
    unformed: RefCell<Option<Unformed>>,
}

impl Op for Fprop {
    fn name(&self) -> &'static str {
        "conv3d"
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        let unformed = self.unformed.take();
        let (dx, dy) = dgrad_formed(t, dy, unformed.as_ref(), &self.w, self.x.shape(), &self.g, needs[0])?;
        Ok(vec![dx, needs[1].then(|| self.dw(t, &dy)).transpose()?])
    }

    fn takes(&self, of: &dyn Any) -> bool {
        let of = of.downcast_ref::<Unformed>();
        let of = of.filter(|of| fusion::forms_on_load(of, self.w.value(), self.x.shape(), &self.g));
        of.is_some_and(|of| self.unformed.replace(Some(of.clone())).is_none())
    }
}

/// The gradient by the input, if it is needed, and that by the result: `dy`, or what is formed of it and `unformed`, which is
/// not recorded.
pub(in crate::ops) fn dgrad_formed(
    t: &Tape,
    dy: &Var,
    unformed: Option<&Unformed>,
    w: &Var,
    x_shape: Shape,
    g: &Geometry,
    needed: bool,
) -> Result<(Option<Var>, Var)> {
    let Some(of) = unformed else {
        return Ok((needed.then(|| dgrad_recorded(t, dy, w, x_shape, g)).transpose()?, dy.clone()));
    };
    if !needed {
        return Ok((None, Var::constant(of.form(dy.value())?)));
    }
    let (dx, dy) = fusion::dgrad_formed(dy.value(), Some(of), w.value(), x_shape, g, GradEpilogue::None)?;
    let (Incoming::Result(dx) | Incoming::PastRelu { dz: dx, .. }) = dx;
    Ok((Some(Var::constant(dx)), Var::constant(dy)))
}

impl Fprop {
    fn dw(&self, t: &Tape, dy: &Var) -> Result<Var> {
        if self.x.value().dtype() != self.w.value().dtype()
            && let Some(kept) = &self.kept
        {
            let (x, w) = (self.x.shape(), self.w.shape());
            let dw = if t.is_recording() { None } else { fusion::wgrad_rounded(x, kept, dy.value(), w, &self.g)? };
            return match dw {
                Some(dw) => Ok(Var::constant(dw)),
                None => wgrad_recorded(t, &convert::cast(t, &self.x, dy.value().dtype())?, dy, w, &self.g),
            };
        }
        let Some(kept) = self.kept.as_ref().filter(|_| !t.is_recording()) else {
            return wgrad_recorded(t, &self.x, dy, self.w.shape(), &self.g);
        };
        let (x, dy) = (self.x.value(), dy.value());
        fusion::wgrad_of_kept(x, Some(kept), dy, self.w.shape(), &self.g, Prologue::None).map(Var::constant)
    }
}

/// `x` (`n t h w c`) convolved with `w` (`k kt kh kw c/groups`): `n to ho wo k`, in the data type of `x`.
///
/// # Errors
/// As [`super::fprop`].
pub fn conv3d(t: &Tape, x: &Var, w: &Var, g: &Geometry) -> Result<Var> {
    Ok(recorded(t, fprop(x.value(), w.value(), g)?, x, w, g, None))
}

/// Records the result `y` of a convolution, with the copy of `x` that [`fusion::fprop_keeping`] returned.
pub(in crate::ops) fn recorded(t: &Tape, y: Tensor, x: &Var, w: &Var, g: &Geometry, kept: Option<Tensor>) -> Var {
    t.record(y, &[x, w], || Fprop { x: x.clone(), w: w.clone(), g: *g, kept, unformed: RefCell::default() })
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

    /// `d` is the gradient by `dx`, so it has the shape of `x`.
    fn backward(&self, t: &Tape, d: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![
            needs[0].then(|| conv3d(t, d, &self.w, &self.g)).transpose()?,
            needs[1].then(|| wgrad_recorded(t, d, &self.dy, self.w.shape(), &self.g)).transpose()?,
        ])
    }
}

/// The gradient of [`conv3d`] by an `x` of shape `x_shape`, recorded. This is also a transposed convolution.
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

    /// `d` is the gradient by `dw`, so it has the shape of `w`.
    fn backward(&self, t: &Tape, d: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        Ok(vec![
            needs[0].then(|| dgrad_recorded(t, &self.dy, d, self.x.shape(), &self.g)).transpose()?,
            needs[1].then(|| conv3d(t, &self.x, d, &self.g)).transpose()?,
        ])
    }
}

/// The gradient of [`conv3d`] by filters of shape `w_shape`, recorded.
///
/// # Errors
/// As [`super::wgrad`].
pub fn wgrad_recorded(t: &Tape, x: &Var, dy: &Var, w_shape: Shape, g: &Geometry) -> Result<Var> {
    let dw = wgrad(x.value(), dy.value(), w_shape, g)?;
    Ok(t.record(dw, &[x, dy], || Wgrad { x: x.clone(), dy: dy.clone(), g: *g }))
}
