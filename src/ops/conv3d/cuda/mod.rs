//! Convolution on a GPU: [`plan`] divides a pass into blocks, `launch` launches it, and this file does both for
//! tensors.
//!
//! bf16 is computed on tensor cores; f32, and grouped convolutions in either type, in f32 arithmetic. With one operand
//! of each type, the bf16 one is widened, and the result is rounded once.

mod halo;
mod launch;
mod norm;
mod packed;
pub mod plan;
mod problem;
pub mod reuse;
pub mod rows;
mod stem;
mod tiles;
mod windows;

pub(in crate::ops) use launch::kernels;

use super::{Conv3d, Operator};
use crate::driver::{Gpu, Memory, Out};
use crate::error::Result;
use crate::ops::batch_norm::{Norm, Signs, Unformed};
use crate::tensor::{DType, Tensor};
pub(super) use launch::{Forwards, NormRelu, Work, sums_of};
use norm::{Forming, Numbers};
use plan::HOPPER;
use plan::Path;
pub(super) use plan::{Generation, Plan};
#[cfg(any(test, feature = "testing"))]
pub use problem::Launched;

/// Both tensors in one data type that represents the values of either.
fn alike(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let dtype = if a.dtype() == b.dtype() { a.dtype() } else { DType::F32 };
    Ok((a.cast(dtype)?, b.cast(dtype)?))
}

/// Whether there is anything to compute; if not, the result is set to zero (empty sums).
fn has_work(gpu: &Gpu, inputs: [&Tensor; 2], result: &mut Tensor) -> Result<bool> {
    let to = result.output();
    if to.1 > 0 && inputs.iter().any(|t| t.shape().is_empty()) {
        gpu.driver().clear(to.0, to.1)?;
        return Ok(false);
    }
    Ok(to.1 > 0)
}

/// Calls `launch` with working space for `plan`. The space may be reused as soon as this returns, because reuse is in
/// stream order.
fn with_space(gpu: &Gpu, p: &Conv3d, dtype: DType, plan: Plan, launch: impl FnOnce(Work) -> Result<()>) -> Result<()> {
    let space: Memory = gpu.alloc(plan.workspace())?;
    launch(Work { gpu, problem: p, dtype, plan, space: space.ptr() })
}

/// `bias`: one number per filter, added before the result is rounded; it requires `p.c > 0`.
pub(in crate::ops) fn fprop(gpu: &Gpu, p: &Conv3d, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (a, b) = alike(x, w)?;
    let bias = bias.map(|b| b.cast(DType::F32)).transpose()?;
    debug_assert!(bias.is_none() || p.c > 0, "the sum of nothing would lack the bias");
    let mut y = Tensor::on_gpu(gpu, a.dtype(), p.y_shape())?;
    if has_work(gpu, [&a, &b], &mut y)? {
        let f = Forwards { bias: bias.as_ref().map(Tensor::input), ..Forwards::default() };
        let to = y.output();
        let plan = Plan::new(p, Operator::Fprop, a.dtype(), Generation::of(gpu))?;
        with_space(gpu, p, a.dtype(), plan, |work| work.fprop(a.input(), b.input(), to, &f))?;
    }
    y.cast(x.dtype())
}

/// A pass with tile number `tile` of its kernels, if there is such a tile; with `norm` fprop or wgrad of what that makes of
/// `x`, if the tile has such a kernel.
#[cfg(any(test, feature = "testing"))]
pub(super) fn on_tile(
    gpu: &Gpu,
    p: &Conv3d,
    pass: Operator,
    tile: usize,
    [a, b]: [&Tensor; 2],
    norm: Option<&Norm>,
) -> Result<Option<Tensor>> {
    let groups = norm.filter(|_| pass == Operator::Fprop).map(Norm::parts);
    let plan = Plan::with_tile(p, pass, a.dtype(), Generation::of(gpu), tile, groups)?;
    let plan = plan.and_then(|plan| norm.map_or(Some(plan), |norm| plan.normalising(p, pass, norm.parts())));
    let (Some(plan), norm) = (plan, norm.map(numbers)) else { return Ok(None) };
    let (dtype, shape) = match pass {
        Operator::Fprop => (a.dtype(), p.y_shape()),
        Operator::Dgrad => (a.dtype(), p.x_shape()),
        Operator::Wgrad => (DType::F32, p.w_shape()),
    };
    let mut result = Tensor::on_gpu(gpu, dtype, shape)?;
    let to = result.output();
    with_space(gpu, p, a.dtype(), plan, |work| match pass {
        Operator::Fprop => work.fprop(a.input(), b.input(), to, &Forwards { norm, ..Forwards::default() }),
        Operator::Dgrad => work.dgrad(a.input(), b.input(), to, None, None),
        Operator::Wgrad => work.wgrad(a.input(), b.input(), to, norm.as_ref()),
    })?;
    Ok(Some(result))
}

pub(in crate::ops) fn dgrad(gpu: &Gpu, p: &Conv3d, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (a, b) = alike(dy, w)?;
    let mut dx = Tensor::on_gpu(gpu, a.dtype(), p.x_shape())?;
    if has_work(gpu, [&a, &b], &mut dx)? {
        let to = dx.output();
        let plan = Plan::new(p, Operator::Dgrad, a.dtype(), Generation::of(gpu))?;
        with_space(gpu, p, a.dtype(), plan, |work| work.dgrad(a.input(), b.input(), to, None, None))?;
    }
    dx.cast(dy.dtype())
}

/// `padded`: `x` as [`padded_stem`] returned it.
pub(in crate::ops) fn wgrad(gpu: &Gpu, p: &Conv3d, x: &Tensor, padded: Option<&Tensor>, dy: &Tensor) -> Result<Tensor> {
    let (a, b) = alike(x, dy)?;
    let mut dw = Tensor::on_gpu(gpu, DType::F32, p.w_shape())?;
    if has_work(gpu, [&a, &b], &mut dw)? {
        let to = dw.output();
        let plan = Plan::new(p, Operator::Wgrad, a.dtype(), Generation::of(gpu))?;
        let (plan, a) = reading(p, plan, &a, padded);
        with_space(gpu, p, a.dtype(), plan, |work| work.wgrad(a.input(), b.input(), to, None))?;
    }
    Ok(dw)
}

/// The `x` of a bf16 stem with the four channels that fprop and wgrad read: a copy that both can share. `None` where
/// they read `x` itself, and for other convolutions.
pub(super) fn padded_stem(gpu: &Gpu, p: &Conv3d, x: &Tensor) -> Result<Option<Tensor>> {
    let plan = Plan::new(p, Operator::Fprop, x.dtype(), Generation::of(gpu))?;
    if plan.path == Path::Packed {
        if plan.space[0] == 0 {
            return Ok(None);
        }
        return pixels(gpu, p, x).map(Some);
    }
    let (Path::Stem, Some(channels)) = (plan.path, plan.padded[0]) else { return Ok(None) };
    let [t, h, w] = p.input;
    let mut padded = Tensor::on_gpu(gpu, x.dtype(), [p.n, t, h, w, channels])?;
    let to = padded.output();
    launch::pad(gpu, x.input(), to, p.c, channels)?;
    Ok(Some(padded))
}

/// The packed pixels of `x`, rounded to bf16.
fn pixels(gpu: &Gpu, p: &Conv3d, x: &Tensor) -> Result<Tensor> {
    let mut pixels = Tensor::on_gpu(gpu, DType::BF16, stem::packed_shape(p))?;
    let to = pixels.output();
    packed::pack(gpu, p, x.dtype(), x.input(), to)?;
    Ok(pixels)
}

/// The packed pixels of an `x` of f32, if both fprop with sums over `parts` parts of the samples and wgrad read such.
pub(super) fn rounded_stem(gpu: &Gpu, p: &Conv3d, x: &Tensor, parts: usize) -> Result<Option<Tensor>> {
    let on = Generation::of(gpu);
    let plans = [
        Plan::with_statistics(p, Operator::Fprop, DType::BF16, on, parts)?,
        Plan::new(p, Operator::Wgrad, DType::BF16, on)?,
    ];
    let read = plans.iter().all(|plan| plan.path == Path::Packed && plan.space[0] > 0);
    read.then(|| pixels(gpu, p, x)).transpose()
}

/// Whether some convolution on `gpu` may read the packed pixels of an `x` of f32, before filters are known.
pub(super) fn may_round(gpu: &Gpu, x: &Tensor) -> bool {
    gpu.compute_capability() == HOPPER && x.dtype() == DType::F32 && x.shape().last() <= 4
}

/// wgrad from the packed pixels of [`rounded_stem`].
pub(super) fn wgrad_rounded(gpu: &Gpu, p: &Conv3d, packed: &Tensor, dy: &Tensor) -> Result<Tensor> {
    wgrad(gpu, p, packed, Some(packed), dy)
}

/// The plan and its first operand: `padded` in place of `x`, if there is one of the plan's form, so that none is made in the
/// working space.
fn reading<'a>(p: &Conv3d, mut plan: Plan, x: &'a Tensor, padded: Option<&'a Tensor>) -> (Plan, &'a Tensor) {
    let width = if plan.path == Path::Packed { stem::packed_shape(p)[3] } else { p.input[2] };
    let Some(padded) = padded.filter(|padded| padded.dims()[3] == width) else { return (plan, x) };
    plan.space[0] = 0;
    (plan, padded)
}

/// `y`, and `Σ (y - near)` and `Σ (y - near)²` per channel over tiles of each of `parts` parts of the samples, `[parts
/// tiles 2 k]`, in one launch: for bf16 without groups. `padded`: `x` as [`padded_stem`] returned it.
pub(super) fn fprop_moments(
    gpu: &Gpu,
    p: &Conv3d,
    [x, w, near]: [&Tensor; 3],
    padded: Option<&Tensor>,
    parts: usize,
) -> Result<(Tensor, Tensor)> {
    let mut y = Tensor::on_gpu(gpu, DType::BF16, p.y_shape())?;
    let plan = Plan::with_statistics(p, Operator::Fprop, DType::BF16, Generation::of(gpu), parts)?;
    let mut sums = Tensor::on_gpu(gpu, DType::F32, [parts, sums_of(&plan), 2, p.k])?;
    let (to, moments) = (y.output(), (near.input(), sums.output()));
    let (plan, x) = reading(p, plan, x, padded);
    let f = Forwards { statistics: Some(moments), ..Forwards::default() };
    with_space(gpu, p, DType::BF16, plan, |work| work.fprop(x.input(), w.input(), to, &f))?;
    Ok((y, sums))
}

/// Where a convolution on `gpu` normalises the `x` that it reads, as the tensor before a batch norm with ReLU: the plan of
/// fprop, which takes sums over `sums` parts of the samples if there are any, or of wgrad. For bf16, without empty arrays.
pub(super) fn normalising(
    gpu: &Gpu,
    p: &Conv3d,
    pass: Operator,
    norm: &Norm,
    sums: Option<usize>,
) -> Result<Option<Plan>> {
    if gpu.compute_capability() != HOPPER || !norm::reads_rows(p) {
        return Ok(None);
    }
    let on = Generation::of(gpu);
    let plan = match sums {
        Some(parts) => Plan::with_statistics(p, pass, DType::BF16, on, parts)?,
        None => Plan::new(p, pass, DType::BF16, on)?,
    };
    Ok(plan.normalising(p, pass, norm.parts()))
}

/// Whether some convolution on `gpu` may be one of [`normalising`] on `x`, before filters are known.
pub(super) fn may_normalise(gpu: &Gpu, x: &Tensor) -> bool {
    gpu.compute_capability() == HOPPER && x.dtype() == DType::BF16 && x.shape().last().is_multiple_of(8)
}

/// fprop of a plan of [`normalising`], with the sums of [`fprop_moments`] about `near` if that is given.
pub(super) fn fprop_normed(
    gpu: &Gpu,
    p: &Conv3d,
    plan: Plan,
    [x, w]: [&Tensor; 2],
    norm: &Norm,
    near: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let mut y = Tensor::on_gpu(gpu, DType::BF16, p.y_shape())?;
    let shape = [plan.sums[0], sums_of(&plan), 2, p.k];
    let mut sums = near.map(|_| Tensor::on_gpu(gpu, DType::F32, shape)).transpose()?;
    let statistics = near.zip(sums.as_mut()).map(|(near, sums)| (near.input(), sums.output()));
    let (to, f) = (y.output(), Forwards { bias: None, statistics, norm: Some(numbers(norm)) });
    with_space(gpu, p, DType::BF16, plan, |work| work.fprop(x.input(), w.input(), to, &f))?;
    Ok((y, sums))
}

/// wgrad of a plan of [`normalising`].
pub(super) fn wgrad_normed(gpu: &Gpu, p: &Conv3d, plan: Plan, [x, dy]: [&Tensor; 2], norm: &Norm) -> Result<Tensor> {
    let mut dw = Tensor::on_gpu(gpu, DType::F32, p.w_shape())?;
    let (to, norm) = (dw.output(), numbers(norm));
    with_space(gpu, p, DType::BF16, plan, |work| work.wgrad(x.input(), dy.input(), to, Some(&norm)))?;
    Ok(dw)
}

fn numbers(norm: &Norm) -> Numbers {
    let [mean, inv_std, gamma, beta] = norm.arrays().map(|(_, array)| array.input());
    Numbers { mean, inv_std, gamma, beta, parts: norm.parts() }
}

/// The gradient with `add` added and ReLU's mask applied, and the sums for the batch norm of `x` before it, `[parts tiles
/// 2 c]`, in one launch: for bf16 without groups, and a multiple of eight channels. The mask is the signs of the ReLU's
/// result, or recomputed from `x` if there are none.
pub(super) fn dgrad_norm_relu(
    gpu: &Gpu,
    p: &Conv3d,
    [dy, w, x]: [&Tensor; 3],
    signs: Option<&Signs>,
    add: Option<&Tensor>,
    norm: &Norm,
) -> Result<(Tensor, Tensor)> {
    let plan = Plan::with_statistics(p, Operator::Dgrad, DType::BF16, Generation::of(gpu), norm.parts())?;
    let (dx, sums, _) = dgrad_on(gpu, p, plan, [dy, w], None, Some((x, signs, add, norm)))?;
    Ok((dx, sums.expect("the epilogue takes them")))
}

fn norm_relu(x: &Tensor, signs: Option<&Signs>, add: Option<&Tensor>, norm: &Norm, sums: Out) -> NormRelu {
    NormRelu {
        add: add.map(Tensor::input),
        signs: signs.map(Signs::input),
        normed: x.input(),
        mean: norm.mean().input(),
        inv_std: norm.inv_std().input(),
        gamma: norm.gamma().input(),
        beta: norm.beta().input(),
        sums,
    }
}

/// Where dgrad on `gpu` forms the gradient that it loads: its plan, which takes sums for `norm` if there is one. For bf16.
pub(super) fn forming(gpu: &Gpu, p: &Conv3d, of: &Unformed, norm: Option<&Norm>) -> Result<Option<Plan>> {
    if gpu.compute_capability() != HOPPER || !norm::reads_rows(p) {
        return Ok(None);
    }
    // A tile is of one part of the samples of either norm.
    let (own, on) = (of.norm.parts(), Generation::of(gpu));
    let groups = norm.map(Norm::parts).or((own > 1).then_some(own));
    let plan = match groups {
        Some(groups) => Plan::with_statistics(p, Operator::Dgrad, DType::BF16, on, groups)?,
        None => Plan::new(p, Operator::Dgrad, DType::BF16, on)?,
    };
    Ok(plan.forming(p, own))
}

/// What [`dgrad_norm_relu`] finishes its result with: `x`, signs, `add` and the norm.
pub(super) type Finishing<'a> = (&'a Tensor, Option<&'a Signs>, Option<&'a Tensor>, &'a Norm);

/// dgrad of a given plan: `dx`, as [`dgrad_norm_relu`] or without an epilogue; the sums of the epilogue; and the gradient that
/// was formed of the first operand and `of`, on a plan of [`forming`].
pub(super) fn dgrad_on(
    gpu: &Gpu,
    p: &Conv3d,
    plan: Plan,
    [dz, w]: [&Tensor; 2],
    of: Option<&Unformed>,
    epilogue: Option<Finishing>,
) -> Result<(Tensor, Option<Tensor>, Option<Tensor>)> {
    let mut dx = Tensor::on_gpu(gpu, DType::BF16, p.x_shape())?;
    let mut dy = of.map(|_| Tensor::on_gpu(gpu, DType::BF16, p.y_shape())).transpose()?;
    let shape = [plan.sums[0], sums_of(&plan), 2, p.c];
    let mut sums = epilogue.map(|_| Tensor::on_gpu(gpu, DType::F32, shape)).transpose()?;
    let epilogue =
        epilogue.zip(sums.as_mut()).map(|((x, signs, add, norm), s)| norm_relu(x, signs, add, norm, s.output()));
    let forming = of.zip(dy.as_mut()).map(|(of, dy)| Forming {
        x: of.x.input(),
        norm: numbers(&of.norm),
        slopes: of.slopes.input(),
        dy: dy.output(),
    });
    let to = dx.output();
    with_space(gpu, p, DType::BF16, plan, |work| {
        work.dgrad(dz.input(), w.input(), to, epilogue.as_ref(), forming.as_ref())
    })?;
    Ok((dx, sums, dy))
}
