//! Convolution on device addresses, for programs that manage memory and streams themselves: no tensors, no allocation.
//!
//! ```no_run
//! # use tubelet::{driver::Gpu, ops::conv3d::{Conv3d, Geometry, Operator, raw}, shape::Window, tensor::DType};
//! # fn f(stream: *mut std::ffi::c_void, [x, w, y, workspace]: [u64; 4]) -> tubelet::error::Result<()> {
//! let gpu = unsafe { Gpu::on_stream(stream) }?; // your CUstream
//! let g = Geometry::new(Window::same([3, 3, 3]));
//! let p = Conv3d::new("conv3d", [1, 8, 56, 56, 64].into(), [64, 3, 3, 3, 64].into(), &g)?;
//! assert_eq!(raw::workspace(&gpu, &p, Operator::Fprop, DType::BF16)?, 0); // else allocate that much
//! unsafe { raw::fprop(&gpu, &p, DType::BF16, x, w, y, workspace) }
//! # }
//! ```

use super::cuda::{Forwards, Generation, Plan, Work};
use super::{Conv3d, Operator};
use crate::driver::{Gpu, In, Out};
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::{DType, aligned};

/// Bytes of working space that a pass of `p` on tensors of `dtype` needs on this device, aligned to 256 bytes.
///
/// # Errors
/// `Param` when a tensor has 2³¹ elements or more.
pub fn workspace(gpu: &Gpu, p: &Conv3d, pass: Operator, dtype: DType) -> Result<usize> {
    Ok(Plan::new(p, pass, dtype, Generation::of(gpu))?.workspace())
}

/// `y` (`n to ho wo k`) from `x` (`n t h w c`) and `w` (`k kt kh kw c/groups`), all of `dtype`.
///
/// # Safety
/// The addresses are those of contiguous arrays of these shapes on `gpu`'s device, aligned to 16 bytes, and `workspace` has
/// [`workspace`] bytes; all of them stay valid until the work given to the stream is done.
///
/// # Errors
/// As [`workspace`]; `Param` when an address is null or not a multiple of 16; `Driver`.
pub unsafe fn fprop(gpu: &Gpu, p: &Conv3d, dtype: DType, x: u64, w: u64, y: u64, workspace: u64) -> Result<()> {
    let (x, w) = (input("x", x, p.x_shape(), dtype)?, input("w", w, p.w_shape(), dtype)?);
    let y = output("y", y, p.y_shape(), dtype)?;
    work(gpu, p, Operator::Fprop, dtype, workspace)?.fprop(x, w, y, &NO_EXTRAS)
}

/// `dx` from `dy` and `w`, all of `dtype`; shapes as for [`fprop`].
///
/// # Safety
/// As [`fprop`].
///
/// # Errors
/// As [`fprop`].
pub unsafe fn dgrad(gpu: &Gpu, p: &Conv3d, dtype: DType, dy: u64, w: u64, dx: u64, workspace: u64) -> Result<()> {
    let (dy, w) = (input("dy", dy, p.y_shape(), dtype)?, input("w", w, p.w_shape(), dtype)?);
    let dx = output("dx", dx, p.x_shape(), dtype)?;
    work(gpu, p, Operator::Dgrad, dtype, workspace)?.dgrad(dy, w, dx, None)
}

/// `dw`, f32, from `x` and `dy` of `dtype`; shapes as for [`fprop`].
///
/// # Safety
/// As [`fprop`].
///
/// # Errors
/// As [`fprop`].
pub unsafe fn wgrad(gpu: &Gpu, p: &Conv3d, dtype: DType, x: u64, dy: u64, dw: u64, workspace: u64) -> Result<()> {
    let (x, dy) = (input("x", x, p.x_shape(), dtype)?, input("dy", dy, p.y_shape(), dtype)?);
    let dw = output("dw", dw, p.w_shape(), DType::F32)?;
    work(gpu, p, Operator::Wgrad, dtype, workspace)?.wgrad(x, dy, dw)
}

const NO_EXTRAS: Forwards = Forwards { bias: None, statistics: None };

fn work<'a>(gpu: &'a Gpu, p: &'a Conv3d, pass: Operator, dtype: DType, space: u64) -> Result<Work<'a>> {
    let plan = Plan::new(p, pass, dtype, Generation::of(gpu))?;
    aligned("conv3d", "workspace", space, plan.workspace())?;
    Ok(Work { gpu, problem: p, dtype, plan, space })
}

fn input(arg: &'static str, at: u64, shape: Shape, dtype: DType) -> Result<In> {
    aligned("conv3d", arg, at, shape.len())?;
    Ok(In(at, shape.len() * dtype.size()))
}

fn output(arg: &'static str, at: u64, shape: Shape, dtype: DType) -> Result<Out> {
    aligned("conv3d", arg, at, shape.len())?;
    Ok(Out(at, shape.len() * dtype.size()))
}
