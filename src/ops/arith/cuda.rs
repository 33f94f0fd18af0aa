//! The four operations and scaling on a GPU: a thread per sixteen bytes of the result where both arguments are
//! contiguous along the run, else a thread per element.

use super::{Arith, cpu};
use crate::driver::{Declared, Gpu, In, Kernel, Module, Out, Pod, Spread};
use crate::error::Result;
use crate::ops::launch::{BLOCK, elements};
use crate::shape::Shape;
use crate::tensor::Tensor;

static MODULE: Module = Module::new("arith", include_str!("../../../ptx/arith.sm_80.ptx"));

/// Indexed by the data types of `a` and `b`.
static ELEMENTWISE: Kernel<(In, In, Out, u32, u32)> = Kernel::new(
    &MODULE,
    &["arith_elementwise_f32", "arith_elementwise_f32_bf16", "arith_elementwise_bf16_f32", "arith_elementwise_bf16"],
);
static BROADCAST: Kernel<(In, In, Out, Pod<Axes>, u32, u32)> = Kernel::new(
    &MODULE,
    &["arith_broadcast_f32", "arith_broadcast_f32_bf16", "arith_broadcast_bf16_f32", "arith_broadcast_bf16"],
);
static SCALE: Kernel<(In, Out, f32, u32)> = Kernel::new(&MODULE, &["arith_scale_f32", "arith_scale_bf16"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![ELEMENTWISE.declared(), BROADCAST.declared(), SCALE.declared()]
}

/// The merged axes as the kernel takes them.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Axes {
    extent: [u32; 5],
    a: [u32; 5],
    b: [u32; 5],
}

pub(super) fn apply(gpu: &Gpu, op: Arith, a: &Tensor, b: &Tensor, out: Shape) -> Result<Tensor> {
    let n = out.len();
    let mut y = Tensor::on_gpu(gpu, a.dtype(), out)?;
    if n == 0 {
        return Ok(y);
    }
    let (which, op) = (2 * a.dtype().index() + b.dtype().index(), op as u32);
    let target = y.output();
    if a.shape() == b.shape() {
        ELEMENTWISE.launch(gpu, which, elements(n, a.dtype()), (a.input(), b.input(), target, op, n as u32))?;
        return Ok(y);
    }
    let mut axes = Axes { extent: [1; 5], a: [0; 5], b: [0; 5] };
    for (i, axis) in cpu::axes(a.shape(), b.shape(), out).iter().enumerate() {
        (axes.extent[i], axes.a[i], axes.b[i]) = (axis.extent as u32, axis.a as u32, axis.b as u32);
    }
    BROADCAST.launch(gpu, which, Spread::cover(n, BLOCK), (a.input(), b.input(), target, Pod(axes), op, n as u32))?;
    Ok(y)
}

pub(super) fn scale(gpu: &Gpu, a: &Tensor, factor: f32) -> Result<Tensor> {
    let n = a.shape().len();
    let mut y = Tensor::on_gpu(gpu, a.dtype(), a.shape())?;
    if n > 0 {
        let target = y.output();
        SCALE.launch(gpu, a.dtype().index(), elements(n, a.dtype()), (a.input(), target, factor, n as u32))?;
    }
    Ok(y)
}
