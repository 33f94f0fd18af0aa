//! The functions on a GPU: sixteen bytes per thread.

use super::Unary;
use crate::driver::{Declared, Gpu, In, Kernel, Module, Out};
use crate::error::Result;
use crate::ops::launch::elements;
use crate::tensor::Tensor;

static MODULE: Module = Module::new("unary", include_str!("../../../ptx/unary.sm_80.ptx"));

/// Indexed by function, then data type.
static APPLY: Kernel<(In, Out, u32)> = Kernel::new(
    &MODULE,
    &[
        "unary_exp_f32",
        "unary_exp_bf16",
        "unary_ln_f32",
        "unary_ln_bf16",
        "unary_sqrt_f32",
        "unary_sqrt_bf16",
        "unary_recip_f32",
        "unary_recip_bf16",
    ],
);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![APPLY.declared()]
}

pub(super) fn apply(gpu: &Gpu, f: Unary, x: &Tensor) -> Result<Tensor> {
    let (n, dtype) = (x.shape().len(), x.dtype());
    let mut y = Tensor::on_gpu(gpu, dtype, x.shape())?;
    if n > 0 {
        let target = y.output();
        APPLY.launch(gpu, 2 * f as usize + dtype.index(), elements(n, dtype), (x.input(), target, n as u32))?;
    }
    Ok(y)
}
