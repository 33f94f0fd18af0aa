//! Pools on device addresses, for programs that manage memory and streams themselves: no tensors, no allocation. Only
//! [`global_forward`] needs working space.
//!
//! A [`Pool`] has to be one that [`Pool::new`] returned. Results have the bits of the functions of the same name on tensors.

use super::{Pool, cuda};
use crate::driver::Gpu;
use crate::error::{Error, Result};
use crate::ops::addresses::{Addresses, Workspace};
use crate::ops::reduce::cuda::Middle;
use crate::shape::Shape;
use crate::tensor::DType;

/// The maxima `y` of `x`, and for each of them `taps`, the index of its tap in the kernel: 16-bit integers in the shape of `y`,
/// which [`max_backward`] reads.
///
/// # Safety
/// `p` was returned by [`Pool::new`]. The addresses are those of contiguous arrays of the pool's shapes on `gpu`'s device, `x`
/// and `y` of `dtype`, and stay valid until the work given to the stream is done.
///
/// # Errors
/// `Param` when the kernel has more than 65536 taps, or an address is null or not a multiple of 16; `Shape` when an array has
/// more than 2³¹ elements; `Driver`.
pub unsafe fn max_forward(gpu: &Gpu, p: &Pool, dtype: DType, x: u64, y: u64, taps: u64) -> Result<()> {
    cuda::check_taps(p)?;
    let check = Addresses("max_pool");
    let x = check.input("x", x, p.in_shape().len(), dtype)?;
    let y = check.output("y", y, p.out_shape().len(), dtype)?;
    let taps = check.output_u16("taps", taps, p.out_shape().len())?;
    cuda::launch_max(gpu, p, dtype, x, y, taps)
}

/// The gradient `dx` of a maximum pool from `dy`, at the `taps` of [`max_forward`].
///
/// # Safety
/// As [`max_forward`]; `taps` are those of the same pool.
///
/// # Errors
/// As [`max_forward`].
pub unsafe fn max_backward(gpu: &Gpu, p: &Pool, dtype: DType, dy: u64, taps: u64, dx: u64) -> Result<()> {
    cuda::check_taps(p)?;
    let check = Addresses("max_pool");
    let dy = check.input("dy", dy, p.out_shape().len(), dtype)?;
    let taps = check.input_u16("taps", taps, p.out_shape().len())?;
    let dx = check.output("dx", dx, p.in_shape().len(), dtype)?;
    cuda::launch_unpool(gpu, p, dtype, dy, taps, dx)
}

/// The means `y` of the windows of `x`.
///
/// # Safety
/// As [`max_forward`].
///
/// # Errors
/// `Param` when an address is null or not a multiple of 16; `Shape` when an array has more than 2³¹ elements; `Driver`.
pub unsafe fn avg_forward(gpu: &Gpu, p: &Pool, dtype: DType, x: u64, y: u64) -> Result<()> {
    let check = Addresses("avg_pool");
    let x = check.input("x", x, p.in_shape().len(), dtype)?;
    let y = check.output("y", y, p.out_shape().len(), dtype)?;
    cuda::launch_avg(gpu, p, dtype, x, y)
}

/// The gradient `dx` of [`avg_forward`] from `dy`.
///
/// # Safety
/// As [`max_forward`].
///
/// # Errors
/// As [`avg_forward`].
pub unsafe fn avg_backward(gpu: &Gpu, p: &Pool, dtype: DType, dy: u64, dx: u64) -> Result<()> {
    let check = Addresses("avg_pool");
    let dy = check.input("dy", dy, p.out_shape().len(), dtype)?;
    let dx = check.output("dx", dx, p.in_shape().len(), dtype)?;
    cuda::launch_avg_back(gpu, p, dtype, dy, dx)
}

/// `[n, t·h·w, c]`, none of which is 0.
fn places(x: Shape) -> Result<[usize; 3]> {
    let [n, t, h, w, c] = x.check("global_avg_pool", "x")?.nthwc("global_avg_pool", "x")?;
    if x.is_empty() {
        return Err(Error::shape("global_avg_pool", "x", "n t h w c with something to average", x));
    }
    Ok([n, t * h * w, c])
}

fn means(x: Shape, dtype: DType) -> Result<Middle> {
    let [outer, rows, c] = places(x)?;
    Ok(Middle { outer, rows, c, from: dtype, to: dtype, factor: 1.0 / rows as f32 })
}

/// Bytes of working space that [`global_forward`] needs.
///
/// # Errors
/// `Shape` when `x` is not `n t h w c` or has no elements.
pub fn global_workspace(x: Shape, dtype: DType) -> Result<usize> {
    Ok(means(x, dtype)?.workspace())
}

/// The means `y [n c]` of an `x` of shape `x_shape` over `t h w`.
///
/// # Safety
/// The addresses are those of contiguous arrays of `dtype` on `gpu`'s device, `workspace` is memory of its length there, and
/// all of them stay valid until the work given to the stream is done.
///
/// # Errors
/// As [`global_workspace`] and [`avg_forward`]; `Param` when `workspace` is too short or not aligned to 256 bytes.
pub unsafe fn global_forward(
    gpu: &Gpu,
    x_shape: Shape,
    dtype: DType,
    x: u64,
    y: u64,
    workspace: Workspace,
) -> Result<()> {
    let (means, check) = (means(x_shape, dtype)?, Addresses("global_avg_pool"));
    let x = check.input("x", x, x_shape.len(), dtype)?;
    let y = check.output("y", y, means.outer * means.c, dtype)?;
    let space = check.workspace(workspace, means.workspace())?;
    means.launch(gpu, x, y, space)
}

/// The gradient `dx`, of shape `x_shape`, of [`global_forward`] from `dy [n c]`.
///
/// # Safety
/// As [`global_forward`].
///
/// # Errors
/// As [`global_workspace`] and [`avg_forward`].
pub unsafe fn global_backward(gpu: &Gpu, x_shape: Shape, dtype: DType, dy: u64, dx: u64) -> Result<()> {
    let ([n, places, c], check) = (places(x_shape)?, Addresses("global_avg_pool"));
    let dy = check.input("dy", dy, n * c, dtype)?;
    let dx = check.output("dx", dx, x_shape.len(), dtype)?;
    cuda::launch_global_back(gpu, x_shape, places, dtype, dy, dx)
}
