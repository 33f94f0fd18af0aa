//! Batch norm on a GPU. Forward: sums, their merging, the result; likewise backward. There is no host synchronisation.

use super::{BatchStatistics, Gradients, Norm, ReluMask, Rows, Running, Statistics, rows::tiles};
use crate::driver::{Declared, Gpu, In, InOut, Kernel, Module, Out, Pod, Spread};
use crate::error::Result;
use crate::ops::launch::{BLOCK, Columns};
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};

static MODULE: Module = Module::new("batch_norm", include_str!("../../../ptx/batch_norm.sm_80.ptx"));
static MERGING: Module = Module::new("batch_norm_merge", include_str!("../../../ptx/batch_norm_merge.sm_80.ptx"));

/// How a pass is divided into blocks, as the kernels take it.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Partition {
    rows: u32,
    c: u32,
    span: u32,
    chunks: u32,
    tiles: u32,
    shift: u32,
}

/// What the merging kernel of the forward pass takes besides pointers.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Merging {
    groups: u32,
    rows: u32,
    c: u32,
    span: u32,
    chunks: u32,
    /// Where the sums are about one shift for each channel, the number of tiles that they are of; 0 where each chunk has a
    /// shift of its own.
    tiles: u32,
    eps: f32,
    keep: f32,
    fresh: f32,
}

/// The four entries of a pass: indexed by data type, then by whether threads access single elements.
macro_rules! entries {
    ($pass:literal) => {
        &[
            concat!("batch_norm_", $pass, "_wide_f32"),
            concat!("batch_norm_", $pass, "_single_f32"),
            concat!("batch_norm_", $pass, "_wide_bf16"),
            concat!("batch_norm_", $pass, "_single_bf16"),
        ]
    };
}

/// Mean, `1/√(var + eps)`, gamma, beta: the four inputs after x (and dy).
type Numbers = (In, In, In, In);

static SUMS: Kernel<(In, Out, Pod<Partition>)> = Kernel::new(&MODULE, entries!("sums"));

/// Sums, shift, mean, inv_std, statistics of the batch, running averages.
type Merge = (In, In, Out, Out, Out, Out, InOut, InOut, Pod<Merging>);
static MERGE: Kernel<Merge> = Kernel::new(&MERGING, &["batch_norm_merge_f32"]);
static INV_STD: Kernel<(In, Out, u32, f32)> = Kernel::new(&MERGING, &["batch_norm_inv_std_f32"]);

type Apply = (In, In, In, In, In, Out, Pod<Partition>, u32);
static APPLY: Kernel<Apply> = Kernel::new(&MODULE, entries!("apply"));
type Add = (In, In, In, In, In, In, Out, Pod<Partition>, u32);
static ADD: Kernel<Add> = Kernel::new(&MODULE, entries!("add"));

type BackwardSums = (In, In, In, In, In, In, Out, Pod<Partition>);
static BACKWARD_SUMS: [Kernel<BackwardSums>; 2] =
    [Kernel::new(&MODULE, entries!("backward_sums")), Kernel::new(&MODULE, entries!("backward_sums_mask_x"))];
type BackwardSumsMaskY = (In, In, In, In, In, In, In, Out, Out, Pod<Partition>);
static BACKWARD_SUMS_MASK_Y: Kernel<BackwardSumsMaskY> = Kernel::new(&MODULE, entries!("backward_sums_mask_y"));
type BackwardMerge = (In, In, In, Out, Out, Out, u32, u32, u32, u32, f32);
static BACKWARD_MERGE: Kernel<BackwardMerge> = Kernel::new(&MERGING, &["batch_norm_backward_merge_f32"]);
type BackwardApply = (In, In, In, In, In, In, In, Out, Pod<Partition>);
static BACKWARD_APPLY: [Kernel<BackwardApply>; 2] =
    [Kernel::new(&MODULE, entries!("backward_apply")), Kernel::new(&MODULE, entries!("backward_apply_mask_x"))];

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![
        SUMS.declared(),
        MERGE.declared(),
        INV_STD.declared(),
        APPLY.declared(),
        ADD.declared(),
        BACKWARD_SUMS[0].declared(),
        BACKWARD_SUMS[1].declared(),
        BACKWARD_SUMS_MASK_Y.declared(),
        BACKWARD_MERGE.declared(),
        BACKWARD_APPLY[0].declared(),
        BACKWARD_APPLY[1].declared(),
    ]
}

/// A pass over `x`: which entry, the grid, and the partition as the kernel takes it.
struct Pass {
    columns: Columns,
    which: usize,
    partition: Pod<Partition>,
}

impl Pass {
    fn new(p: &Rows, dtype: DType) -> Pass {
        let columns = Columns::new(p.parts, p.rows, p.c, dtype);
        let Columns { rows, c, span, chunks, tiles, shift, .. } = columns;
        let [rows, c, span, chunks, tiles] = [rows, c, span, chunks, tiles].map(|v| v as u32);
        let which = 2 * dtype.index() + usize::from(columns.single());
        Pass { columns, which, partition: Pod(Partition { rows, c, span, chunks, tiles, shift }) }
    }

    fn spread(&self) -> Spread {
        self.columns.spread()
    }

    /// A buffer for `each` numbers per channel of each chunk.
    fn parts(&self, gpu: &Gpu, each: usize) -> Result<Tensor> {
        let p = &self.columns;
        vector(gpu, p.groups * p.chunks * each * p.c)
    }
}

fn vector(gpu: &Gpu, len: usize) -> Result<Tensor> {
    Tensor::on_gpu(gpu, DType::F32, [len])
}

/// A block for every 32 channels, the grid of the merging kernels.
fn merging(c: usize) -> Spread {
    Spread::line(c.div_ceil(32) as u32, BLOCK)
}

/// Rows per chunk, and for each chunk a shift near the mean, the sum of the deviations from it, and the sum of their
/// squares: `[parts chunks 3 c]`.
pub(super) fn chunk_sums(gpu: &Gpu, p: &Rows, x: &Tensor) -> Result<(usize, Tensor)> {
    let pass = Pass::new(p, x.dtype());
    let mut parts = pass.parts(gpu, 3)?;
    let target = parts.output();
    SUMS.launch(gpu, pass.which, pass.spread(), (x.input(), target, pass.partition))?;
    Ok((pass.columns.span, parts))
}

/// The statistics, from sums of chunks of `span` rows (the last of a part may be shorter), as [`chunk_sums`] makes them,
/// or, where `shift` is given, from sums of tiles about it. `running` is updated in the same launch.
pub(super) fn merge(
    gpu: &Gpu,
    p: &Rows,
    sums: &Tensor,
    mut shift: Option<Tensor>,
    span: usize,
    eps: f32,
    running: Option<Running>,
) -> Result<Statistics> {
    let (mut mean, mut inv_std) = (vector(gpu, p.parts * p.c)?, vector(gpu, p.parts * p.c)?);
    let mut batch = BatchStatistics { mean: vector(gpu, p.c)?, var: vector(gpu, p.c)? };
    let targets = (mean.output(), inv_std.output(), batch.mean.output(), batch.var.output());
    let tiles = shift.as_ref().map_or(0, |_| tiles(sums) as u32);
    let (mut averages, mut momentum) = ([InOut(0, 0); 2], 0.0);
    if let Some(running) = running {
        // Sums about the running mean share its memory. The kernel reads them there, before it updates them, so that
        // nothing has to be copied.
        shift = shift.filter(|shift| shift.address() != running.mean.address());
        (averages, momentum) = ([running.mean.in_out()?, running.var.in_out()?], running.momentum);
    }
    let [groups, rows, c, span, chunks] = [p.parts, p.rows, p.c, span, p.rows.div_ceil(span)].map(|v| v as u32);
    let (keep, fresh) = (1.0 - momentum, momentum);
    let how = Pod(Merging { groups, rows, c, span, chunks, tiles, eps, keep, fresh });
    let shift = shift.as_ref().map_or(In(0, 0), Tensor::input);
    let [running_mean, running_var] = averages;
    let args = (sums.input(), shift, targets.0, targets.1, targets.2, targets.3, running_mean, running_var, how);
    MERGE.launch(gpu, 0, merging(p.c), args)?;
    Ok(Statistics { rows: *p, mean, inv_std, batch })
}

/// `1/√(var + eps)` of given variances.
pub(super) fn inv_std(gpu: &Gpu, var: &Tensor, eps: f32) -> Result<Tensor> {
    let c = var.shape().len();
    let mut inv_std = vector(gpu, c)?;
    let target = inv_std.output();
    INV_STD.launch(gpu, 0, Spread::cover(c, BLOCK), (var.input(), target, c as u32, eps))?;
    Ok(inv_std)
}

fn numbers(norm: &Norm) -> Numbers {
    (norm.mean().input(), norm.inv_std().input(), norm.gamma().input(), norm.beta().input())
}

/// [`Norm::apply`]; `residual` has the data type of `x`.
pub(super) fn apply(
    gpu: &Gpu,
    rows: &Rows,
    x: &Tensor,
    norm: &Norm,
    residual: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    let pass = Pass::new(rows, x.dtype());
    let (mean, inv_std, gamma, beta) = numbers(norm);
    let mut y = Tensor::on_gpu(gpu, x.dtype(), x.shape())?;
    let (target, relu, Pass { which, partition, .. }) = (y.output(), u32::from(relu), &pass);
    match residual {
        None => {
            APPLY.launch(
                gpu,
                *which,
                pass.spread(),
                (x.input(), mean, inv_std, gamma, beta, target, *partition, relu),
            )?;
        }
        Some(r) => {
            let args = (x.input(), mean, inv_std, gamma, beta, r.input(), target, *partition, relu);
            ADD.launch(gpu, *which, pass.spread(), args)?;
        }
    }
    Ok(y)
}

/// The gradients; `dy` has the data type of `x`. If dgrad has already masked `dy` and taken the `sums [parts tiles 2 c]`,
/// the first pass over memory is not needed.
#[allow(clippy::too_many_arguments, reason = "one fused layer; each argument is a part of its formula")]
pub(super) fn backward(
    gpu: &Gpu,
    p: &Rows,
    x: &Tensor,
    norm: &Norm,
    relu: ReluMask,
    residual: bool,
    dy: &Tensor,
    sums: Option<&Tensor>,
) -> Result<Gradients> {
    let pass = Pass::new(p, x.dtype());
    let (which, spread, partition) = (pass.which, pass.spread(), pass.partition);
    let (mean, inv_std, g, b) = numbers(norm);
    // The mask: none, recomputed from `x`, or taken from the result. In the last case the masked gradient is also the
    // residual's.
    let (mask_x, dz, parts) = match (sums, relu) {
        (Some(sums), _) => (0, None, sums.clone()),
        (None, ReluMask::FromResult(y)) => {
            let mut parts = pass.parts(gpu, 2)?;
            let y = y.cast(x.dtype())?;
            let mut dz = Tensor::on_gpu(gpu, x.dtype(), x.shape())?;
            let (masked, target) = (dz.output(), parts.output());
            let args = (x.input(), dy.input(), y.input(), mean, inv_std, g, b, masked, target, partition);
            BACKWARD_SUMS_MASK_Y.launch(gpu, which, spread, args)?;
            (0, Some(dz), parts)
        }
        (None, _) => {
            let mut parts = pass.parts(gpu, 2)?;
            let mask_x = usize::from(matches!(relu, ReluMask::FromInput));
            let args = (x.input(), dy.input(), mean, inv_std, g, b, parts.output(), partition);
            BACKWARD_SUMS[mask_x].launch(gpu, which, spread, args)?;
            (mask_x, None, parts)
        }
    };
    let (chunks, normalised) = sums.map_or((pass.columns.chunks, 0), |sums| (tiles(sums), 1));
    let (mut dgamma, mut dbeta, mut slopes) = (vector(gpu, p.c)?, vector(gpu, p.c)?, vector(gpu, 2 * p.parts * p.c)?);
    let targets = (slopes.output(), dgamma.output(), dbeta.output());
    // Given statistics are constants: no gradient passes through them.
    let share = if norm.of_batch() { 1.0 / p.rows as f32 } else { 0.0 };
    let [count, c, chunks] = [p.parts, p.c, chunks].map(|v| v as u32);
    let args = (parts.input(), inv_std, g, targets.0, targets.1, targets.2, count, c, chunks, normalised, share);
    BACKWARD_MERGE.launch(gpu, 0, merging(p.c), args)?;

    let mut dx = Tensor::on_gpu(gpu, x.dtype(), Shape::new(x.dims()))?;
    let (from, target) = (dz.as_ref().unwrap_or(dy).input(), dx.output());
    BACKWARD_APPLY[mask_x].launch(
        gpu,
        which,
        spread,
        (x.input(), from, mean, inv_std, g, b, slopes.input(), target, partition),
    )?;
    let dresidual = residual.then(|| dz.unwrap_or_else(|| dy.clone()));
    Ok(Gradients { dx, dgamma, dbeta, dresidual })
}
