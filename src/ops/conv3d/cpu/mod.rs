//! The CPU path: direct convolution, with no array of gathered patches.
//!
//! One kernel ([`kernel::Gather`]) multiplies rows that lie where they lie with filters packed once per call; it serves
//! fprop and, with the filters turned, dgrad. Another ([`kernel::Correlate`]) serves wgrad. [`plan`] says which rows.

#[cfg(target_arch = "x86_64")]
mod amx;
mod correlate;
mod epilogue;
mod gather;
mod kernel;
mod panels;
mod plan;
mod slide;
mod transpose;

use super::Conv3d;
use super::fused::Before;
use crate::cpu::{Isa, simd};
use crate::error::Result;
use crate::ops::batch_norm::lines::{Affine, Mask};
use crate::ops::batch_norm::{Layer, Sums};
use crate::ops::lanes::Stored;
use crate::tensor::{Buffer, DType, Tensor};
#[cfg(target_arch = "x86_64")]
use amx::{Input, Number, choice::Pass, correlate_operands::Numbers};
use epilogue::{Chain, Epilogue};
#[cfg(target_arch = "x86_64")]
use half::bf16;
use kernel::Kernels;
use panels::{Panels, Strides};
use plan::Plan;

/// The kernels of an instruction set. Tiles know no f32, so beside them vectors do it.
fn kernels(isa: Isa) -> &'static Kernels {
    match isa.or_less() {
        Isa::Portable => &kernel::PLAIN,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &kernel::AVX2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => &kernel::AVX512,
        #[cfg(not(target_arch = "x86_64"))]
        _ => &kernel::PLAIN,
    }
}

/// `y` in the number type of `x`; bf16 is widened.
pub(super) fn fprop(isa: Isa, p: &Conv3d, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    #[cfg(target_arch = "x86_64")]
    if let Some(planes) = amx::choice::parts(isa, p, Pass::Fprop, [x, w]) {
        return match x.dtype() {
            DType::F32 => amx::fprop::<f32>(p, planes, Input::of(x), w, &mut Epilogue::none()),
            DType::BF16 => amx::fprop::<bf16>(p, planes, Input::of(x), w, &mut Epilogue::none()),
        };
    }
    let k = kernels(isa);
    let (xs, ws) = (x.host()?, w.host()?);
    let y = Tensor::try_build(p.y_shape(), |y| fprop_f32(k, p, &xs, &ws, y, &mut Epilogue::none()))?;
    y.cast(x.dtype())
}

/// [`fprop`], and sums over each of `parts` parts of the samples about `shift`, or about what was found to be the mean.
/// `None` for bf16 without tiles, which is rounded in a pass of its own.
pub(super) fn fprop_statistics(
    isa: Isa,
    p: &Conv3d,
    [x, w]: [&Tensor; 2],
    shift: Option<&Tensor>,
    parts: usize,
) -> Result<Option<(Tensor, Sums)>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(planes) = amx::choice::parts(isa, p, Pass::Fprop, [x, w]) {
        return match x.dtype() {
            DType::F32 => summed(p, shift, parts, |e: &mut Epilogue<f32>| amx::fprop(p, planes, Input::of(x), w, e)),
            DType::BF16 => summed(p, shift, parts, |e: &mut Epilogue<bf16>| amx::fprop(p, planes, Input::of(x), w, e)),
        }
        .map(Some);
    }
    if x.dtype() != DType::F32 {
        return Ok(None);
    }
    let (xs, ws) = (x.host()?, w.host()?);
    summed(p, shift, parts, |epilogue| {
        Tensor::try_build(p.y_shape(), |y| fprop_f32(kernels(isa), p, &xs, &ws, y, epilogue))
    })
    .map(Some)
}

/// [`fprop`] of the rectified result of a layer on `x`, and sums over each of `parts` parts of the samples where they are
/// asked for and [taken](fprop_statistics). Tiles read copies in the cache, which are made of the result; vectors read
/// where it lies, so it is computed first, and dropped.
pub(super) fn fprop_normed(
    isa: Isa,
    p: &Conv3d,
    [x, w]: [&Tensor; 2],
    layer: &Layer,
    parts: Option<usize>,
) -> Result<(Tensor, Option<Sums>)> {
    #[cfg(target_arch = "x86_64")]
    if let Some(planes) = amx::choice::parts(isa, p, Pass::Fprop, [x, w]) {
        return match x.dtype() {
            DType::F32 => normed_in_tiles::<f32>(p, planes, Input::after(layer, x), w, parts),
            DType::BF16 => normed_in_tiles::<bf16>(p, planes, Input::after(layer, x), w, parts),
        };
    }
    let x = layer.rectified(x)?;
    let summed = parts.map(|parts| fprop_statistics(isa, p, [&x, w], None, parts)).transpose()?.flatten();
    match summed {
        Some((y, sums)) => Ok((y, Some(sums))),
        None => Ok((fprop(isa, p, &x, w)?, None)),
    }
}

#[cfg(target_arch = "x86_64")]
fn normed_in_tiles<S: Number>(
    p: &Conv3d,
    planes: usize,
    x: Input<S>,
    w: &Tensor,
    parts: Option<usize>,
) -> Result<(Tensor, Option<Sums>)> {
    let Some(parts) = parts else { return Ok((amx::fprop(p, planes, x, w, &mut Epilogue::none())?, None)) };
    let (y, sums) = summed(p, None, parts, |e: &mut Epilogue<S>| amx::fprop(p, planes, x, w, e))?;
    Ok((y, Some(sums)))
}

fn summed<T: Stored>(
    p: &Conv3d,
    shift: Option<&Tensor>,
    parts: usize,
    fprop: impl FnOnce(&mut Epilogue<T>) -> Result<Tensor>,
) -> Result<(Tensor, Sums)> {
    let mut epilogue = Epilogue::statistics(p, parts);
    let y = fprop(&mut epilogue)?;
    let shift = shift.cloned().map_or_else(|| epilogue.near(), Ok)?;
    let sums = epilogue.about(&shift.host()?)?;
    Ok((y, Sums { shift, sums }))
}

/// `dx` in the number type of `dy`; bf16 is widened.
pub(super) fn dgrad(isa: Isa, p: &Conv3d, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    #[cfg(target_arch = "x86_64")]
    if let Some(planes) = amx::choice::parts(isa, p, Pass::Dgrad, [dy, w]) {
        return match dy.dtype() {
            DType::F32 => amx::dgrad::<f32>(p, planes, dy, w, &mut Epilogue::none()),
            DType::BF16 => amx::dgrad::<bf16>(p, planes, dy, w, &mut Epilogue::none()),
        };
    }
    let k = kernels(isa);
    let (dys, ws) = (dy.host()?, w.host()?);
    let dx = Tensor::try_build(p.x_shape(), |dx| dgrad_f32(k, p, &dys, &ws, dx, &mut Epilogue::none()))?;
    dx.cast(dy.dtype())
}

/// [`dgrad`] with `before.so_far` added, past the rectifier, and `Σ dz` and `Σ dz · (normed - mean) · inv_std`, `[parts 2 c]`.
/// The tensors of `before` have the type of `dy`, its arrays are f32.
pub(super) fn dgrad_chain(
    isa: Isa,
    p: &Conv3d,
    [dy, w]: [&Tensor; 2],
    before: &Before,
    parts: usize,
) -> Result<(Tensor, Tensor)> {
    #[cfg(target_arch = "x86_64")]
    if let Some(planes) = amx::choice::parts(isa, p, Pass::Dgrad, [dy, w]) {
        return match dy.dtype() {
            DType::F32 => chained(p, before, parts, |e: &mut Epilogue<f32>| amx::dgrad(p, planes, dy, w, e)),
            DType::BF16 => chained(p, before, parts, |e: &mut Epilogue<bf16>| amx::dgrad(p, planes, dy, w, e)),
        };
    }
    match dy.dtype() {
        DType::F32 => chained(p, before, parts, |epilogue| {
            let (dys, ws) = (dy.host()?, w.host()?);
            Tensor::try_build(p.x_shape(), |dx| dgrad_f32(kernels(isa), p, &dys, &ws, dx, epilogue))
        }),
        DType::BF16 => chained(p, before, parts, |epilogue| {
            let mut dx = dgrad(isa, p, dy, w)?;
            epilogue.whole(dx.bf16_mut()?);
            Ok(dx)
        }),
    }
}

fn chained<T: Stored>(
    p: &Conv3d,
    before: &Before,
    parts: usize,
    dgrad: impl FnOnce(&mut Epilogue<T>) -> Result<Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (mean, inv_std) = (before.mean.host()?, before.inv_std.host()?);
    let again = before.again.map(|[gamma, beta]| -> Result<_> { Ok((gamma.host()?, beta.host()?)) }).transpose()?;
    let scale: Vec<f32> = match &again {
        Some((gamma, _)) => inv_std.iter().zip(gamma.iter().cycle()).map(|(r, g)| r * g).collect(),
        None => Vec::new(),
    };
    let shift = again.as_ref().map_or(&[][..], |(_, beta)| beta);
    let chain = Chain {
        so_far: before.so_far.map(T::of),
        mask: match before.relu {
            Some(relu) if again.is_none() => Mask::Result(T::of(relu)),
            _ => Mask::Recomputed,
        },
        normed: T::of(before.normed),
        affine: Affine { mean: &mean, scale: &scale, shift },
    };
    let mut epilogue = Epilogue::chain(p, chain, parts);
    let dz = dgrad(&mut epilogue)?;
    Ok((dz, epilogue.sums(&inv_std)?))
}

/// `dw`, f32, where the convolution read `x`, or the result of a layer on it.
pub(super) fn wgrad(isa: Isa, p: &Conv3d, x: &Tensor, layer: Option<&Layer>, dy: &Tensor) -> Result<Tensor> {
    #[cfg(target_arch = "x86_64")]
    if let Some(parts) = amx::choice::parts(isa, p, Pass::Wgrad, [x, dy]) {
        let applied =
            layer.filter(|_| !amx::correlate::applies(p, parts)).map(|layer| layer.rectified(x)).transpose()?;
        let layer = if applied.is_some() { None } else { layer };
        let [x, dy] = [applied.as_ref().unwrap_or(x), dy].map(|operand| Numbers::of(operand, parts));
        // SAFETY: the instructions are there, and the operands were checked to be of `p`.
        return Tensor::try_build(p.w_shape(), |dw| unsafe { amx::correlate::run(p, x, layer, dy, dw) });
    }
    let applied = layer.map(|layer| layer.rectified(x)).transpose()?;
    let (xs, dys) = (applied.as_ref().unwrap_or(x).host()?, dy.host()?);
    Tensor::try_build(p.w_shape(), |dw| wgrad_f32(kernels(isa), p, &xs, &dys, dw))
}

fn fprop_f32(k: &Kernels, p: &Conv3d, x: &[f32], w: &[f32], y: &mut [f32], epilogue: &mut Epilogue<f32>) -> Result<()> {
    if p.is_empty() {
        y.fill(0.0);
        epilogue.whole(y);
        return Ok(());
    }
    let (plan, own) = Plan::fprop(p, x)?;
    let x = own.as_ref().map_or(x, Buffer::as_slice);
    let filter = p.taps() * p.c_group();
    let strides = Strides { group: p.k_group() * filter, channel: filter, tap: plan.run, run: 1 };
    let panels = Panels::pack(k, &plan, w, p.geometry.groups, p.k_group(), strides)?;
    products(k, &plan, &panels, x, y, epilogue);
    Ok(())
}

fn products(k: &Kernels, plan: &Plan, panels: &Panels, input: &[f32], out: &mut [f32], epilogue: &mut Epilogue<f32>) {
    if plan.slides() {
        slide::run(k, plan, panels, input, out, epilogue);
    } else {
        gather::run(k, plan, panels, input, out, epilogue);
    }
}

/// The classes of remainders of the inputs by the stride.
fn rests(p: &Conv3d) -> Vec<[usize; 3]> {
    let [st, sh, sw] = p.geometry.window.stride;
    let [t, h, width] = p.input;
    let mut rests = Vec::new();
    for a in 0..st.min(t) {
        for b in 0..sh.min(h) {
            rests.extend((0..sw.min(width)).map(|d| [a, b, d]));
        }
    }
    rests
}

fn dgrad_f32(
    k: &Kernels,
    p: &Conv3d,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    epilogue: &mut Epilogue<f32>,
) -> Result<()> {
    if p.is_empty() {
        dx.fill(0.0);
        epilogue.whole(dx);
        return Ok(());
    }
    let rests = rests(p);
    let plans: Vec<Plan> = rests.iter().filter_map(|&rest| Plan::dgrad(p, rest)).collect();
    let all = plans.len() == rests.len();
    if !all {
        dx.fill(0.0); // no tap reaches some classes
    }
    let mut none = Epilogue::none();
    let (epilogue, after) = if all { (epilogue, None) } else { (&mut none, Some(epilogue)) };
    let (cg, filter) = (p.c_group(), p.taps() * p.c_group());
    for plan in &plans {
        let strides = Strides { group: p.k_group() * filter, channel: 1, tap: cg, run: filter };
        let panels = Panels::pack(k, plan, w, p.geometry.groups, cg, strides)?;
        products(k, plan, &panels, dy, dx, epilogue);
    }
    if let Some(epilogue) = after {
        epilogue.whole(dx); // those classes too
    }
    Ok(())
}

fn wgrad_f32(k: &Kernels, p: &Conv3d, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    if p.is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    let (plan, own) = Plan::wgrad(p, x)?;
    let x = own.as_ref().map_or(x, Buffer::as_slice);
    correlate::run(k, &plan, x, dy, p.geometry.groups, p.k_group(), dw)
}
