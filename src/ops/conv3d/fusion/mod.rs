//! Fusion of a convolution with its neighbours, described by plain values: the contract between networks and devices.
//!
//! | pass | prologue | mainloop | epilogue |
//! |---|---|---|---|
//! | [`fprop`] | nothing; normalise and ReLU what it reads | products of `x` and `w` | nothing; [`Moments`] of the result |
//! | [`dgrad`] | nothing; form the gradient of the batch norm behind it | products of `dy` and `w` | nothing; add; add, ReLU's mask, and the two sums of the batch norm before it |
//! | [`wgrad`] | nothing; normalise and ReLU what it reads | products of `x` and `dy` | nothing |
//!
//! Each device fuses what it can, and this file composes the rest from separate passes. A prologue gives the bits of the
//! separate passes; sums taken in an epilogue are rounded differently from those of a separate pass. Fused are
//!
//! - on the CPU: everything but an addition alone, with two exceptions. A prologue is fused only on AMX tiles, which
//!   read packed copies of `x` that are normalised while they are made. (The vector engine reads `x` in place, so the
//!   normalised `x` is computed before and freed afterwards.) The mask and the sums of a dgrad with a residue class
//!   without a tap are taken in a separate pass.
//! - on a GPU: moments, for bf16 without groups; dgrad's mask and sums, and an addition with them, for bf16 without groups
//!   and a multiple of eight channels. On compute capability 9.0 also the prologue, for bf16 without groups, filters of one
//!   tap, strides of 1, no padding and a multiple of eight channels, wherever the pass without prologue takes a tile of the
//!   kernels with TMA and wgmma. In fprop there are at most 1024 channels, and the norm has statistics of one part of the
//!   samples, or of the parts whose moments are taken. In wgrad a part has a multiple of 64 pixels, or there is one. dgrad of
//!   the same convolutions, with a multiple of eight filters, forms the gradient of the batch norm behind it, and leaves it for
//!   wgrad. The batch norm hands it over in parts where that is the only operation which reads it (`tape::Share::hand`).

pub(super) mod contract;

pub use contract::{Epilogue, GradEpilogue, Prologue};

use super::{Conv3d, Geometry, Operator, check_dy, cpu, cuda};
use crate::cpu::Isa;
use crate::driver::Gpu;
use crate::error::{Error, Result};
use crate::ops::arith::{self, Arith};
use crate::ops::batch_norm::{Incoming, Moments, Norm, ReluMask, Signs, Unformed};
use crate::shape::Shape;
use crate::tensor::{DType, Device, Place, Tensor};

/// [`super::fprop`] with a prologue and an epilogue: `y`, and its moments if requested.
///
/// # Errors
/// As [`super::fprop`]; `Shape` when the arrays of the prologue do not fit `x`, or `near` is not `[k]`; `Param` when
/// the parts of either do not divide the samples.
pub fn fprop(
    x: &Tensor,
    w: &Tensor,
    g: &Geometry,
    prologue: Prologue,
    epilogue: Epilogue,
) -> Result<(Tensor, Option<Moments>)> {
    let (y, moments, _) = fprop_keeping(x, w, g, prologue, epilogue, false)?;
    Ok((y, moments))
}

/// [`fprop`], which also returns, if `keep`, the copy of `x` with padded channels that a GPU made for a stem:
/// [`wgrad_of_kept`] reads it.
pub(in crate::ops) fn fprop_keeping(
    x: &Tensor,
    w: &Tensor,
    g: &Geometry,
    prologue: Prologue,
    epilogue: Epilogue,
    keep: bool,
) -> Result<(Tensor, Option<Moments>, Option<Tensor>)> {
    let op = "conv3d";
    let p = Conv3d::new(op, x.shape(), w.shape(), g)?;
    prologue.check(x)?;
    let mut others = vec![("w", w)];
    if let Epilogue::Moments { parts, near } = epilogue {
        if parts == 0 || !p.n.is_multiple_of(parts) {
            return Err(Error::param(op, "parts", parts, format!("it must divide the {} samples", p.n)));
        }
        near.expect(op, "near", DType::F32)?;
        if near.dims() != [p.k] {
            return Err(Error::shape(op, "near", format!("[{}]", p.k), near.shape()));
        }
        others.push(("near", near));
    }
    let Place::Gpu(gpu) = x.place(op, &others)? else {
        let (y, moments) = cpu::fprop(Isa::best(), &p, [x, w], prologue, epilogue)?;
        return Ok((y, moments, None));
    };
    if let Prologue::NormRelu(norm) = prologue
        && let (near, sums) = epilogue.near()
        && let Some(plan) = on_load(gpu, &p, Operator::Fprop, [x, w], norm, sums)?
    {
        let (y, sums) = cuda::fprop_normed(gpu, &p, plan, [x, w], norm, near)?;
        let moments = near.zip(sums).map(|(near, sums)| Moments::about(near.clone(), sums)).transpose()?;
        return Ok((y, moments, None));
    }
    let normed = prologue.apply(x)?;
    let x = normed.as_ref().unwrap_or(x);
    match epilogue {
        Epilogue::None => Ok((cuda::fprop(gpu, &p, x, w, None)?, None, None)),
        Epilogue::Moments { parts, near } if on_tensor_cores(&p, [x, w]) => {
            let kept = if keep { cuda::padded_stem(gpu, &p, x)? } else { None };
            let (y, sums) = cuda::fprop_moments(gpu, &p, [x, w, near], kept.as_ref(), parts)?;
            Ok((y, Some(Moments::about(near.clone(), sums)?), kept))
        }
        Epilogue::Moments { parts, .. } => {
            let y = cuda::fprop(gpu, &p, x, w, None)?;
            let moments = Moments::of(&y, parts)?;
            Ok((y, Some(moments), None))
        }
    }
}

/// Whether it can be left to convolutions of `x` to round it to bf16: on a GPU with kernels that read stems in a form of
/// their own. [`fprop_rounding`] does so where a given one has them.
pub(in crate::ops) fn may_round(x: &Tensor) -> bool {
    matches!(x.device(), Device::Cuda(gpu) if cuda::may_round(&gpu, x))
}

/// [`fprop`] of an `x` of f32 that the device rounds to bf16 while it is brought into the form that its kernels read; and
/// that form, for [`wgrad_rounded`]. `None` where there is none for this convolution.
pub(in crate::ops) fn fprop_rounding(
    [x, w]: [&Tensor; 2],
    g: &Geometry,
    epilogue: Epilogue,
) -> Result<Option<(Tensor, Moments, Tensor)>> {
    let Epilogue::Moments { parts, near } = epilogue else { return Ok(None) };
    let p = Conv3d::new("conv3d", x.shape(), w.shape(), g)?;
    let divided = parts > 0 && p.n.is_multiple_of(parts) && near.dims() == [p.k] && near.dtype() == DType::F32;
    let Place::Gpu(gpu) = x.place("conv3d", &[("w", w), ("near", near)])? else { return Ok(None) };
    if !divided || !on_tensor_cores(&p, [w, w]) {
        return Ok(None); // fprop says what is wrong
    }
    let Some(packed) = cuda::rounded_stem(gpu, &p, x, parts)? else { return Ok(None) };
    let (y, sums) = cuda::fprop_moments(gpu, &p, [&packed, w, near], Some(&packed), parts)?;
    Ok(Some((y, Moments::about(near.clone(), sums)?, packed)))
}

/// [`super::wgrad`] of the form of `x` that [`fprop_rounding`] returned; `x` is of this shape.
pub(in crate::ops) fn wgrad_rounded(
    x_shape: Shape,
    packed: &Tensor,
    dy: &Tensor,
    w_shape: Shape,
    g: &Geometry,
) -> Result<Option<Tensor>> {
    let p = Conv3d::new("conv3d wgrad", x_shape, w_shape, g)?;
    check_dy("conv3d wgrad", &p, dy)?;
    match packed.place("conv3d wgrad", &[("dy", dy)])? {
        Place::Gpu(gpu) if dy.dtype() == DType::BF16 => cuda::wgrad_rounded(gpu, &p, packed, dy).map(Some),
        _ => Ok(None),
    }
}

/// [`super::dgrad`] with an epilogue: the gradient by the convolution's input, or the masked gradient before its ReLU.
///
/// # Errors
/// As [`super::dgrad`]; `Shape` when the tensors of the epilogue do not fit the input; `Device` when they are on
/// another device.
pub fn dgrad(dy: &Tensor, w: &Tensor, x_shape: Shape, g: &Geometry, epilogue: GradEpilogue) -> Result<Incoming> {
    Ok(dgrad_formed(dy, None, w, x_shape, g, epilogue)?.0)
}

/// [`dgrad`] of `dy`, or of the gradient that is formed of it and `unformed`, and that gradient.
pub(in crate::ops) fn dgrad_formed(
    dy: &Tensor,
    unformed: Option<&Unformed>,
    w: &Tensor,
    x_shape: Shape,
    g: &Geometry,
    epilogue: GradEpilogue,
) -> Result<(Incoming, Tensor)> {
    let op = "conv3d dgrad";
    let p = Conv3d::new(op, x_shape, w.shape(), g)?;
    check_dy(op, &p, dy)?;
    let (x, norm, relu, signs, add) = match epilogue {
        GradEpilogue::None => (None, None, ReluMask::None, None, None),
        GradEpilogue::Add(add) => (None, None, ReluMask::None, None, Some(add)),
        GradEpilogue::NormRelu { x, norm, relu, signs, add } => (Some(x), Some(norm), relu, signs, add),
    };
    if let Some(signs) = signs.filter(|signs| signs.shape() != p.x_shape()) {
        return Err(Error::shape(op, "signs", p.x_shape(), signs.shape()));
    }
    let like_input: Vec<_> =
        [("x", x), ("relu", relu.result()), ("add", add)].into_iter().filter_map(|(arg, t)| Some((arg, t?))).collect();
    if let Some((arg, t)) = like_input.iter().find(|(_, t)| t.shape() != p.x_shape()) {
        return Err(Error::shape(op, arg, p.x_shape(), t.shape()));
    }
    let mut others = vec![("w", w)];
    others.extend(&like_input);
    if let Some(norm) = norm {
        norm.rows(p.x_shape())?;
        others.extend(norm.arrays());
    }
    let place = dy.place(op, &others)?;
    let alike = like_input.iter().all(|(_, t)| t.dtype() == dy.dtype());
    let in_epilogue = norm.filter(|_| alike && !matches!(relu, ReluMask::None));
    let plan = match (&place, unformed) {
        (Place::Gpu(gpu), Some(of)) if on_tensor_cores(&p, [dy, w]) => cuda::forming(gpu, &p, of, in_epilogue)?,
        _ => None,
    };
    if let (Place::Gpu(gpu), Some(of), Some(plan)) = (&place, unformed, plan) {
        signs.map_or(Ok(()), |signs| signs.check_on(op, gpu))?;
        let signs = match relu.result().filter(|_| in_epilogue.is_some()) {
            Some(y) => Some(signs.cloned().map_or_else(|| Signs::of(y), Ok)?),
            None => None,
        };
        let epilogue = x.zip(in_epilogue).map(|(x, norm)| (x, signs.as_ref(), add, norm));
        let (dx, sums, formed) = cuda::dgrad_on(gpu, &p, plan, [dy, w], Some(of), epilogue)?;
        let formed = formed.expect("the plan forms it");
        let incoming = match (sums, add) {
            (Some(sums), _) => Incoming::PastRelu { dz: dx, sums },
            (None, Some(add)) => Incoming::Result(arith::forward(Arith::Add, add, &dx)?),
            (None, None) => Incoming::Result(dx),
        };
        return Ok((incoming, formed));
    }
    let formed = unformed.map(|of| of.form(dy)).transpose()?.unwrap_or_else(|| dy.clone());
    let dy = &formed;
    if let Some((x, norm)) = x.zip(norm).filter(|_| alike) {
        match (place, relu) {
            (Place::Cpu, _) => {
                return Ok((cpu::dgrad_norm_relu(Isa::best(), &p, [dy, w], x, add, norm, relu)?, formed));
            }
            (Place::Gpu(gpu), ReluMask::FromInput | ReluMask::FromResult(_))
                if p.c.is_multiple_of(8) && on_tensor_cores(&p, [dy, w]) =>
            {
                signs.map_or(Ok(()), |signs| signs.check_on(op, gpu))?;
                let signs = relu.result().map(|y| signs.cloned().map_or_else(|| Signs::of(y), Ok)).transpose()?;
                let (dz, sums) = cuda::dgrad_norm_relu(gpu, &p, [dy, w, x], signs.as_ref(), add, norm)?;
                return Ok((Incoming::PastRelu { dz, sums }, formed));
            }
            _ => {}
        }
    }
    let dx = super::dgrad(dy, w, x_shape, g)?;
    let dx = match add {
        Some(add) => arith::forward(Arith::Add, add, &dx)?,
        None => dx,
    };
    Ok((Incoming::Result(dx), formed))
}

/// Whether dgrad of the convolution forms its gradient as it loads it, where its epilogue lets it.
pub(in crate::ops) fn forms_on_load(of: &Unformed, w: &Tensor, x_shape: Shape, g: &Geometry) -> bool {
    let (Device::Cuda(gpu), Ok(p)) = (w.device(), Conv3d::new("conv3d", x_shape, w.shape(), g)) else { return false };
    on_tensor_cores(&p, [&of.x, w]) && cuda::forming(&gpu, &p, of, None).is_ok_and(|plan| plan.is_some())
}

/// [`super::wgrad`] with the prologue of the forward pass: `x` is the tensor before the prologue.
///
/// # Errors
/// As [`super::wgrad`]; `Shape` or `Param` when the arrays of the prologue do not fit `x`.
pub fn wgrad(x: &Tensor, dy: &Tensor, w_shape: Shape, g: &Geometry, prologue: Prologue) -> Result<Tensor> {
    wgrad_of_kept(x, None, dy, w_shape, g, prologue)
}

/// [`wgrad`], where `kept` is the copy of `x` that [`fprop_keeping`] returned.
pub(in crate::ops) fn wgrad_of_kept(
    x: &Tensor,
    kept: Option<&Tensor>,
    dy: &Tensor,
    w_shape: Shape,
    g: &Geometry,
    prologue: Prologue,
) -> Result<Tensor> {
    let op = "conv3d wgrad";
    let p = Conv3d::new(op, x.shape(), w_shape, g)?;
    prologue.check(x)?;
    check_dy(op, &p, dy)?;
    match x.place(op, &[("dy", dy)])? {
        Place::Cpu => cpu::wgrad(Isa::best(), &p, x, prologue, dy),
        Place::Gpu(gpu) => {
            if let Prologue::NormRelu(norm) = prologue
                && let Some(plan) = on_load(gpu, &p, Operator::Wgrad, [x, dy], norm, None)?
            {
                return cuda::wgrad_normed(gpu, &p, plan, [x, dy], norm);
            }
            match prologue.apply(x)? {
                Some(normed) => cuda::wgrad(gpu, &p, &normed, None, dy),
                None => cuda::wgrad(gpu, &p, x, kept, dy),
            }
        }
    }
}

/// The plan of a pass on a GPU that normalises `x` as it reads it, if there is one.
fn on_load(
    gpu: &Gpu,
    p: &Conv3d,
    pass: Operator,
    operands: [&Tensor; 2],
    norm: &Norm,
    sums: Option<usize>,
) -> Result<Option<cuda::Plan>> {
    if on_tensor_cores(p, operands) { cuda::normalising(gpu, p, pass, norm, sums) } else { Ok(None) }
}

/// Whether it can be left to convolutions of `x` to normalise it: on the CPU always, and on a GPU for a data type and channels
/// that some of its convolutions take. [`reads_before_norm`] tells whether a given one does.
pub(in crate::ops) fn may_read_before_norm(x: &Tensor) -> bool {
    match x.device() {
        Device::Cpu => true,
        Device::Cuda(gpu) => cuda::may_normalise(&gpu, x),
    }
}

/// Whether fprop with this epilogue is computed from the `x` before `norm`, without a tensor of what the norm makes of it that
/// outlives the pass: then wgrad and dgrad need none either.
///
/// # Errors
/// As [`fprop`].
pub(in crate::ops) fn reads_before_norm(
    [x, w]: [&Tensor; 2],
    g: &Geometry,
    norm: &Norm,
    epilogue: Epilogue,
) -> Result<bool> {
    let Place::Gpu(gpu) = x.place("conv3d", &[("w", w)])? else { return Ok(true) };
    let p = Conv3d::new("conv3d", x.shape(), w.shape(), g)?;
    let (_, sums) = epilogue.near();
    if sums.is_some_and(|parts| parts == 0 || !p.n.is_multiple_of(parts)) {
        return Ok(false); // fprop says so
    }
    Ok(on_load(gpu, &p, Operator::Fprop, [x, w], norm, sums)?.is_some())
}

/// Whether a GPU computes these operands on its tensor cores.
fn on_tensor_cores(p: &Conv3d, operands: [&Tensor; 2]) -> bool {
    !p.is_empty() && p.geometry.groups == 1 && operands.iter().all(|t| t.dtype() == DType::BF16)
}
