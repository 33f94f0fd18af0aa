//! The updates on a GPU: one launch per tensor, or one for up to 512 tensors.

use super::{Sgd, Update, Weights};
use crate::driver::{Access, Declared, Gpu, In, InOut, Kernel, Module, Pod, Region, Spread};
use crate::error::Result;
use crate::ops::launch::{BLOCK, elements};
use crate::tensor::{DType, Tensor};

static MODULE: Module = Module::new("sgd", include_str!("../../../ptx/sgd.sm_80.ptx"));
static STEP: Kernel<(InOut, In, InOut, Pod<Constants>, u32)> = Kernel::new(&MODULE, &["sgd_step_f32"]);
static STEP_ALL: Kernel<(Pod<Table>, In, In, Pod<Constants>)> = Kernel::new(&MODULE, &["sgd_step_all_f32"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![STEP.declared(), STEP_ALL.declared()]
}

/// The constants as the kernels take them.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Constants {
    momentum: f32,
    decay: f32,
    lr: f32,
    keep: f32,
    fresh: f32,
    nesterov: u32,
}

/// Maximum number of tensors per launch.
const MOST: usize = 512;
/// Elements per block.
const CHUNK: usize = 16384;

/// All tensors of a launch as the kernel takes them.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Table {
    w: [u64; MOST],
    grad: [u64; MOST],
    v: [u64; MOST],
    key: [u64; MOST],
    half: [u64; MOST],
    key_half: [u64; MOST],
    start: [u32; MOST],
    len: [u32; MOST],
    decays: [u32; MOST / 32],
    count: u32,
    pad: u32,
}

/// Blocks for a tensor of `len` elements.
fn blocks(len: usize) -> usize {
    len.div_ceil(CHUNK)
}

pub(super) fn update(gpu: &Gpu, p: &Sgd, lr: f32, w: &mut Tensor, grad: &Tensor, velocity: &mut Tensor) -> Result<()> {
    if w.shape().is_empty() {
        return Ok(());
    }
    let (n, weights, velocities) = (w.shape().len(), w.in_out()?, velocity.in_out()?);
    launch_one(gpu, p, lr, n, weights, grad.input(), velocities)
}

/// One step of `n` weights, at least one, on device addresses.
pub(super) fn launch_one(gpu: &Gpu, p: &Sgd, lr: f32, n: usize, w: InOut, grad: In, velocity: InOut) -> Result<()> {
    STEP.launch(gpu, 0, elements(n, DType::F32), (w, grad, velocity, constants(p, lr, 1.0), n as u32))
}

fn constants(p: &Sgd, lr: f32, keep: f32) -> Pod<Constants> {
    let Sgd { momentum, nesterov, weight_decay: decay } = *p;
    Pod(Constants { momentum, decay, lr, keep, fresh: 1.0 - keep, nesterov: u32::from(nesterov) })
}

/// The steps of all tensors, 512 per launch. The learning rate is read from `rate` if given; weights are not updated if
/// `guard` is not finite.
pub(in crate::ops) fn all(
    gpu: &Gpu,
    p: &Sgd,
    lr: f32,
    [rate, guard]: [Option<&Tensor>; 2],
    keep: f32,
    steps: &mut [Update],
) -> Result<()> {
    let steps = steps.iter_mut().filter(|s| !s.w.shape().is_empty()).map(Step::of).collect::<Result<Vec<_>>>()?;
    launch_all(gpu, p, lr, [rate, guard].map(|t| t.map(Tensor::input)), keep, &steps)
}

/// One tensor of at least one element, and what is done with it, as device addresses.
pub(super) struct Step {
    pub len: usize,
    pub w: InOut,
    /// Gradient, velocity, and whether weight decay applies.
    pub update: Option<(In, InOut, bool)>,
    pub key: Option<InOut>,
    pub half: Option<InOut>,
    pub key_half: Option<InOut>,
}

impl Step {
    fn of(step: &mut Update) -> Result<Step> {
        let len = step.w.shape().len();
        let (w, update) = match (&mut step.w, &mut step.update) {
            (Weights::Trained(w), Some((grad, velocity, decays))) => {
                (w.in_out()?, Some((grad.input(), velocity.in_out()?, *decays)))
            }
            (w, _) => {
                let In(ptr, bytes) = w.input();
                (InOut(ptr, bytes), None)
            }
        };
        let written = |tensor: &mut Option<&mut Tensor>| tensor.as_deref_mut().map(Tensor::in_out).transpose();
        let (key, half) = (written(&mut step.key)?, written(&mut step.half)?);
        Ok(Step { len, w, update, key, half, key_half: written(&mut step.key_half)? })
    }
}

/// [`all`] on device addresses.
pub(super) fn launch_all(
    gpu: &Gpu,
    p: &Sgd,
    lr: f32,
    [rate, guard]: [Option<In>; 2],
    keep: f32,
    steps: &[Step],
) -> Result<()> {
    let [rate, guard] = [rate, guard].map(|t| t.unwrap_or(In(0, 0)));
    for steps in steps.chunks(MOST) {
        let mut table: Table = bytemuck::Zeroable::zeroed();
        let mut reached = Vec::new();
        let mut reach = |InOut(ptr, bytes): InOut, access: Access| {
            reached.push(Region { ptr, bytes, access });
            ptr
        };
        let mut start = 0;
        for (i, step) in steps.iter().enumerate() {
            if let Some((In(ptr, bytes), velocity, decays)) = step.update {
                table.grad[i] = reach(InOut(ptr, bytes), Access::Read);
                table.v[i] = reach(velocity, Access::ReadWrite);
                table.decays[i / 32] |= u32::from(decays) << (i % 32);
            }
            table.w[i] = reach(step.w, if step.update.is_some() { Access::ReadWrite } else { Access::Read });
            for (slot, copy, access) in [
                (&mut table.half[i], step.half, Access::Write),
                (&mut table.key[i], step.key, Access::ReadWrite),
                (&mut table.key_half[i], step.key_half, Access::Write),
            ] {
                if let Some(copy) = copy {
                    *slot = reach(copy, access);
                }
            }
            (table.start[i], table.len[i]) = (start as u32, step.len as u32);
            (table.count, start) = (table.count + 1, start + blocks(step.len));
        }
        if start > 0 {
            let spread = Spread::line(start as u32, BLOCK);
            STEP_ALL.launch_reaching(gpu, 0, spread, (Pod(table), rate, guard, constants(p, lr, keep)), &reached)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, blocks};
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    /// The search in `tensor_of` gives every block a chunk of its own, for any lengths.
    #[test]
    fn every_element_is_updated_once() {
        for case in 0..64 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let lens: Vec<usize> = (0..rng.random_range(1..40)).map(|_| rng.random_range(1..60_000)).collect();
            let starts: Vec<usize> =
                lens.iter().scan(0, |at, len| Some(std::mem::replace(at, *at + blocks(*len)))).collect();
            let total: usize = lens.iter().map(|l| blocks(*l)).sum();
            let mut seen: Vec<Vec<u32>> = lens.iter().map(|l| vec![0; *l]).collect();
            for block in 0..total {
                let (mut first, mut end) = (0, lens.len());
                while end - first > 1 {
                    let middle = (first + end) / 2;
                    if starts[middle] <= block { first = middle } else { end = middle }
                }
                let begin = (block - starts[first]) * CHUNK;
                seen[first][begin..lens[first].min(begin + CHUNK)].iter_mut().for_each(|s| *s += 1);
            }
            assert!(seen.iter().flatten().all(|s| *s == 1));
        }
    }
}
