//! The moving average on a GPU, one launch per tensor. For all tensors of a network at once: [`crate::ops::sgd`].

use crate::driver::{Declared, Gpu, In, InOut, Kernel, Module};
use crate::error::Result;
use crate::ops::launch::elements;
use crate::tensor::{DType, Tensor};

static MODULE: Module = Module::new("ema", include_str!("../../../ptx/ema.sm_80.ptx"));
static BLEND: Kernel<(InOut, In, f32, f32, u32)> = Kernel::new(&MODULE, &["ema_blend_f32"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![BLEND.declared()]
}

pub(super) fn blend(gpu: &Gpu, key: &mut Tensor, query: &Tensor, keep: f32, fresh: f32) -> Result<()> {
    let n = key.shape().len();
    if n == 0 {
        return Ok(());
    }
    let target = key.in_out()?;
    BLEND.launch(gpu, 0, elements(n, DType::F32), (target, query.input(), keep, fresh, n as u32))
}
