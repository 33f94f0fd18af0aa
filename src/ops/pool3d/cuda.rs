//! Pools on a GPU: a thread per sixteen bytes of channels of one position of the result.

use super::Pool;
use crate::driver::{Declared, Gpu, In, Kernel, Memory, Module, Out, Pod, Spread};
use crate::error::{Error, Result};
use crate::ops::divisor::Divisor;
use crate::ops::launch::{BLOCK, wide};
use crate::ops::reduce::cuda::middle;
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};

static MODULE: Module = Module::new("pool3d", include_str!("../../../ptx/pool3d.sm_80.ptx"));

/// The extents as the kernels take them.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Extents {
    c: u32,
    /// Groups of the channels that one thread has.
    groups: Divisor,
    input: [Divisor; 3],
    out: [Divisor; 3],
    kernel: [Divisor; 3],
    stride: [Divisor; 3],
    dilation: [Divisor; 3],
    pad: [u32; 3],
}

/// The four entries of a pass: indexed by data type, then by whether threads access single elements.
macro_rules! entries {
    ($pass:literal) => {
        &[
            concat!("pool3d_", $pass, "_wide_f32"),
            concat!("pool3d_", $pass, "_single_f32"),
            concat!("pool3d_", $pass, "_wide_bf16"),
            concat!("pool3d_", $pass, "_single_bf16"),
        ]
    };
}

static MAX_FORWARD: Kernel<(In, Out, Out, Pod<Extents>, u32)> = Kernel::new(&MODULE, entries!("max_forward"));
static MAX_BACKWARD: Kernel<(In, In, Out, Pod<Extents>, u32)> = Kernel::new(&MODULE, entries!("max_backward"));
static MAX_GATHER: Kernel<(In, In, Out, Pod<Extents>, u32)> = Kernel::new(&MODULE, entries!("max_gather"));
static AVG_FORWARD: Kernel<(In, Out, Pod<Extents>, f32, u32)> = Kernel::new(&MODULE, entries!("avg_forward"));
static AVG_BACKWARD: Kernel<(In, Out, Pod<Extents>, f32, u32)> = Kernel::new(&MODULE, entries!("avg_backward"));
type GlobalBackward = (In, Out, Pod<Divisor>, Pod<Divisor>, u32);
static GLOBAL_BACKWARD: Kernel<GlobalBackward> = Kernel::new(&MODULE, entries!("global_backward"));

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![
        MAX_FORWARD.declared(),
        MAX_BACKWARD.declared(),
        MAX_GATHER.declared(),
        AVG_FORWARD.declared(),
        AVG_BACKWARD.declared(),
        GLOBAL_BACKWARD.declared(),
    ]
}

/// Channels of one thread, of `c`.
fn width(c: usize, dtype: DType) -> usize {
    if c.is_multiple_of(wide(dtype)) { wide(dtype) } else { 1 }
}

/// The entry for a result of this shape, its grid, and its number of threads.
fn plan(result: Shape, dtype: DType) -> (usize, Spread, u32) {
    let width = width(result.last(), dtype);
    let threads = result.len() / width;
    (2 * dtype.index() + usize::from(width == 1), Spread::cover(threads, BLOCK), threads as u32)
}

fn extents(p: &Pool, dtype: DType) -> Pod<Extents> {
    let axes = |v: [usize; 3]| v.map(Divisor::new);
    Pod(Extents {
        c: p.c as u32,
        groups: Divisor::new(p.c / width(p.c, dtype)),
        input: axes(p.input),
        out: axes(p.out),
        kernel: axes(p.kernel),
        stride: axes(p.window.stride),
        dilation: axes(p.window.dilation),
        pad: p.window.pad.map(|v| v as u32),
    })
}

/// The reciprocal of the kernel's size.
fn factor(p: &Pool) -> f32 {
    1.0 / p.kernel.iter().product::<usize>() as f32
}

/// Refuses a kernel whose taps 16 bits cannot number.
pub(super) fn check_taps(p: &Pool) -> Result<()> {
    match p.kernel.iter().product::<usize>() {
        taps if taps > 1 << 16 => Err(Error::param("max_pool", "kernel", taps, "a GPU takes at most 65536 taps")),
        _ => Ok(()),
    }
}

pub(super) fn max(gpu: &Gpu, p: &Pool, x: &Tensor) -> Result<(Tensor, Memory)> {
    check_taps(p)?;
    let mut y = Tensor::on_gpu(gpu, x.dtype(), p.out_shape())?;
    let taps = gpu.alloc(2 * p.out_shape().len())?;
    launch_max(gpu, p, x.dtype(), x.input(), y.output(), Out(taps.ptr(), taps.bytes()))?;
    Ok((y, taps))
}

/// The maxima `y` of `x`, and the tap of each.
pub(super) fn launch_max(gpu: &Gpu, p: &Pool, dtype: DType, x: In, y: Out, taps: Out) -> Result<()> {
    if p.out_shape().is_empty() {
        return Ok(());
    }
    let (which, spread, n) = plan(p.out_shape(), dtype);
    MAX_FORWARD.launch(gpu, which, spread, (x, y, taps, extents(p, dtype), n))
}

/// The positions, on the host, computed from the tap indices that the kernels store.
pub(super) fn positions(p: &Pool, at: &Memory) -> Result<Vec<u32>> {
    let mut taps = vec![0u16; at.bytes() / 2];
    if !taps.is_empty() {
        at.gpu().driver().download(at.ptr(), bytemuck::cast_slice_mut(&mut taps))?;
    }
    let ([to, ho, wo], [_, kh, kw], [_, h, w]) = (p.out, p.kernel, p.input);
    let position = |(i, &tap): (usize, &u16)| {
        let (o, tap) = (i / p.c, usize::from(tap));
        let under = |axis, o, tap| p.under(axis, o, tap);
        let t = under(0, o / (ho * wo) % to, tap / (kh * kw));
        ((t * h + under(1, o / wo % ho, tap / kw % kh)) * w + under(2, o % wo, tap % kw)) as u32
    };
    Ok(taps.iter().enumerate().map(position).collect())
}

pub(super) fn unpool(gpu: &Gpu, p: &Pool, dy: &Tensor, at: &Memory) -> Result<Tensor> {
    let mut dx = Tensor::on_gpu(gpu, dy.dtype(), p.in_shape())?;
    launch_unpool(gpu, p, dy.dtype(), dy.input(), In(at.ptr(), at.bytes()), dx.output())?;
    Ok(dx)
}

/// The gradient `dx` of the maxima at `taps`.
pub(super) fn launch_unpool(gpu: &Gpu, p: &Pool, dtype: DType, dy: In, taps: In, dx: Out) -> Result<()> {
    if p.in_shape().is_empty() {
        return Ok(());
    }
    let (which, spread, n) = plan(p.in_shape(), dtype);
    MAX_BACKWARD.launch(gpu, which, spread, (dy, taps, dx, extents(p, dtype), n))
}

pub(super) fn gather(gpu: &Gpu, p: &Pool, x: &Tensor, at: &Memory) -> Result<Tensor> {
    let mut y = Tensor::on_gpu(gpu, x.dtype(), p.out_shape())?;
    if at.bytes() > 0 {
        let (which, spread, n) = plan(p.out_shape(), x.dtype());
        let target = y.output();
        MAX_GATHER.launch(
            gpu,
            which,
            spread,
            (x.input(), In(at.ptr(), at.bytes()), target, extents(p, x.dtype()), n),
        )?;
    }
    Ok(y)
}

pub(super) fn avg(gpu: &Gpu, p: &Pool, x: &Tensor) -> Result<Tensor> {
    let mut y = Tensor::on_gpu(gpu, x.dtype(), p.out_shape())?;
    launch_avg(gpu, p, x.dtype(), x.input(), y.output())?;
    Ok(y)
}

/// The means `y` of `x`.
pub(super) fn launch_avg(gpu: &Gpu, p: &Pool, dtype: DType, x: In, y: Out) -> Result<()> {
    if p.out_shape().is_empty() {
        return Ok(());
    }
    let (which, spread, n) = plan(p.out_shape(), dtype);
    AVG_FORWARD.launch(gpu, which, spread, (x, y, extents(p, dtype), factor(p), n))
}

pub(super) fn avg_back(gpu: &Gpu, p: &Pool, dy: &Tensor) -> Result<Tensor> {
    let mut dx = Tensor::on_gpu(gpu, dy.dtype(), p.in_shape())?;
    launch_avg_back(gpu, p, dy.dtype(), dy.input(), dx.output())?;
    Ok(dx)
}

/// The gradient `dx` of the means.
pub(super) fn launch_avg_back(gpu: &Gpu, p: &Pool, dtype: DType, dy: In, dx: Out) -> Result<()> {
    if p.in_shape().is_empty() {
        return Ok(());
    }
    let (which, spread, n) = plan(p.in_shape(), dtype);
    AVG_BACKWARD.launch(gpu, which, spread, (dy, dx, extents(p, dtype), factor(p), n))
}

/// The means over the middle axis of `[n places c]`.
pub(super) fn global(gpu: &Gpu, x: &Tensor, [n, places, c]: [usize; 3]) -> Result<Tensor> {
    if n * c == 0 {
        return Tensor::on_gpu(gpu, x.dtype(), [n, c]);
    }
    middle(gpu, x, [n, places, c], x.dtype(), 1.0 / places as f32)
}

pub(super) fn global_back(gpu: &Gpu, dy: &Tensor, x_shape: Shape, places: usize) -> Result<Tensor> {
    let mut dx = Tensor::on_gpu(gpu, dy.dtype(), x_shape)?;
    launch_global_back(gpu, x_shape, places, dy.dtype(), dy.input(), dx.output())?;
    Ok(dx)
}

/// The gradient `dx` of the means over `places` places.
pub(super) fn launch_global_back(
    gpu: &Gpu,
    x_shape: Shape,
    places: usize,
    dtype: DType,
    dy: In,
    dx: Out,
) -> Result<()> {
    if x_shape.is_empty() {
        return Ok(());
    }
    let (which, spread, n) = plan(x_shape, dtype);
    let c = x_shape.last();
    let [groups, places] = [c / width(c, dtype), places].map(|v| Pod(Divisor::new(v)));
    GLOBAL_BACKWARD.launch(gpu, which, spread, (dy, dx, groups, places, n))
}
