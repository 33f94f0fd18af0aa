//! Batch norm on a GPU. Forward: sums, their merging, the result; likewise backward. There is no host synchronisation.

use super::{BatchStatistics, Gradients, Norm, ReluMask, Rows, Running, Signs, Statistics, Unformed, rows::tiles};
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
pub(super) type Numbers = (In, In, In, In);

static SUMS: Kernel<(In, Out, Pod<Partition>)> = Kernel::new(&MODULE, entries!("sums"));

/// Sums, shift, mean, inv_std, statistics of the batch, running averages.
type Merge = (In, In, Out, Out, Out, Out, InOut, InOut, Pod<Merging>);
static MERGE: Kernel<Merge> = Kernel::new(&MERGING, &["batch_norm_merge_f32"]);
type Chunk = (In, In, Out, Pod<Merging>);
static CHUNK: Kernel<Chunk> = Kernel::new(&MERGING, &["batch_norm_chunk_f32"]);
static INV_STD: Kernel<(In, Out, u32, f32)> = Kernel::new(&MERGING, &["batch_norm_inv_std_f32"]);

type Apply = (In, In, In, In, In, Out, Pod<Partition>, u32);
static APPLY: Kernel<Apply> = Kernel::new(&MODULE, entries!("apply"));
type Add = (In, In, In, In, In, In, Out, Out, Pod<Partition>, u32);
static ADD: Kernel<Add> = Kernel::new(&MODULE, entries!("add"));
static SIGNS: Kernel<(In, Out, u32)> = Kernel::new(&MODULE, &["batch_norm_signs_bf16"]);

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
        CHUNK.declared(),
        INV_STD.declared(),
        APPLY.declared(),
        ADD.declared(),
        SIGNS.declared(),
        BACKWARD_SUMS[0].declared(),
        BACKWARD_SUMS[1].declared(),
        BACKWARD_SUMS_MASK_Y.declared(),
        BACKWARD_MERGE.declared(),
        BACKWARD_APPLY[0].declared(),
        BACKWARD_APPLY[1].declared(),
    ]
}

/// A pass over `x`: which entry, the grid, and the partition as the kernel takes it. Its methods launch kernels on device
/// addresses: no tensors, no allocation.
pub(super) struct Pass {
    columns: Columns,
    which: usize,
    partition: Pod<Partition>,
}

impl Pass {
    pub fn new(p: &Rows, dtype: DType) -> Pass {
        let columns = Columns::new(p.parts, p.rows, p.c, dtype);
        let Columns { rows, c, span, chunks, tiles, shift, .. } = columns;
        let [rows, c, span, chunks, tiles] = [rows, c, span, chunks, tiles].map(|v| v as u32);
        let which = 2 * dtype.index() + usize::from(columns.single());
        Pass { columns, which, partition: Pod(Partition { rows, c, span, chunks, tiles, shift }) }
    }

    fn spread(&self) -> Spread {
        self.columns.spread()
    }

    /// How many numbers there are if there are `each` per channel of each chunk.
    pub fn parts(&self, each: usize) -> usize {
        let p = &self.columns;
        p.groups * p.chunks * each * p.c
    }

    /// Rows per chunk.
    pub fn span(&self) -> usize {
        self.columns.span
    }

    /// For each chunk a shift near the mean, the sum of the deviations from it, and the sum of their squares: `[parts
    /// chunks 3 c]`.
    pub fn sums(&self, gpu: &Gpu, x: In, to: Out) -> Result<()> {
        SUMS.launch(gpu, self.which, self.spread(), (x, to, self.partition))
    }

    /// `y`, with `residual` added and ReLU applied where requested. With a residual, and where threads access eight bf16, also
    /// the signs of `y` if `signs` says where.
    pub fn apply(
        &self,
        gpu: &Gpu,
        x: In,
        n: Numbers,
        residual: Option<In>,
        relu: bool,
        (y, signs): (Out, Option<Out>),
    ) -> Result<()> {
        let ((mean, inv_std, gamma, beta), relu) = (n, u32::from(relu));
        let (which, spread, partition) = (self.which, self.spread(), self.partition);
        match residual {
            None => APPLY.launch(gpu, which, spread, (x, mean, inv_std, gamma, beta, y, partition, relu)),
            Some(r) => {
                let signs = signs.unwrap_or(Out(0, 0));
                ADD.launch(gpu, which, spread, (x, mean, inv_std, gamma, beta, r, y, signs, partition, relu))
            }
        }
    }

    /// The backward pass, without the last launch where `b.dx` is absent.
    pub fn backward(&self, gpu: &Gpu, p: &Rows, b: &Backward) -> Result<()> {
        let (which, spread, partition) = (self.which, self.spread(), self.partition);
        let (mean, inv_std, gamma, beta) = b.numbers;
        let (mut mask_x, mut chunks, mut normalised, mut dz) = (0, self.columns.chunks, 0, b.dy);
        let sums = match b.first {
            First::Taken { sums, tiles } => {
                (chunks, normalised) = (tiles, 1);
                sums
            }
            First::MaskedByResult { y, masked, sums } => {
                dz = masked.written();
                let args = (b.x, b.dy, y, mean, inv_std, gamma, beta, masked, sums, partition);
                BACKWARD_SUMS_MASK_Y.launch(gpu, which, spread, args)?;
                sums.written()
            }
            First::Sums { recomputes_mask, sums } => {
                mask_x = usize::from(recomputes_mask);
                let args = (b.x, b.dy, mean, inv_std, gamma, beta, sums, partition);
                BACKWARD_SUMS[mask_x].launch(gpu, which, spread, args)?;
                sums.written()
            }
        };
        // Given statistics are constants: no gradient passes through them.
        let share = if b.of_batch { 1.0 / p.rows as f32 } else { 0.0 };
        let [count, c, chunks] = [p.parts, p.c, chunks].map(|v| v as u32);
        let args = (sums, inv_std, gamma, b.slopes, b.dgamma, b.dbeta, count, c, chunks, normalised, share);
        BACKWARD_MERGE.launch(gpu, 0, merging(p.c), args)?;
        if let Some(gather) = b.of_all {
            // Of all who share the batch, as of tiles; the gradients of the parameters remain those of these rows.
            let all = gather()?;
            let (count, mut unused) = (all.dims()[0], [vector(gpu, p.c)?, vector(gpu, p.c)?]);
            let [dgamma, dbeta] = unused.each_mut().map(Tensor::output);
            let args =
                (all.input(), inv_std, gamma, b.slopes, dgamma, dbeta, 1, c, count as u32, 1, share / count as f32);
            BACKWARD_MERGE.launch(gpu, 0, merging(p.c), args)?;
        }
        let Some(dx) = b.dx else { return Ok(()) };
        let args = (b.x, dz, mean, inv_std, gamma, beta, b.slopes.written(), dx, partition);
        BACKWARD_APPLY[mask_x].launch(gpu, which, spread, args)
    }

    /// The last launch of a backward pass, of a gradient that is masked.
    pub fn form(&self, gpu: &Gpu, x: In, dz: In, n: Numbers, slopes: In, dx: Out) -> Result<()> {
        let (mean, inv_std, gamma, beta) = n;
        let args = (x, dz, mean, inv_std, gamma, beta, slopes, dx, self.partition);
        BACKWARD_APPLY[0].launch(gpu, self.which, self.spread(), args)
    }
}

/// What a backward pass reads and writes.
pub(super) struct Backward<'a> {
    pub x: In,
    pub dy: In,
    pub numbers: Numbers,
    /// Whether the statistics are functions of `x`.
    pub of_batch: bool,
    pub first: First,
    /// `[2 parts c]`, f32, for the kernels alone.
    pub slopes: Out,
    pub dx: Option<Out>,
    pub dgamma: Out,
    pub dbeta: Out,
    /// Where others share the batch, `dbeta` and `dgamma` of all of them, `[count 2 c]`; called when these are written.
    pub of_all: Option<&'a dyn Fn() -> Result<Tensor>>,
}

/// How the two sums that a backward pass begins with are obtained, and ReLU's mask.
pub(super) enum First {
    /// dgrad has already masked `dy` and taken the sums, `[parts tiles 2 c]`.
    Taken { sums: In, tiles: usize },
    /// A pass takes them, `[parts chunks 2 c]`, and writes `dy` masked by the result `y`: the residual's gradient.
    MaskedByResult { y: In, masked: Out, sums: Out },
    /// A pass takes them; the mask, if there is one, is recomputed from `x`.
    Sums { recomputes_mask: bool, sums: Out },
}

/// What statistics are formed from and where they go.
pub(super) struct Merged {
    /// Sums of chunks of `span` rows (the last of a part may be shorter), or of `tiles` tiles about `shift`.
    pub sums: In,
    pub span: usize,
    pub shift: Option<In>,
    pub tiles: usize,
    /// Mean and `1/√(var + eps)` of each part and channel; mean and unbiased variance of the batch.
    pub targets: [Out; 4],
    pub eps: f32,
    /// Running mean and variance, and the weight of the newest batch.
    pub running: Option<([InOut; 2], f32)>,
}

impl Merged {
    pub fn launch(&self, gpu: &Gpu, p: &Rows) -> Result<()> {
        let (averages, momentum) = self.running.unwrap_or(([InOut(0, 0); 2], 0.0));
        // Sums about the running mean share its memory. The kernel reads them there, before it updates them, so that
        // nothing has to be copied.
        let shift = self.shift.filter(|shift| shift.0 != averages[0].0).unwrap_or(In(0, 0));
        let (span, tiles) = (self.span, self.shift.map_or(0, |_| self.tiles) as u32);
        let [groups, rows, c, span, chunks] = [p.parts, p.rows, p.c, span, p.rows.div_ceil(span)].map(|v| v as u32);
        let (keep, fresh) = (1.0 - momentum, momentum);
        let how = Pod(Merging { groups, rows, c, span, chunks, tiles, eps: self.eps, keep, fresh });
        let ([mean, inv_std, batch_mean, batch_var], [running_mean, running_var]) = (self.targets, averages);
        let args = (self.sums, shift, mean, inv_std, batch_mean, batch_var, running_mean, running_var, how);
        MERGE.launch(gpu, 0, merging(p.c), args)
    }
}

/// `1/√(var + eps)` of `c` variances.
pub(super) fn launch_inv_std(gpu: &Gpu, c: usize, var: In, to: Out, eps: f32) -> Result<()> {
    INV_STD.launch(gpu, 0, Spread::cover(c, BLOCK), (var, to, c as u32, eps))
}

fn vector(gpu: &Gpu, len: usize) -> Result<Tensor> {
    Tensor::on_gpu(gpu, DType::F32, [len])
}

/// A block for every 32 channels, the grid of the merging kernels.
fn merging(c: usize) -> Spread {
    Spread::line(c.div_ceil(32) as u32, BLOCK)
}

/// Rows per chunk, and the sums of [`Pass::sums`].
pub(super) fn chunk_sums(gpu: &Gpu, p: &Rows, x: &Tensor) -> Result<(usize, Tensor)> {
    let pass = Pass::new(p, x.dtype());
    let mut parts = vector(gpu, pass.parts(3))?;
    pass.sums(gpu, x.input(), parts.output())?;
    Ok((pass.span(), parts))
}

/// The statistics, from sums of chunks of `span` rows (the last of a part may be shorter), as [`chunk_sums`] makes them,
/// or, where `shift` is given, from sums of tiles about it. `running` is updated in the same launch.
pub(super) fn merge(
    gpu: &Gpu,
    p: &Rows,
    sums: &Tensor,
    shift: Option<Tensor>,
    span: usize,
    eps: f32,
    running: Option<Running>,
) -> Result<Statistics> {
    let (mut mean, mut inv_std) = (vector(gpu, p.parts * p.c)?, vector(gpu, p.parts * p.c)?);
    let mut batch = BatchStatistics { mean: vector(gpu, p.c)?, var: vector(gpu, p.c)? };
    let targets = [mean.output(), inv_std.output(), batch.mean.output(), batch.var.output()];
    let (from, tiles) = (sums.input(), tiles(sums));
    let mut merged = Merged { sums: from, span, shift: None, tiles, targets, eps, running: None };
    let mut shift = shift;
    if let Some(running) = running {
        // A shift in the running mean's memory must not count as a second user of it, or it would be copied.
        let at = running.mean.address();
        if shift.as_ref().is_some_and(|shift| shift.address() == at) {
            merged.shift = shift.take().map(|shift| shift.input());
        }
        merged.running = Some(([running.mean.in_out()?, running.var.in_out()?], running.momentum));
    }
    if let Some(shift) = &shift {
        merged.shift = Some(shift.input());
    }
    merged.launch(gpu, p)?;
    Ok(Statistics { rows: *p, mean, inv_std, batch, peers: None })
}

/// The sums of a part as those of one chunk, `[3 c]`; the arguments are those of [`merge`].
pub(super) fn as_chunk(gpu: &Gpu, p: &Rows, sums: &Tensor, shift: Option<&Tensor>, span: usize) -> Result<Tensor> {
    let mut chunk = vector(gpu, 3 * p.c)?;
    let of_tiles = shift.map_or(0, |_| tiles(sums));
    let [groups, rows, c, span, chunks, tiles] =
        [1, p.rows, p.c, span, p.rows.div_ceil(span), of_tiles].map(|v| v as u32);
    let how = Pod(Merging { groups, rows, c, span, chunks, tiles, eps: 0.0, keep: 0.0, fresh: 0.0 });
    let shift = shift.map_or(In(0, 0), Tensor::input);
    CHUNK.launch(gpu, 0, merging(p.c), (sums.input(), shift, chunk.output(), how))?;
    Ok(chunk)
}

/// `1/√(var + eps)` of given variances.
pub(super) fn inv_std(gpu: &Gpu, var: &Tensor, eps: f32) -> Result<Tensor> {
    let c = var.shape().len();
    let mut inv_std = vector(gpu, c)?;
    launch_inv_std(gpu, c, var.input(), inv_std.output(), eps)?;
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
    keep: bool,
) -> Result<(Tensor, Option<Signs>)> {
    let mut y = Tensor::on_gpu(gpu, x.dtype(), x.shape())?;
    let (target, residual) = (y.output(), residual.map(Tensor::input));
    let keep = keep && residual.is_some() && x.dtype() == DType::BF16 && rows.c.is_multiple_of(8);
    let mut signs = keep.then(|| Signs::on(gpu, x.shape())).transpose()?;
    let to = signs.as_mut().map(Signs::output);
    Pass::new(rows, x.dtype()).apply(gpu, x.input(), numbers(norm), residual, relu, (target, to))?;
    Ok((y, signs))
}

/// The signs of `y`, bf16, on the GPU.
pub(super) fn signs(gpu: &Gpu, y: &Tensor) -> Result<Signs> {
    let mut signs = Signs::on(gpu, y.shape())?;
    launch_signs(gpu, y.input(), signs.output())?;
    Ok(signs)
}

/// The signs of bf16 numbers, a byte for every eight.
pub(super) fn launch_signs(gpu: &Gpu, y: In, to: Out) -> Result<()> {
    SIGNS.launch(gpu, 0, Spread::cover(to.1, BLOCK), (y, to, to.1 as u32))
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
    hand: &dyn Fn(&Unformed) -> bool,
) -> Result<Gradients> {
    let pass = Pass::new(p, x.dtype());
    // The masked gradient is also the residual's, so it is kept; sums that a pass takes are not.
    let (mut dz, mut result, mut parts) = (None, None, None);
    let first = match (sums, relu) {
        (Some(sums), _) => First::Taken { sums: sums.input(), tiles: tiles(sums) },
        (None, relu) => {
            let sums = parts.insert(vector(gpu, pass.parts(2))?).output();
            match relu {
                ReluMask::FromResult(y) => {
                    let y = result.insert(y.cast(x.dtype())?).input();
                    let masked = dz.insert(Tensor::on_gpu(gpu, x.dtype(), x.shape())?).output();
                    First::MaskedByResult { y, masked, sums }
                }
                relu => First::Sums { recomputes_mask: matches!(relu, ReluMask::FromInput), sums },
            }
        }
    };
    let (mut dgamma, mut dbeta, mut slopes) = (vector(gpu, p.c)?, vector(gpu, p.c)?, vector(gpu, 2 * p.parts * p.c)?);
    // A mask that is recomputed is not in `dz`.
    let may_hand = sums.is_some() || !matches!(relu, ReluMask::FromInput);
    let mut dx = if may_hand { None } else { Some(Tensor::on_gpu(gpu, x.dtype(), Shape::new(x.dims()))?) };
    let (to_gamma, to_beta) = (dgamma.output(), dbeta.output());
    let of_all = norm.peers().map(|peers| {
        let own = [&dbeta, &dgamma];
        move || peers.gather(&Tensor::collect(&own)?.reshape([2, p.c])?)
    });
    let given = Backward {
        x: x.input(),
        dy: dy.input(),
        numbers: numbers(norm),
        of_batch: norm.of_batch(),
        first,
        slopes: slopes.output(),
        dx: dx.as_mut().map(Tensor::output),
        dgamma: to_gamma,
        dbeta: to_beta,
        of_all: of_all.as_ref().map(|gather| gather as &dyn Fn() -> Result<Tensor>),
    };
    pass.backward(gpu, p, &given)?;
    let dz = dz.unwrap_or_else(|| dy.clone());
    let dx = match dx {
        Some(dx) => dx,
        None => {
            let unformed = Unformed { x: x.clone(), norm: norm.clone(), slopes };
            if hand(&unformed) { dz.clone() } else { form(gpu, p, &unformed, &dz)? }
        }
    };
    let dresidual = residual.then_some(dz);
    Ok(Gradients { dx, dgamma, dbeta, dresidual })
}

/// [`Unformed::form`].
pub(super) fn form(gpu: &Gpu, p: &Rows, of: &Unformed, dz: &Tensor) -> Result<Tensor> {
    let mut dx = Tensor::on_gpu(gpu, dz.dtype(), Shape::new(dz.dims()))?;
    let to = dx.output();
    Pass::new(p, dz.dtype()).form(gpu, of.x.input(), dz.input(), numbers(&of.norm), of.slopes.input(), to)?;
    Ok(dx)
}
