//! Softmax and cross-entropy on a GPU: a warp per row, eight rows per block.

use crate::driver::{Declared, Gpu, In, Kernel, Module, Out, Spread};
use crate::error::Result;
use crate::ops::launch::{BLOCK, wide};
use crate::ops::reduce::cuda::middle;
use crate::tensor::{DType, Device, Integers, Tensor};

static MODULE: Module = Module::new("cross_entropy", include_str!("../../../ptx/cross_entropy.sm_80.ptx"));

/// The four entries of a pass: indexed by data type, then by whether threads access single elements.
macro_rules! entries {
    ($pass:literal) => {
        &[
            concat!("cross_entropy_", $pass, "_wide_f32"),
            concat!("cross_entropy_", $pass, "_single_f32"),
            concat!("cross_entropy_", $pass, "_wide_bf16"),
            concat!("cross_entropy_", $pass, "_single_bf16"),
        ]
    };
}

static SOFTMAX: Kernel<(In, Out, u32, u32)> = Kernel::new(&MODULE, entries!("softmax"));
static LOSS: Kernel<(In, In, Out, u32, u32)> = Kernel::new(&MODULE, entries!("loss"));
static BACKWARD: Kernel<(In, In, In, Out, u32, u32)> = Kernel::new(&MODULE, entries!("backward"));

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![SOFTMAX.declared(), LOSS.declared(), BACKWARD.declared()]
}

/// Which kernel, its grid, and the extents as it takes them.
fn plan(x: &Tensor) -> (usize, Spread, [u32; 2]) {
    let (n, c) = (x.dims()[0], x.dims()[1]);
    let which = 2 * x.dtype().index() + usize::from(!c.is_multiple_of(wide(x.dtype())));
    (which, Spread::line(n.div_ceil(BLOCK as usize / 32) as u32, BLOCK), [n as u32, c as u32])
}

pub(super) fn softmax(gpu: &Gpu, x: &Tensor) -> Result<Tensor> {
    let mut y = Tensor::on_gpu(gpu, x.dtype(), x.shape())?;
    if !x.shape().is_empty() {
        let (which, spread, [n, c]) = plan(x);
        let target = y.output();
        SOFTMAX.launch(gpu, which, spread, (x.input(), target, n, c))?;
    }
    Ok(y)
}

/// The mean loss, a scalar.
pub(super) fn loss(gpu: &Gpu, x: &Tensor, labels: &Integers) -> Result<Tensor> {
    let (which, spread, [n, c]) = plan(x);
    let labels = labels.to(&Device::Cuda(gpu.clone()))?;
    let mut losses = Tensor::on_gpu(gpu, DType::F32, [n as usize])?;
    let target = losses.output();
    LOSS.launch(gpu, which, spread, (x.input(), labels.input().expect("brought there"), target, n, c))?;
    middle(gpu, &losses, [1, n as usize, 1], DType::F32, 1.0 / n as f32)?.reshape([])
}

pub(super) fn backward(gpu: &Gpu, x: &Tensor, labels: &Integers, dy: &Tensor) -> Result<Tensor> {
    let (which, spread, [n, c]) = plan(x);
    let (labels, dy) = (labels.to(&Device::Cuda(gpu.clone()))?, dy.cast(DType::F32)?);
    let mut dx = Tensor::on_gpu(gpu, x.dtype(), x.shape())?;
    let target = dx.output();
    let args = (x.input(), labels.input().expect("brought there"), dy.input(), target, n, c);
    BACKWARD.launch(gpu, which, spread, args)?;
    Ok(dx)
}
