//! Convolution on device addresses, for programs that manage memory and streams themselves: no tensors, no allocation.
//! [`fprop`], [`dgrad`] and [`wgrad`] are the passes. [`fprop_bias`], [`fprop_moments`] and [`dgrad_norm_relu`] also do, in the
//! same launch, what comes next in a network. Results have the bits of the functions on tensors.
//!
//! ```no_run
//! # use tubelet::{driver::Gpu, ops::Workspace, shape::Window, tensor::DType};
//! # use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, raw};
//! # fn f(stream: *mut std::ffi::c_void, [x, w, y, space]: [u64; 4]) -> tubelet::error::Result<()> {
//! let gpu = unsafe { Gpu::on_stream(stream) }?; // your CUstream
//! let g = Geometry::new(Window::same([3, 3, 3]));
//! let p = Conv3d::new("conv3d", [1, 8, 56, 56, 64].into(), [64, 3, 3, 3, 64].into(), &g)?;
//! let bytes = raw::workspace(&gpu, &p, Operator::Fprop, DType::BF16)?; // allocate that much at `space`
//! unsafe { raw::fprop(&gpu, &p, DType::BF16, x, w, y, Workspace { ptr: space, bytes }) }
//! # }
//! ```

use super::cuda::{self, Forwards, Generation, Plan, Work, sums_of};
use super::{Conv3d, Operator};
use crate::driver::{Gpu, In, Out};
use crate::error::{Error, Result};
use crate::ops::addresses::{Addresses, Workspace};
use crate::shape::Shape;
use crate::tensor::DType;

/// Bytes of working space that a pass of `p` on tensors of `dtype` needs on this device.
///
/// # Errors
/// `Param` when a tensor has 2³¹ elements or more, or none.
pub fn workspace(gpu: &Gpu, p: &Conv3d, pass: Operator, dtype: DType) -> Result<usize> {
    Ok(plain(gpu, p, pass, dtype)?.workspace())
}

/// `y` (`n to ho wo k`) from `x` (`n t h w c`) and `w` (`k kt kh kw c/groups`), all of `dtype`.
///
/// # Safety
/// The addresses are those of contiguous arrays of these shapes on `gpu`'s device, `workspace` is memory of its length there,
/// and all of them stay valid until the work given to the stream is done.
///
/// # Errors
/// As [`workspace`]; `Param` when an address is null or not a multiple of 16 (of 256 for `workspace`), or `workspace` is too
/// short; `Driver`.
pub unsafe fn fprop(gpu: &Gpu, p: &Conv3d, dtype: DType, x: u64, w: u64, y: u64, workspace: Workspace) -> Result<()> {
    let (x, w, y) = forward(p, dtype, [x, w, y])?;
    work(gpu, p, Operator::Fprop, dtype, workspace)?.fprop(x, w, y, &Forwards::default())
}

/// As [`fprop`], with `bias [k]`, f32, added before the result is rounded.
///
/// # Safety
/// As [`fprop`].
///
/// # Errors
/// As [`fprop`].
pub unsafe fn fprop_bias(
    gpu: &Gpu,
    p: &Conv3d,
    dtype: DType,
    [x, w, bias]: [u64; 3],
    y: u64,
    workspace: Workspace,
) -> Result<()> {
    let (x, w, y) = forward(p, dtype, [x, w, y])?;
    let bias = Some(CHECK.input("bias", bias, p.k, DType::F32)?);
    work(gpu, p, Operator::Fprop, dtype, workspace)?.fprop(x, w, y, &Forwards { bias, ..Forwards::default() })
}

/// `dx` from `dy` and `w`, all of `dtype`; shapes as for [`fprop`].
///
/// # Safety
/// As [`fprop`].
///
/// # Errors
/// As [`fprop`].
pub unsafe fn dgrad(gpu: &Gpu, p: &Conv3d, dtype: DType, dy: u64, w: u64, dx: u64, workspace: Workspace) -> Result<()> {
    let (dy, w, dx) = backward(p, dtype, [dy, w, dx])?;
    work(gpu, p, Operator::Dgrad, dtype, workspace)?.dgrad(dy, w, dx, None, None)
}

/// `dw`, f32, from `x` and `dy` of `dtype`; shapes as for [`fprop`].
///
/// # Safety
/// As [`fprop`].
///
/// # Errors
/// As [`fprop`].
pub unsafe fn wgrad(gpu: &Gpu, p: &Conv3d, dtype: DType, x: u64, dy: u64, dw: u64, workspace: Workspace) -> Result<()> {
    let (x, dy) = (input("x", x, p.x_shape(), dtype)?, input("dy", dy, p.y_shape(), dtype)?);
    let dw = output("dw", dw, p.w_shape(), DType::F32)?;
    work(gpu, p, Operator::Wgrad, dtype, workspace)?.wgrad(x, dy, dw, None)
}

/// What [`fprop_moments`] and [`dgrad_norm_relu`] need on a device: see [`with_sums`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithSums {
    /// Bytes of working space.
    pub workspace: usize,
    /// Tiles of each part for which sums are written: `[parts tiles 2 c]` numbers, f32.
    pub tiles: usize,
}

/// Working space and number of sums of a pass that takes sums over each of `parts` equal contiguous parts of the samples.
///
/// # Errors
/// As [`workspace`]; `Param` when `parts` is 0 or does not divide the samples, when the convolution has groups or an array
/// without elements, for dgrad when the channels are no multiple of 8, and for wgrad: there no device takes sums.
pub fn with_sums(gpu: &Gpu, p: &Conv3d, pass: Operator, parts: usize) -> Result<WithSums> {
    let plan = planned(gpu, p, pass, parts)?;
    Ok(WithSums { workspace: plan.workspace(), tiles: sums_of(&plan) })
}

/// Device addresses of [`fprop_moments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FpropMoments {
    /// Input, as for [`fprop`].
    pub x: u64,
    /// Filters.
    pub w: u64,
    /// A number near the mean of each channel of `y`, `[k]`, f32: for example the running mean.
    pub near: u64,
    /// Result.
    pub y: u64,
    /// Receives `Σ (y - near)` and `Σ (y - near)²` over tiles, `[parts tiles 2 k]`, f32, for
    /// [`crate::ops::batch_norm::raw::Moments`].
    pub sums: u64,
}

/// As [`fprop`] of bf16, which also takes the moments of the result for the batch norm that follows.
///
/// # Safety
/// As [`fprop`].
///
/// # Errors
/// As [`fprop`] and [`with_sums`].
pub unsafe fn fprop_moments(
    gpu: &Gpu,
    p: &Conv3d,
    parts: usize,
    at: &FpropMoments,
    workspace: Workspace,
) -> Result<()> {
    let plan = planned(gpu, p, Operator::Fprop, parts)?;
    let (x, w, y) = forward(p, DType::BF16, [at.x, at.w, at.y])?;
    let near = CHECK.input("near", at.near, p.k, DType::F32)?;
    let sums = CHECK.output("sums", at.sums, parts * sums_of(&plan) * 2 * p.k, DType::F32)?;
    let f = Forwards { statistics: Some((near, sums)), ..Forwards::default() };
    on_plan(gpu, p, plan, DType::BF16, workspace)?.fprop(x, w, y, &f)
}

/// Device addresses of [`dgrad_norm_relu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DgradNormRelu {
    /// Gradient by the convolution's result, as for [`dgrad`].
    pub dy: u64,
    /// Filters.
    pub w: u64,
    /// Gradients of other branches by the convolution's input, which are added first.
    pub add: Option<u64>,
    /// The signs of the convolution's input, the result of the ReLU, one bit for each element, as
    /// [`crate::ops::batch_norm::raw::Forward::signs`] receives them; if absent, the mask is recomputed from `x`, which is
    /// correct where no residual was added before the ReLU.
    pub signs: Option<u64>,
    /// The input of the batch norm before the ReLU.
    pub x: u64,
    /// Its mean, `[parts c]`, f32.
    pub mean: u64,
    /// Its `1/√(var + eps)`, `[parts c]`, f32.
    pub inv_std: u64,
    /// Its scale, `[c]`, f32.
    pub gamma: u64,
    /// Its shift, `[c]`, f32.
    pub beta: u64,
    /// Receives the gradient by the result of the batch norm.
    pub dz: u64,
    /// Receives `Σ dz` and `Σ dz · (x - mean) · inv_std` over tiles, `[parts tiles 2 c]`, f32, for
    /// [`crate::ops::batch_norm::raw::Mask::Applied`].
    pub sums: u64,
}

/// As [`dgrad`] of bf16, for a convolution whose input was `relu(norm(x) ..)`: adds the gradients of other branches, applies
/// ReLU's mask, and takes the sums with which the backward pass of the batch norm begins.
///
/// # Safety
/// As [`fprop`].
///
/// # Errors
/// As [`fprop`] and [`with_sums`].
pub unsafe fn dgrad_norm_relu(
    gpu: &Gpu,
    p: &Conv3d,
    parts: usize,
    at: &DgradNormRelu,
    workspace: Workspace,
) -> Result<()> {
    let plan = planned(gpu, p, Operator::Dgrad, parts)?;
    let (dy, w, dz) = backward(p, DType::BF16, [at.dy, at.w, at.dz])?;
    let like_x = |arg, at| input(arg, at, p.x_shape(), DType::BF16);
    let numbers = |arg, at, parts: usize| CHECK.input(arg, at, parts * p.c, DType::F32);
    let epilogue = cuda::NormRelu {
        add: at.add.map(|add| like_x("add", add)).transpose()?,
        signs: at.signs.map(|at| CHECK.input_bits("signs", at, p.x_shape().len())).transpose()?,
        normed: like_x("x", at.x)?,
        mean: numbers("mean", at.mean, parts)?,
        inv_std: numbers("inv_std", at.inv_std, parts)?,
        gamma: numbers("gamma", at.gamma, 1)?,
        beta: numbers("beta", at.beta, 1)?,
        sums: CHECK.output("sums", at.sums, parts * sums_of(&plan) * 2 * p.c, DType::F32)?,
    };
    on_plan(gpu, p, plan, DType::BF16, workspace)?.dgrad(dy, w, dz, Some(&epilogue), None)
}

const OP: &str = "conv3d";
const CHECK: Addresses = Addresses(OP);

/// The plan of a pass.
fn plain(gpu: &Gpu, p: &Conv3d, pass: Operator, dtype: DType) -> Result<Plan> {
    if p.is_empty() {
        return Err(Error::param(OP, "x", p.x_shape(), "there is nothing to launch for arrays without elements"));
    }
    Plan::new(p, pass, dtype, Generation::of(gpu))
}

/// A plan of a pass that takes sums.
fn planned(gpu: &Gpu, p: &Conv3d, pass: Operator, parts: usize) -> Result<Plan> {
    if p.geometry.groups != 1 || p.is_empty() {
        let rule = "sums are taken of convolutions without groups, whose arrays have elements";
        return Err(Error::param(OP, "groups", p.geometry.groups, rule));
    }
    if parts == 0 || !p.n.is_multiple_of(parts) {
        return Err(Error::param(OP, "parts", parts, format!("it must divide the {} samples", p.n)));
    }
    if pass == Operator::Wgrad {
        return Err(Error::param(OP, "pass", "wgrad", "only fprop and dgrad take sums"));
    }
    if pass == Operator::Dgrad && !p.c.is_multiple_of(8) {
        return Err(Error::param(OP, "channels", p.c, "this epilogue of dgrad needs a multiple of 8"));
    }
    Plan::with_statistics(p, pass, DType::BF16, Generation::of(gpu), parts)
}

fn work<'a>(gpu: &'a Gpu, p: &'a Conv3d, pass: Operator, dtype: DType, given: Workspace) -> Result<Work<'a>> {
    on_plan(gpu, p, plain(gpu, p, pass, dtype)?, dtype, given)
}

fn on_plan<'a>(gpu: &'a Gpu, p: &'a Conv3d, plan: Plan, dtype: DType, given: Workspace) -> Result<Work<'a>> {
    let space = CHECK.workspace(given, plan.workspace())?;
    Ok(Work { gpu, problem: p, dtype, plan, space })
}

fn forward(p: &Conv3d, dtype: DType, [x, w, y]: [u64; 3]) -> Result<(In, In, Out)> {
    let (x, w) = (input("x", x, p.x_shape(), dtype)?, input("w", w, p.w_shape(), dtype)?);
    Ok((x, w, output("y", y, p.y_shape(), dtype)?))
}

fn backward(p: &Conv3d, dtype: DType, [dy, w, dx]: [u64; 3]) -> Result<(In, In, Out)> {
    let (dy, w) = (input("dy", dy, p.y_shape(), dtype)?, input("w", w, p.w_shape(), dtype)?);
    Ok((dy, w, output("dx", dx, p.x_shape(), dtype)?))
}

fn input(arg: &'static str, at: u64, shape: Shape, dtype: DType) -> Result<In> {
    CHECK.input(arg, at, shape.len(), dtype)
}

fn output(arg: &'static str, at: u64, shape: Shape, dtype: DType) -> Result<Out> {
    CHECK.output(arg, at, shape.len(), dtype)
}
