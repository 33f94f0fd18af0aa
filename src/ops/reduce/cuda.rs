//! Sums on a GPU: one run of adjacent axes after another, the last first, each as the middle of `[outer rows c]`. Long
//! runs are summed in parts, and then the parts. Broadcasting is one launch.

use crate::driver::{Declared, Gpu, In, Kernel, Module, Out, Pod, Spread};
use crate::error::Result;
use crate::ops::arith::cpu::axes;
use crate::ops::launch::{BLOCK, Columns, elements, wide};
use crate::shape::Shape;
use crate::tensor::{DType, Device, Tensor};

static MODULE: Module = Module::new("reduce", include_str!("../../../ptx/reduce.sm_80.ptx"));

type ColumnSums = (In, Out, u32, u32, u32, u32, u32, u32, f32);
/// Indexed by the data type of `x`, then that of `y`, then by whether threads access single elements.
static COLUMNS: Kernel<ColumnSums> = Kernel::new(
    &MODULE,
    &[
        "reduce_columns_wide_f32",
        "reduce_columns_single_f32",
        "reduce_columns_wide_last_bf16",
        "reduce_columns_single_last_bf16",
        "reduce_columns_wide_part_bf16",
        "reduce_columns_single_part_bf16",
        "reduce_columns_wide_bf16",
        "reduce_columns_single_bf16",
    ],
);
type RowSums = (In, Out, u32, u32, u32, u32, u32, f32);
/// In the same order.
static ROWS: Kernel<RowSums> = Kernel::new(
    &MODULE,
    &[
        "reduce_rows_wide_f32",
        "reduce_rows_single_f32",
        "reduce_rows_wide_last_bf16",
        "reduce_rows_single_last_bf16",
        "reduce_rows_wide_part_bf16",
        "reduce_rows_single_part_bf16",
        "reduce_rows_wide_bf16",
        "reduce_rows_single_bf16",
    ],
);
static BROADCAST: Kernel<(In, Out, Pod<Axes>, u32)> =
    Kernel::new(&MODULE, &["reduce_broadcast_f32", "reduce_broadcast_bf16"]);

static ORDERED: Module = Module::new("reduce_in_order", include_str!("../../../ptx/reduce_in_order.sm_80.ptx"));

/// Indexed by the data type of `x`, then that of `y`, then by whether threads access single elements.
static IN_ORDER: Kernel<(In, Out, u32, u32)> = Kernel::new(
    &ORDERED,
    &[
        "reduce_in_order_wide_f32",
        "reduce_in_order_single_f32",
        "reduce_in_order_wide_f32_bf16",
        "reduce_in_order_single_f32_bf16",
        "reduce_in_order_wide_bf16_f32",
        "reduce_in_order_single_bf16_f32",
        "reduce_in_order_wide_bf16",
        "reduce_in_order_single_bf16",
    ],
);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![COLUMNS.declared(), ROWS.declared(), BROADCAST.declared(), IN_ORDER.declared()]
}

/// The merged axes as the kernel takes them.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Axes {
    extent: [u32; 5],
    stride: [u32; 5],
}

/// Sums over the last axis of `[outer len]`: `2^shift` threads per row, 256 per block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rows {
    outer: usize,
    len: usize,
    width: usize,
    shift: u32,
    span: usize,
    chunks: usize,
}

impl Rows {
    /// The plan for extents above 0. A thread does at least four loads where the row is long enough, and at most 64.
    fn new(outer: usize, len: usize, dtype: DType) -> Rows {
        let aligned = outer == 1 || len.is_multiple_of(wide(dtype));
        let width = if aligned { wide(dtype) } else { 1 };
        let shift = len.div_ceil(4 * width).next_power_of_two().trailing_zeros().min(8);
        let line = width << shift;
        let lines = len.div_ceil(line);
        let span = if shift == 8 { lines.div_ceil(512).clamp(4, 64) * line } else { lines * line };
        Rows { outer, len, width, shift, span, chunks: len.div_ceil(span) }
    }

    fn spread(&self) -> Spread {
        Spread::line((self.outer.div_ceil(BLOCK as usize >> self.shift) * self.chunks) as u32, BLOCK)
    }
}

pub(super) fn sum_to(gpu: &Gpu, a: &Tensor, shape: Shape) -> Result<Tensor> {
    if a.shape().is_empty() {
        return Tensor::zeros_on(&Device::Cuda(gpu.clone()), shape)?.cast(a.dtype());
    }
    let mut runs = runs(a.shape(), shape);
    let mut sum = a.clone();
    while let Some(at) = runs.iter().rposition(|(_, reduced)| *reduced) {
        let (rows, _) = runs.remove(at);
        let product = |runs: &[(usize, bool)]| runs.iter().map(|(extent, _)| extent).product();
        let (outer, c) = (product(&runs[..at]), product(&runs[at..]));
        let last = !runs.iter().any(|(_, reduced)| *reduced);
        sum = middle(gpu, &sum, [outer, rows, c], if last { a.dtype() } else { DType::F32 }, 1.0)?;
    }
    sum.reshape(shape)
}

/// Axes merged into runs that are summed and runs that are kept, extents of 1 omitted.
fn runs(from: Shape, to: Shape) -> Vec<(usize, bool)> {
    let mut runs: Vec<(usize, bool)> = Vec::new();
    for (&from, &to) in from.dims().iter().zip(to.dims()).filter(|(from, _)| **from != 1) {
        match runs.last_mut() {
            Some((extent, reduced)) if *reduced == (from != to) => *extent *= from,
            _ => runs.push((from, from != to)),
        }
    }
    runs
}

/// `factor` times the sums over the middle axis of `x`, read as `[outer rows c]` without extents of 0: `[outer c]` of
/// `dtype`.
pub(in crate::ops) fn middle(
    gpu: &Gpu,
    x: &Tensor,
    [outer, rows, c]: [usize; 3],
    dtype: DType,
    factor: f32,
) -> Result<Tensor> {
    let sums = Middle { outer, rows, c, from: x.dtype(), to: dtype, factor };
    let mut y = Tensor::on_gpu(gpu, dtype, [outer, c])?;
    let space = gpu.alloc(sums.workspace())?;
    sums.launch(gpu, x.input(), y.output(), space.ptr())?;
    Ok(y)
}

/// Sums over the middle axis of `[outer rows c]`, no extent of which is 0.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Middle {
    pub outer: usize,
    pub rows: usize,
    pub c: usize,
    /// Data types of the elements and of the sums.
    pub from: DType,
    pub to: DType,
    /// What the sums are multiplied by.
    pub factor: f32,
}

impl Middle {
    /// Parts of the rows that are summed separately.
    fn chunks(&self) -> usize {
        if self.c == 1 {
            Rows::new(self.outer, self.rows, self.from).chunks
        } else {
            Columns::new(self.outer, self.rows, self.c, self.from).chunks
        }
    }

    /// Bytes of the sums of parts, and the sums over these, where there are several parts.
    fn parts(&self) -> Option<(usize, Middle)> {
        let chunks = self.chunks();
        let bytes = 4 * self.outer * chunks * self.c;
        (chunks > 1).then_some((bytes.next_multiple_of(256), Middle { rows: chunks, from: DType::F32, ..*self }))
    }

    /// Bytes of working space.
    pub fn workspace(&self) -> usize {
        self.parts().map_or(0, |(bytes, rest)| bytes + rest.workspace())
    }

    /// Launches them: `y [outer c]` from `x`, with working space at `space`.
    pub fn launch(&self, gpu: &Gpu, x: In, y: Out, space: u64) -> Result<()> {
        let rest = self.parts();
        let (target, to, factor) = match &rest {
            None => (y, self.to, self.factor),
            Some(_) => (Out(space, 4 * self.outer * self.chunks() * self.c), DType::F32, 1.0),
        };
        let which = |single: bool| 4 * self.from.index() + 2 * to.index() + usize::from(single);
        if self.c == 1 {
            let p = Rows::new(self.outer, self.rows, self.from);
            let [outer, len, span, chunks] = [p.outer, p.len, p.span, p.chunks].map(|v| v as u32);
            let args = (x, target, outer, len, span, chunks, p.shift, factor);
            ROWS.launch(gpu, which(p.width == 1), p.spread(), args)?;
        } else {
            let p = Columns::new(self.outer, self.rows, self.c, self.from);
            let [rows, c, span, chunks, tiles] = [p.rows, p.c, p.span, p.chunks, p.tiles].map(|v| v as u32);
            let args = (x, target, rows, c, span, chunks, tiles, p.shift, factor);
            COLUMNS.launch(gpu, which(p.single()), p.spread(), args)?;
        }
        rest.map_or(Ok(()), |(bytes, rest)| rest.launch(gpu, target.written(), y, space + bytes as u64))
    }
}

/// The rows of `x [rows ..]` added one after another, `[..]` of `dtype`.
pub(super) fn in_order(gpu: &Gpu, x: &Tensor, dtype: DType, shape: Shape) -> Result<Tensor> {
    let mut y = Tensor::on_gpu(gpu, dtype, shape)?;
    let n = shape.len();
    if n == 0 {
        return Ok(y);
    }
    let width = if n.is_multiple_of(wide(x.dtype())) { wide(x.dtype()) } else { 1 };
    let which = 4 * x.dtype().index() + 2 * dtype.index() + usize::from(width == 1);
    let target = y.output();
    let rows = x.dims()[0] as u32;
    IN_ORDER.launch(gpu, which, Spread::cover(n / width, BLOCK), (x.input(), target, rows, n as u32))?;
    Ok(y)
}

pub(super) fn broadcast_to(gpu: &Gpu, a: &Tensor, shape: Shape) -> Result<Tensor> {
    let mut y = Tensor::on_gpu(gpu, a.dtype(), shape)?;
    let n = shape.len();
    if n == 0 {
        return Ok(y);
    }
    let mut joined = Axes { extent: [1; 5], stride: [0; 5] };
    for (i, axis) in axes(a.shape(), a.shape(), shape).iter().enumerate() {
        (joined.extent[i], joined.stride[i]) = (axis.extent as u32, axis.a as u32);
    }
    let target = y.output();
    BROADCAST.launch(gpu, a.dtype().index(), elements(n, a.dtype()), (a.input(), target, Pod(joined), n as u32))?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    /// How often each element is read, by the index arithmetic of the kernel `rows`.
    fn reads(p: &Rows) -> Vec<u32> {
        let mut seen = vec![0; p.outer * p.len];
        for block in 0..p.spread().grid[0] as usize {
            for thread in 0..BLOCK as usize {
                let (lane, chunk) = (thread & ((1 << p.shift) - 1), block % p.chunks);
                let row = block / p.chunks * (BLOCK as usize >> p.shift) + (thread >> p.shift);
                let end = p.len.min((chunk + 1) * p.span);
                for i in (chunk * p.span + lane * p.width..end).step_by(p.width << p.shift) {
                    if row < p.outer {
                        seen[row * p.len..][i..end.min(i + p.width)].iter_mut().for_each(|s| *s += 1);
                    }
                }
            }
        }
        seen
    }

    #[test]
    fn rows_read_each_element_once() {
        for case in 0..64 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let [outer, len] = [40, 9000].map(|end| rng.random_range(1..end));
            let p = Rows::new(outer, len, if case.is_multiple_of(2) { DType::F32 } else { DType::BF16 });
            assert!(reads(&p).iter().all(|n| *n == 1), "{p:?}");
        }
    }

    #[test]
    fn axes_are_joined_to_runs() {
        let of = |from: &[usize], to: &[usize]| runs(Shape::new(from), Shape::new(to));
        assert_eq!(of(&[4, 3, 5, 2], &[1, 3, 1, 2]), [(4, true), (3, false), (5, true), (2, false)]);
        assert_eq!(of(&[4, 1, 5], &[1, 1, 5]), [(4, true), (5, false)]);
        assert_eq!(of(&[2, 3, 4], &[1, 1, 1]), [(24, true)]);
    }
}
