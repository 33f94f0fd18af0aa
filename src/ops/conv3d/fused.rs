//! Convolutions that also sum what the batch norm beside them needs, while the numbers are still on the chip.
//!
//! A GPU does this for bf16 without groups of channels, the CPU for what each function says; elsewhere these functions return
//! `None`, and the caller takes the separate operations. The sums are f32, taken in a fixed order over the result as it was
//! rounded.

use super::{Conv3d, Geometry, check_dy, cpu, cuda};
use crate::cpu::Isa;
use crate::error::{Error, Result};
use crate::ops::batch_norm::{Layer, Rows, Sums};
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
        let taken = cpu::fprop_statistics(Isa::best(), &p, [x, w], Some(shift), parts)?;
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
        return cpu::fprop_statistics(Isa::best(), &p, [x, w], None, parts);
    }
    let taken = fprop_statistics(x, w, g, near, parts)?;
    Ok(taken.map(|(y, sums)| (y, Sums { shift: near.clone(), sums })))
}

/// A batch norm and its rectifier as numbers, `max(0, (x - mean) · inv_std · gamma + beta)`, for a convolution that applies
/// it to what it reads.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Mean, f32, of each of some number of equal contiguous parts of the samples and each channel: `[parts · c]`.
    pub mean: &'a Tensor,
    /// Inverse deviation `1/√(var + eps)`, likewise.
    pub inv_std: &'a Tensor,
    /// Scale, f32, `[c]`.
    pub gamma: &'a Tensor,
    /// Addend, likewise.
    pub beta: &'a Tensor,
}

impl Norm<'_> {
    /// The layer for the input of `p`, on the CPU.
    fn layer(&self, p: &Conv3d) -> Result<Layer> {
        let rows = Rows::new(p.x_shape(), self.mean.shape().len() / p.c).expect("checked with the arrays");
        let [mean, inv_std] = [self.mean.host()?, self.inv_std.host()?];
        Ok(Layer::of(rows, [&mean, &inv_std], [&self.gamma.host()?, &self.beta.host()?]))
    }

    /// Checks it against the input of `p`, which is not empty.
    fn check(&self, op: &'static str, p: &Conv3d, x: &Tensor) -> Result<()> {
        Rows::new(x.shape(), 1)?;
        expect_parts(op, p, [("mean", self.mean), ("inv_std", self.inv_std)])?;
        expect_channels(op, "gamma", self.gamma, p.c)?;
        expect_channels(op, "beta", self.beta, p.c)
    }

    /// Its arrays by their names.
    fn arrays(&self) -> [(&'static str, &Tensor); 4] {
        [("mean", self.mean), ("inv_std", self.inv_std), ("gamma", self.gamma), ("beta", self.beta)]
    }
}

/// [`super::fprop`] of the normalised and rectified `x`, with the bits of the separate operations. Where tiles multiply, it is
/// nowhere in memory: they read copies in the cache, which are made of it; vectors' is dropped. `None` on a GPU.
///
/// # Errors
/// As [`super::fprop`]; `Shape` when `x` is empty or the arrays of `norm` do not fit.
pub fn fprop_normed(x: &Tensor, norm: &Norm, w: &Tensor, g: &Geometry) -> Result<Option<Tensor>> {
    Ok(fprop_after(x, norm, w, g, None)?.map(|(y, _)| y))
}

/// [`fprop_normed`], with the sums for a batch norm of the result over so many `parts` of the samples, where that is asked for.
pub(super) fn fprop_after(
    x: &Tensor,
    norm: &Norm,
    w: &Tensor,
    g: &Geometry,
    parts: Option<usize>,
) -> Result<Option<(Tensor, Option<Sums>)>> {
    let op = "conv3d normed";
    let p = Conv3d::new(op, x.shape(), w.shape(), g)?;
    norm.check(op, &p, x)?;
    if let Some(parts) = parts.filter(|parts| *parts == 0 || !p.n.is_multiple_of(*parts)) {
        return Err(Error::param(op, "parts", parts, format!("it must divide the {} samples", p.n)));
    }
    let Place::Cpu = x.place(op, &[&[("w", w)], &norm.arrays()[..]].concat())? else { return Ok(None) };
    cpu::fprop_normed(Isa::best(), &p, [x, w], &norm.layer(&p)?, parts).map(Some)
}

/// [`super::wgrad`] where the convolution read the normalised and rectified `x`. `None` on a GPU.
///
/// # Errors
/// As [`super::wgrad`]; `Shape` when `x` is empty or the arrays of `norm` do not fit.
pub fn wgrad_normed(x: &Tensor, norm: &Norm, dy: &Tensor, w_shape: Shape, g: &Geometry) -> Result<Option<Tensor>> {
    let op = "conv3d wgrad normed";
    let p = Conv3d::new(op, x.shape(), w_shape, g)?;
    norm.check(op, &p, x)?;
    check_dy(op, &p, dy)?;
    let Place::Cpu = x.place(op, &[&[("dy", dy)], &norm.arrays()[..]].concat())? else { return Ok(None) };
    cpu::wgrad(Isa::best(), &p, x, Some(&norm.layer(&p)?), dy).map(Some)
}

/// What led to the input of a convolution: `relu = max(0, batch_norm(normed))`, whose statistics were `mean` and
/// `inv_std = 1/√(var + eps)`.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// The output of the rectifier, which is the input of the convolution. It may be missing where `again` is there.
    pub relu: Option<&'a Tensor>,
    /// The input of the batch norm, of the same shape.
    pub normed: &'a Tensor,
    /// Mean, f32, of each of some number of equal contiguous parts of the samples and each channel: `[parts · c]`.
    pub mean: &'a Tensor,
    /// Inverse deviation, likewise.
    pub inv_std: &'a Tensor,
    /// The batch norm's `gamma` and `beta`, `[c]`, where `relu` is a function of `normed` alone.
    pub again: Option<[&'a Tensor; 2]>,
    /// What other paths have brought to the gradient, which is added before the rectifier. A GPU does not do that.
    pub so_far: Option<&'a Tensor>,
}

/// The gradient `dz` before the rectifier (that of [`super::dgrad`] where `relu > 0`, else 0), and per part and channel
/// `Σ dz` and `Σ dz · (normed - mean) · inv_std`, `[parts 2 c]`: the gradients of the batch norm's `beta` and `gamma`, and all that its
/// own backward pass has to know. On a GPU for a multiple of eight channels, where `relu` is there.
///
/// # Errors
/// As [`super::dgrad`]; `Param` when both `relu` and `again` are missing; `Shape` when the arrays of `before` do not fit;
/// `DType` when its tensors have not the type of `dy`.
pub fn dgrad_chain(dy: &Tensor, w: &Tensor, g: &Geometry, before: &Before) -> Result<Option<(Tensor, Tensor)>> {
    let op = "conv3d dgrad chain";
    let p = Conv3d::new(op, before.normed.shape(), w.shape(), g)?;
    check_dy(op, &p, dy)?;
    let place = dy.place(op, &[("w", w), ("mean", before.mean), ("inv_std", before.inv_std)])?;
    if before.relu.is_none() && before.again.is_none() {
        return Err(Error::param(op, "relu", "nothing", "it or what it is made of again must be there"));
    }
    let mut alike = vec![("normed", before.normed)];
    alike.extend(before.relu.map(|t| ("relu", t)));
    alike.extend(before.so_far.map(|t| ("so_far", t)));
    for (arg, t) in alike {
        if t.shape() != p.x_shape() {
            return Err(Error::shape(op, arg, p.x_shape(), t.shape()));
        }
        t.expect(op, arg, dy.dtype())?;
        dy.place(op, &[(arg, t)])?;
    }
    let parts = expect_parts(op, &p, [("mean", before.mean), ("inv_std", before.inv_std)])?;
    for (arg, t) in before.again.into_iter().flat_map(|[gamma, beta]| [("gamma", gamma), ("beta", beta)]) {
        expect_channels(op, arg, t, p.c)?;
        dy.place(op, &[(arg, t)])?;
    }
    let Place::Gpu(gpu) = place else {
        return cpu::dgrad_chain(Isa::best(), &p, [dy, w], before, parts).map(Some);
    };
    match before.relu {
        Some(relu) if on_tensor_cores(&p, [dy, w]) && p.c.is_multiple_of(8) && before.so_far.is_none() => {
            cuda::dgrad_chain(gpu, &p, dy, w, relu, before).map(Some)
        }
        _ => Ok(None),
    }
}

fn on_tensor_cores(p: &Conv3d, operands: [&Tensor; 2]) -> bool {
    let any = [p.x_shape(), p.w_shape(), p.y_shape()].iter().all(|s| !s.is_empty());
    any && p.geometry.groups == 1 && operands.iter().all(|t| t.dtype() == DType::BF16)
}

/// Of how many parts of the samples these numbers per channel of the input of `p` are.
fn expect_parts(op: &'static str, p: &Conv3d, arrays: [(&'static str, &Tensor); 2]) -> Result<usize> {
    let numbers = arrays[0].1.shape().len();
    if p.c == 0 || numbers == 0 || !numbers.is_multiple_of(p.c) || !p.n.is_multiple_of(numbers / p.c) {
        let want = format!("[parts · {}], where parts divides the {} samples", p.c, p.n);
        return Err(Error::shape(op, arrays[0].0, want, arrays[0].1.shape()));
    }
    for (arg, t) in arrays {
        expect_channels(op, arg, t, numbers)?;
    }
    Ok(numbers / p.c)
}

fn expect_channels(op: &'static str, arg: &'static str, t: &Tensor, channels: usize) -> Result<()> {
    t.expect(op, arg, DType::F32)?;
    if t.shape() == Shape::from([channels]) {
        return Ok(());
    }
    Err(Error::shape(op, arg, format!("[{channels}]"), t.shape()))
}
