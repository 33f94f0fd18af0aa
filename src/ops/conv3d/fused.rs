//! Convolutions that also sum what the batch norm beside them needs, while the numbers are still on the chip.
//!
//! A GPU does this for bf16 without groups of channels, the CPU for what each function says; elsewhere these functions return
//! `None`, and the caller takes the separate operations. The sums are f32, taken in a fixed order over the result as it was
//! rounded.

use super::{Conv3d, Geometry, check_dy, cpu, cuda};
use crate::cpu::Isa;
use crate::error::{Error, Result};
use crate::ops::batch_norm::Sums;
use crate::shape::Shape;
use crate::tensor::{DType, Device, Place, Tensor};

/// `y` of [`super::fprop`], and `Σ (y - shift)` and `Σ (y - shift)²` per channel over each of `parts` equal contiguous
/// parts of the samples: `[parts 2 k]`. A `shift` (f32, `[k]`) near the mean keeps the variance from cancelling; zeros
/// will do for a first step. On the CPU, of f32.
///
/// # Errors
/// As [`super::fprop`]; `Shape` when `shift` is not `[k]`; `Param` when `parts` does not divide the samples.
pub fn fprop_statistics(
    x: &Tensor,
    w: &Tensor,
    g: &Geometry,
    shift: &Tensor,
    parts: usize,
) -> Result<Option<(Tensor, Tensor)>> {
    let op = "conv3d statistics";
    let p = Conv3d::new(op, x.shape(), w.shape(), g)?;
    let place = x.place(op, &[("w", w), ("shift", shift)])?;
    expect_channels(op, "shift", shift, p.k)?;
    if parts == 0 || !p.n.is_multiple_of(parts) {
        return Err(Error::param(op, "parts", parts, format!("it must divide the {} samples", p.n)));
    }
    let Place::Gpu(gpu) = place else {
        let taken = cpu::fprop_statistics(Isa::best(), &p, [x, w], Some(shift), parts);
        return Ok(taken.map(|(y, sums)| (y, sums.sums)));
    };
    if !on_tensor_cores(&p, [x, w]) {
        return Ok(None);
    }
    cuda::fprop_statistics(gpu, &p, [x, w, shift], parts).map(Some)
}

/// [`fprop_statistics`] for a batch norm: on the CPU about the mean that was found, so that nothing cancels.
pub(super) fn fprop_summed(
    x: &Tensor,
    w: &Tensor,
    g: &Geometry,
    near: &Tensor,
    parts: usize,
) -> Result<Option<(Tensor, Sums)>> {
    let p = Conv3d::new("conv3d statistics", x.shape(), w.shape(), g)?;
    let on_cpu = x.device() == Device::Cpu && w.device() == Device::Cpu;
    if on_cpu && parts > 0 && p.n.is_multiple_of(parts) {
        return Ok(cpu::fprop_statistics(Isa::best(), &p, [x, w], None, parts));
    }
    let taken = fprop_statistics(x, w, g, near, parts)?;
    Ok(taken.map(|(y, sums)| (y, Sums { shift: near.clone(), sums })))
}

/// What led to the input of a convolution: `relu = max(0, batch_norm(normed))`, whose statistics were `mean` and
/// `inv_std = 1/√(var + eps)`.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// The output of the rectifier, which is the input of the convolution.
    pub relu: &'a Tensor,
    /// The input of the batch norm, of the same shape.
    pub normed: &'a Tensor,
    /// Mean, f32, of each of some number of equal contiguous parts of the samples and each channel: `[parts · c]`.
    pub mean: &'a Tensor,
    /// Inverse deviation, likewise.
    pub inv_std: &'a Tensor,
    /// The batch norm's `gamma` and `beta`, `[c]`, where `relu` is a function of `normed` alone, so that it need not be read.
    pub again: Option<[&'a Tensor; 2]>,
    /// What other paths have brought to the gradient, which is added before the rectifier. A GPU does not do that.
    pub so_far: Option<&'a Tensor>,
}

/// The gradient `dz` before the rectifier (that of [`super::dgrad`] where `relu > 0`, else 0), and per part and channel
/// `Σ dz` and `Σ dz · (normed - mean) · inv_std`, `[parts 2 c]`: the gradients of the batch norm's `beta` and `gamma`, and all that its
/// own backward pass has to know. On a GPU for a multiple of eight channels.
///
/// # Errors
/// As [`super::dgrad`]; `Shape` when the arrays of `before` do not fit; `DType` when its tensors have not the type of `dy`.
pub fn dgrad_chain(dy: &Tensor, w: &Tensor, g: &Geometry, before: &Before) -> Result<Option<(Tensor, Tensor)>> {
    let op = "conv3d dgrad chain";
    let p = Conv3d::new(op, before.relu.shape(), w.shape(), g)?;
    check_dy(op, &p, dy)?;
    let others = [("w", w), ("relu", before.relu), ("normed", before.normed)];
    let place = dy.place(op, &others)?;
    dy.place(op, &[("mean", before.mean), ("inv_std", before.inv_std)])?;
    let mut alike = vec![("relu", before.relu), ("normed", before.normed)];
    alike.extend(before.so_far.map(|t| ("so_far", t)));
    for (arg, t) in alike {
        if t.shape() != p.x_shape() {
            return Err(Error::shape(op, arg, p.x_shape(), t.shape()));
        }
        t.expect(op, arg, dy.dtype())?;
        dy.place(op, &[(arg, t)])?;
    }
    let numbers = before.mean.shape().len();
    if p.c == 0 || numbers == 0 || !numbers.is_multiple_of(p.c) || !p.n.is_multiple_of(numbers / p.c) {
        let want = format!("[parts · {}], where parts divides the {} samples", p.c, p.n);
        return Err(Error::shape(op, "mean", want, before.mean.shape()));
    }
    expect_channels(op, "mean", before.mean, numbers)?;
    expect_channels(op, "inv_std", before.inv_std, numbers)?;
    for (arg, t) in before.again.into_iter().flat_map(|[gamma, beta]| [("gamma", gamma), ("beta", beta)]) {
        expect_channels(op, arg, t, p.c)?;
        dy.place(op, &[(arg, t)])?;
    }
    let Place::Gpu(gpu) = place else {
        return Ok(Some(cpu::dgrad_chain(Isa::best(), &p, [dy, w], before, numbers / p.c)));
    };
    if !on_tensor_cores(&p, [dy, w]) || !p.c.is_multiple_of(8) || before.so_far.is_some() {
        return Ok(None);
    }
    cuda::dgrad_chain(gpu, &p, dy, w, before).map(Some)
}

fn on_tensor_cores(p: &Conv3d, operands: [&Tensor; 2]) -> bool {
    let any = [p.x_shape(), p.w_shape(), p.y_shape()].iter().all(|s| !s.is_empty());
    any && p.geometry.groups == 1 && operands.iter().all(|t| t.dtype() == DType::BF16)
}

fn expect_channels(op: &'static str, arg: &'static str, t: &Tensor, channels: usize) -> Result<()> {
    t.expect(op, arg, DType::F32)?;
    if t.shape() == Shape::from([channels]) {
        return Ok(());
    }
    Err(Error::shape(op, arg, format!("[{channels}]"), t.shape()))
}
