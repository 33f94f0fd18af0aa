//! Matrix products on a GPU, as convolutions with one tap, whose pixels are rows. With `x [m k]` as `m` pixels of `k`
//! channels, fprop is `a · bᵀ`, dgrad `a · b`, and wgrad `aᵀ · b` (a sum over pixels). Where both factors are
//! transposed, the first is transposed into a copy.

use crate::driver::{Declared, Gpu, In, Kernel, Module, Out, Spread};
use crate::error::Result;
use crate::ops::arith::{self, Arith};
use crate::ops::conv3d::{Conv3d, Geometry, cuda as conv};
use crate::shape::Window;
use crate::tensor::{DType, Device, Tensor};

static MODULE: Module = Module::new("matmul", include_str!("../../../ptx/matmul.sm_80.ptx"));
static TRANSPOSE: Kernel<(In, Out, u32, u32)> =
    Kernel::new(&MODULE, &["matmul_transpose_f32", "matmul_transpose_bf16"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![TRANSPOSE.declared()]
}

/// A convolution of `pixels` rows of `c` channels to rows of `k`.
fn pointwise(pixels: usize, c: usize, k: usize) -> Result<Conv3d> {
    let geometry = Geometry::new(Window::UNIT);
    Conv3d::new("matmul", [1, 1, 1, pixels, c].into(), [k, 1, 1, 1, c].into(), &geometry)
}

/// `op(a) · op(b)` of extents `m k n`, rounded to `dtype`.
pub(super) fn apply(
    gpu: &Gpu,
    dtype: DType,
    [m, k, n]: [usize; 3],
    (a, ta): (&Tensor, bool),
    (b, tb): (&Tensor, bool),
) -> Result<Tensor> {
    if m * k * n == 0 {
        return Tensor::zeros_on(&Device::Cuda(gpu.clone()), [m, n])?.cast(dtype);
    }
    // An f32 result is computed in f32: products of bf16 are rounded to bf16, except sums over pixels.
    let wide = |t: &Tensor| t.cast(if dtype == DType::F32 { dtype } else { t.dtype() });
    let y = match (ta, tb) {
        (false, true) => conv::fprop(gpu, &pointwise(m, k, n)?, &wide(a)?, b, None)?,
        (false, false) => conv::dgrad(gpu, &pointwise(m, n, k)?, &wide(a)?, b)?,
        (true, false) => conv::wgrad(gpu, &pointwise(k, n, m)?, b, None, a)?,
        (true, true) => conv::fprop(gpu, &pointwise(m, k, n)?, &wide(&transpose(gpu, a)?)?, b, None)?,
    };
    y.reshape([m, n])?.cast(dtype)
}

/// `a · bᵀ + bias`, rounded once, to the type of `a`.
pub(super) fn apply_biased(gpu: &Gpu, [m, k, n]: [usize; 3], a: &Tensor, b: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if m * k * n == 0 {
        let zeros = Tensor::zeros_on(&Device::Cuda(gpu.clone()), [m, n])?;
        return arith::forward(Arith::Add, &zeros, &bias.reshape([1, n])?)?.cast(a.dtype());
    }
    conv::fprop(gpu, &pointwise(m, k, n)?, a, b, Some(bias))?.reshape([m, n])
}

/// The transpose of `a`.
fn transpose(gpu: &Gpu, a: &Tensor) -> Result<Tensor> {
    let &[rows, columns] = a.dims() else { unreachable!("a matrix, as was checked") };
    let mut turned = Tensor::on_gpu(gpu, a.dtype(), [columns, rows])?;
    if !a.shape().is_empty() {
        let spread = Spread::line((rows.div_ceil(32) * columns.div_ceil(32)) as u32, 256);
        let to = turned.output();
        TRANSPOSE.launch(gpu, a.dtype().index(), spread, (a.input(), to, rows as u32, columns as u32))?;
    }
    Ok(turned)
}
