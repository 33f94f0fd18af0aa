//! Conversion, filling, and selection of rows on a GPU.

use super::{DType, Integers, Tensor};
use crate::driver::{Access, Declared, Gpu, In, Kernel, Module, Out, Pod, Region, Spread};
use crate::error::Result;
use crate::shape::Shape;

static CAST: Module = Module::new("cast", include_str!("../../ptx/cast.sm_80.ptx"));
static ROWS: Module = Module::new("rows", include_str!("../../ptx/rows.sm_80.ptx"));

/// Indexed by the data type of the result.
static CONVERT: Kernel<(In, Out, u32)> = Kernel::new(&CAST, &["cast_convert_bf16_f32", "cast_convert_f32_bf16"]);
static FILL: Kernel<(Out, f32, u32)> = Kernel::new(&CAST, &["cast_fill_f32"]);
static GATHER: Kernel<(In, In, Out, u32)> =
    Kernel::new(&ROWS, &["rows_gather_f32", "rows_gather_bf16", "rows_gather_wide_f32", "rows_gather_wide_bf16"]);

static COLLECT: Kernel<(Pod<Parts>, Out)> = Kernel::new(&ROWS, &["rows_collect_f32"]);

/// Arrays and the index in the result where each starts.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Parts {
    from: [u64; Parts::MOST],
    start: [u32; Parts::MOST + 1],
    _pad: u32,
}

impl Parts {
    const MOST: usize = 24;
}

pub(crate) fn kernels() -> Vec<Declared> {
    let own = vec![CONVERT.declared(), FILL.declared(), GATHER.declared(), COLLECT.declared()];
    [own, super::ring::kernels()].concat()
}

/// Threads per block.
const BLOCK: u32 = 256;

/// `x`, which is on a GPU, in the other data type.
pub(super) fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let (gpu, n) = (x.memory().gpu(), x.shape().len());
    let mut y = Tensor::on_gpu(gpu, dtype, x.shape())?;
    if n > 0 {
        let target = y.output();
        CONVERT.launch(gpu, dtype.index(), Spread::cover(n.div_ceil(4), BLOCK), (x.input(), target, n as u32))?;
    }
    Ok(y)
}

/// Sets every element of `x`, which must be f32, on a GPU and not shared.
pub(super) fn fill(x: &mut Tensor, value: f32) -> Result<()> {
    let (gpu, n) = (x.memory().gpu().clone(), x.shape().len());
    if n == 0 {
        return Ok(());
    }
    let threads = n.div_ceil(16 / DType::F32.size());
    let target = x.output();
    FILL.launch(&gpu, 0, Spread::cover(threads, BLOCK), (target, value, n as u32))
}

/// The rows `index` of `x`, which is on a GPU; the indices were checked.
pub(super) fn rows(x: &Tensor, index: &[usize]) -> Result<Tensor> {
    let index = Integers::new(index.iter().map(|&i| i as u32).collect()).to(&x.device())?;
    rows_by(x, index.input().expect("it was just brought there"), index.len())
}

/// The rows of `x` given by `n` checked indices on its GPU.
pub(super) fn rows_by(x: &Tensor, order: In, n: usize) -> Result<Tensor> {
    let gpu = x.memory().gpu();
    let row: usize = x.dims()[1..].iter().product();
    let mut dims = x.dims().to_vec();
    dims[0] = n;
    let mut y = Tensor::on_gpu(gpu, x.dtype(), Shape::new(&dims))?;
    if y.shape().is_empty() {
        return Ok(y);
    }
    let wide = 16 / x.dtype().size();
    let (which, threads) =
        if row.is_multiple_of(wide) { (2 + x.dtype().index(), row / wide) } else { (x.dtype().index(), row) };
    let spread = Spread { grid: [threads.div_ceil(BLOCK as usize) as u32, n as u32, 1], ..Spread::line(1, BLOCK) };
    let target = y.output();
    GATHER.launch(gpu, which, spread, (x.input(), order, target, row as u32))?;
    Ok(y)
}

/// The elements of `parts`, f32 on `gpu`, concatenated.
pub(super) fn collect(gpu: &Gpu, parts: &[&Tensor]) -> Result<Tensor> {
    let total: usize = parts.iter().map(|p| p.shape().len()).sum();
    let mut to = Tensor::on_gpu(gpu, DType::F32, [total])?;
    let (Out(mut at, _), parts) = (to.output(), parts.iter().filter(|p| !p.shape().is_empty()).collect::<Vec<_>>());
    for some in parts.chunks(Parts::MOST) {
        let mut table = Parts { from: [0; Parts::MOST], start: [0; Parts::MOST + 1], _pad: 0 };
        let mut reached = Vec::new();
        for (i, part) in some.iter().enumerate() {
            let In(ptr, bytes) = part.input();
            table.from[i] = ptr;
            table.start[i + 1] = table.start[i] + part.shape().len() as u32;
            reached.push(Region { ptr, bytes, access: Access::Read });
        }
        let bytes = 4 * table.start[some.len()] as usize;
        let spread = Spread::line(some.len() as u32, BLOCK);
        COLLECT.launch_reaching(gpu, 0, spread, (Pod(table), Out(at, bytes)), &reached)?;
        at += bytes as u64;
    }
    Ok(to)
}
