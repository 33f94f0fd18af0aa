//! Convolution on a GPU: [`plan`] cuts a pass into blocks, [`launch`] gives it to the GPU, and this file does both for
//! tensors.
//!
//! bf16 goes to tensor cores; f32, and groups in either type, to f32 arithmetic. Tensors of two types are computed in
//! f32, which holds both, and the result is rounded once.

mod launch;
pub mod plan;
mod problem;

pub(in crate::ops) use launch::kernels;

use super::Conv3d;
use crate::driver::{Gpu, In, Memory};
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};
use launch::Work;
use plan::{Pass, Plan};

/// Both tensors in one number type that holds either's values.
fn alike(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let dtype = if a.dtype() == b.dtype() { a.dtype() } else { DType::F32 };
    Ok((a.cast(dtype)?, b.cast(dtype)?))
}

/// Runs `pass` of `p` on `a` and `b`; the result has `shape`, and number type `dtype` as computed.
fn run(gpu: &Gpu, p: &Conv3d, pass: Pass, a: &Tensor, b: &Tensor, dtype: DType, shape: Shape) -> Result<Tensor> {
    let mut result = Tensor::on_gpu(gpu, dtype, shape)?;
    let to = result.output();
    if to.1 == 0 {
        return Ok(result);
    }
    let plan = Plan::new(p, pass, a.dtype(), 1)?;
    if a.shape().is_empty() || b.shape().is_empty() {
        // Sums of nothing.
        gpu.driver().clear(to.0, to.1)?;
        return Ok(result);
    }
    let space: Memory = gpu.alloc(plan.workspace())?;
    let work = Work { gpu, problem: p, dtype: a.dtype(), plan, space: space.ptr() };
    let (a, b): (In, In) = (a.input(), b.input());
    match pass {
        Pass::Fprop => work.fprop(a, b, to, None)?,
        Pass::Dgrad => work.dgrad(a, b, to)?,
        Pass::Wgrad => work.wgrad(a, b, to)?,
    }
    Ok(result)
}

pub(super) fn fprop(gpu: &Gpu, p: &Conv3d, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (a, b) = alike(x, w)?;
    run(gpu, p, Pass::Fprop, &a, &b, a.dtype(), p.y_shape())?.cast(x.dtype())
}

pub(super) fn dgrad(gpu: &Gpu, p: &Conv3d, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (a, b) = alike(dy, w)?;
    run(gpu, p, Pass::Dgrad, &a, &b, a.dtype(), p.x_shape())?.cast(dy.dtype())
}

pub(super) fn wgrad(gpu: &Gpu, p: &Conv3d, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (a, b) = alike(x, dy)?;
    run(gpu, p, Pass::Wgrad, &a, &b, DType::F32, p.w_shape())
}
