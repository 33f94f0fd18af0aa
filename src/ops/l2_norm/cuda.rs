//! Row normalisation on a GPU: a warp per row, eight rows per block.

use crate::driver::{Declared, Gpu, In, Kernel, Module, Out, Spread};
use crate::error::Result;
use crate::ops::launch::{BLOCK, wide};
use crate::tensor::{DType, Tensor};

static MODULE: Module = Module::new("l2_norm", include_str!("../../../ptx/l2_norm.sm_80.ptx"));

/// Indexed by data type, then by whether threads access single elements.
static FORWARD: Kernel<(In, Out, u32, u32)> = Kernel::new(
    &MODULE,
    &[
        "l2_norm_forward_wide_f32",
        "l2_norm_forward_single_f32",
        "l2_norm_forward_wide_bf16",
        "l2_norm_forward_single_bf16",
    ],
);
static BACKWARD: Kernel<(In, In, Out, u32, u32)> = Kernel::new(
    &MODULE,
    &[
        "l2_norm_backward_wide_f32",
        "l2_norm_backward_single_f32",
        "l2_norm_backward_wide_bf16",
        "l2_norm_backward_single_bf16",
    ],
);
static SPLIT: Kernel<(In, Out, Out, u32, u32)> = Kernel::new(
    &MODULE,
    &["l2_norm_split_wide_f32", "l2_norm_split_single_f32", "l2_norm_split_wide_bf16", "l2_norm_split_single_bf16"],
);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![FORWARD.declared(), BACKWARD.declared(), SPLIT.declared()]
}

/// Rows per block.
const ROWS: usize = BLOCK as usize / 32;

/// Which kernel, its grid, and the extents as it takes them.
fn plan(x: &Tensor) -> (usize, Spread, [u32; 2]) {
    let (n, d) = (x.dims()[0], x.dims()[1]);
    let single = !d.is_multiple_of(wide(x.dtype()));
    let which = 2 * x.dtype().index() + usize::from(single);
    (which, Spread::line(n.div_ceil(ROWS) as u32, BLOCK), [n as u32, d as u32])
}

pub(super) fn forward(gpu: &Gpu, x: &Tensor) -> Result<Tensor> {
    let mut y = Tensor::on_gpu(gpu, x.dtype(), x.shape())?;
    if !x.shape().is_empty() {
        let (which, spread, [n, d]) = plan(x);
        let target = y.output();
        FORWARD.launch(gpu, which, spread, (x.input(), target, n, d))?;
    }
    Ok(y)
}

pub(super) fn backward(gpu: &Gpu, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    if dy.dtype() != x.dtype() {
        return backward(gpu, &x.cast(DType::F32)?, &dy.cast(DType::F32)?)?.cast(x.dtype());
    }
    let mut dx = Tensor::on_gpu(gpu, x.dtype(), x.shape())?;
    if !x.shape().is_empty() {
        let (which, spread, [n, d]) = plan(x);
        let target = dx.output();
        BACKWARD.launch(gpu, which, spread, (x.input(), dy.input(), target, n, d))?;
    }
    Ok(dx)
}

pub(super) fn split(gpu: &Gpu, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let column = || Tensor::on_gpu(gpu, DType::F32, [x.dims()[0], 1]);
    let (mut unit, mut floor) = (column()?, column()?);
    if !unit.shape().is_empty() {
        let (which, spread, [n, d]) = plan(x);
        let targets = (unit.output(), floor.output());
        SPLIT.launch(gpu, which, spread, (x.input(), targets.0, targets.1, n, d))?;
    }
    Ok((unit, floor))
}
