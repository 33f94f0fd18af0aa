//! ReLU on a GPU: sixteen bytes per thread.

use crate::driver::{Declared, Gpu, In, Kernel, Module, Out};
use crate::error::Result;
use crate::ops::launch::elements;
use crate::tensor::{DType, Tensor};

static MODULE: Module = Module::new("relu", include_str!("../../../ptx/relu.sm_80.ptx"));
static FORWARD: Kernel<(In, Out, u32)> = Kernel::new(&MODULE, &["relu_forward_f32", "relu_forward_bf16"]);
static BACKWARD: Kernel<(In, In, Out, u32)> = Kernel::new(&MODULE, &["relu_backward_f32", "relu_backward_bf16"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![FORWARD.declared(), BACKWARD.declared()]
}

pub(super) fn relu(gpu: &Gpu, x: &Tensor) -> Result<Tensor> {
    let (n, dtype) = (x.shape().len(), x.dtype());
    let mut y = Tensor::on_gpu(gpu, dtype, x.shape())?;
    if n > 0 {
        let target = y.output();
        FORWARD.launch(gpu, dtype.index(), elements(n, dtype), (x.input(), target, n as u32))?;
    }
    Ok(y)
}

pub(super) fn mask(gpu: &Gpu, dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (n, dtype) = (dy.shape().len(), dy.dtype());
    if dtype != y.dtype() {
        // Of two data types, f32 represents the values of both.
        return mask(gpu, &dy.cast(DType::F32)?, &y.cast(DType::F32)?)?.cast(dtype);
    }
    let mut dx = Tensor::on_gpu(gpu, dtype, dy.shape())?;
    if n > 0 {
        let target = dx.output();
        BACKWARD.launch(gpu, dtype.index(), elements(n, dtype), (dy.input(), y.input(), target, n as u32))?;
    }
    Ok(dx)
}
