//! Alignment on a GPU. Maps: sums over positions take a block per frame and up to 64 channels, sums over channels a
//! warp per position. Losses: a block per sample.

use super::{Cosines, Grid, Map, TargetNorm};
use crate::driver::{Declared, Gpu, In, Kernel, Module, Out, Pod, Spread};
use crate::error::{Error, Result};
use crate::ops::launch::{BLOCK, wide};
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};

static MODULE: Module = Module::new("alignment", include_str!("../../../ptx/alignment.sm_80.ptx"));
static COSINES: Module = Module::new("alignment_losses", include_str!("../../../ptx/alignment_losses.sm_80.ptx"));

/// The two entries of a pass: 16-byte vector accesses, or single elements.
macro_rules! entries {
    ($pass:literal) => {
        &[concat!("alignment_", $pass, "_wide_f32"), concat!("alignment_", $pass, "_single_f32")]
    };
}

static MAP_WEIGHTS: Kernel<(In, Out, u32, u32, u32, u32)> = Kernel::new(&MODULE, entries!("map_weights"));
static MAP_BACKWARD_G: Kernel<(In, In, Out, u32, u32, u32, u32)> = Kernel::new(&MODULE, entries!("map_backward_g"));
static MAP_BACKWARD_F: Kernel<(In, In, Out, u32, u32, u32, u32)> = Kernel::new(&MODULE, entries!("map_backward_f"));
static MAP_FORWARD: Kernel<(In, In, Out, u32, u32, u32)> = Kernel::new(&MODULE, entries!("map_forward"));
static LOSS_FORWARD: Kernel<(In, In, Out, Pod<Arguments>)> = Kernel::new(&COSINES, &["alignment_loss_forward_f32"]);
static LOSS_MERGE: Kernel<(In, Out, Out, u32)> = Kernel::new(&COSINES, &["alignment_loss_merge_f32"]);
static LOSS_BACKWARD: Kernel<(In, In, In, Out, Pod<Arguments>)> =
    Kernel::new(&COSINES, &["alignment_loss_backward_f32"]);
static LOSS_DOUBLE_BACKWARD: Kernel<(In, In, In, In, Out, Pod<Arguments>)> =
    Kernel::new(&COSINES, &["alignment_loss_double_backward_f32"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![
        MAP_WEIGHTS.declared(),
        MAP_BACKWARD_G.declared(),
        MAP_BACKWARD_F.declared(),
        MAP_FORWARD.declared(),
        LOSS_FORWARD.declared(),
        LOSS_MERGE.declared(),
        LOSS_BACKWARD.declared(),
        LOSS_DOUBLE_BACKWARD.declared(),
    ]
}

/// How the passes over columns are divided into blocks.
#[derive(Clone, Copy, Debug)]
struct Columns {
    rows: usize,
    area: usize,
    c: usize,
    /// Channels per thread: 4 where the channels are a multiple of 4, else 1.
    width: usize,
    /// Logarithm of the threads along the channels.
    shift: u32,
    /// Number of blocks that cover the channels.
    tiles: usize,
}

impl Columns {
    fn new(p: &Map) -> Columns {
        let [n, t, ..] = p.dims;
        let width = if p.c.is_multiple_of(wide(DType::F32)) { wide(DType::F32) } else { 1 };
        let across = p.c / width;
        let shift = across.next_power_of_two().trailing_zeros().min(if width > 1 { 4 } else { 5 });
        Columns { rows: n * t, area: p.area(), c: p.c, width, shift, tiles: across.div_ceil(1 << shift) }
    }

    fn which(&self) -> usize {
        usize::from(self.width == 1)
    }

    fn spread(&self) -> Spread {
        Spread::line((self.rows * self.tiles) as u32, BLOCK)
    }

    /// As the kernels take them.
    fn extents(&self) -> [u32; 4] {
        [self.area as u32, self.c as u32, self.tiles as u32, self.shift]
    }
}

/// Positions per block of the kernels that sum over channels: a warp for each.
const CELLS: usize = BLOCK as usize / 32;

pub(super) fn map_forward(gpu: &Gpu, p: &Map, g: &Tensor, f: &Tensor) -> Result<Tensor> {
    let columns = Columns::new(p);
    let [area, c, tiles, shift] = columns.extents();
    let mut w = Tensor::on_gpu(gpu, DType::F32, [columns.rows, p.c])?;
    let target = w.output();
    MAP_WEIGHTS.launch(gpu, columns.which(), columns.spread(), (g.input(), target, area, c, tiles, shift))?;
    let mut m = Tensor::on_gpu(gpu, DType::F32, p.cells())?;
    let (target, cells) = (m.output(), p.cells().len());
    let spread = Spread::line(cells.div_ceil(CELLS) as u32, BLOCK);
    MAP_FORWARD.launch(gpu, columns.which(), spread, (w.input(), f.input(), target, cells as u32, area, c))?;
    Ok(m)
}

pub(super) fn map_backward_f(gpu: &Gpu, p: &Map, g: &Tensor, d: &Tensor) -> Result<Tensor> {
    adjoint(gpu, &MAP_BACKWARD_F, p, g, d)
}

pub(super) fn map_backward_g(gpu: &Gpu, p: &Map, d: &Tensor, f: &Tensor) -> Result<Tensor> {
    adjoint(gpu, &MAP_BACKWARD_G, p, f, d)
}

fn adjoint(
    gpu: &Gpu,
    kernel: &Kernel<(In, In, Out, u32, u32, u32, u32)>,
    p: &Map,
    x: &Tensor,
    d: &Tensor,
) -> Result<Tensor> {
    let columns = Columns::new(p);
    let [area, c, tiles, shift] = columns.extents();
    let mut to = Tensor::on_gpu(gpu, DType::F32, x.shape())?;
    let target = to.output();
    kernel.launch(gpu, columns.which(), columns.spread(), (x.input(), d.input(), target, area, c, tiles, shift))?;
    Ok(to)
}

/// Extents and options as the kernels take them.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Arguments {
    n: u32,
    t: u32,
    area: u32,
    raw: u32,
    centred: u32,
    weight: [f32; 3],
}

/// Bytes of shared memory per frame.
const FRAME: usize = 104;

/// Maximum number of frames of a sample: what fits into a block's 48 KiB of shared memory, rounded down.
const FRAMES: usize = 448;

fn arguments(g: &Grid, how: &Cosines) -> Result<(Spread, Pod<Arguments>)> {
    if g.t > FRAMES {
        let want = format!("n t h w with at most {FRAMES} frames on a GPU");
        return Err(Error::shape("map_alignment", "p", want, format!("{} frames", g.t)));
    }
    let arguments = Arguments {
        n: g.n as u32,
        t: g.t as u32,
        area: g.area as u32,
        raw: u32::from(how.target_norm == TargetNorm::Raw),
        centred: u32::from(how.centred),
        weight: [how.terms.spatio_temporal, how.terms.spatial, how.terms.temporal],
    };
    Ok((Spread::line(g.n as u32, BLOCK).with_shared((g.t * FRAME) as u32), Pod(arguments)))
}

pub(super) fn forward(gpu: &Gpu, g: &Grid, p: &Tensor, y: &Tensor, how: &Cosines) -> Result<(Tensor, Tensor)> {
    let (spread, arguments) = arguments(g, how)?;
    let vector = |shape: Shape| Tensor::on_gpu(gpu, DType::F32, shape);
    let mut each = vector(Shape::from([g.n, 5]))?;
    let target = each.output();
    LOSS_FORWARD.launch(gpu, 0, spread, (p.input(), y.input(), target, arguments))?;
    let (mut loss, mut stats) = (vector(Shape::from([]))?, vector(Shape::from([4]))?);
    let targets = (loss.output(), stats.output());
    LOSS_MERGE.launch(gpu, 0, Spread::line(1, 32), (each.input(), targets.0, targets.1, g.n as u32))?;
    Ok((loss, stats))
}

pub(super) fn backward(gpu: &Gpu, g: &Grid, p: &Tensor, y: &Tensor, how: &Cosines, dy: &Tensor) -> Result<Tensor> {
    let (spread, arguments) = arguments(g, how)?;
    let mut dp = Tensor::on_gpu(gpu, DType::F32, p.shape())?;
    let target = dp.output();
    LOSS_BACKWARD.launch(gpu, 0, spread, (p.input(), y.input(), dy.input(), target, arguments))?;
    Ok(dp)
}

pub(super) fn double_backward(
    gpu: &Gpu,
    g: &Grid,
    p: &Tensor,
    y: &Tensor,
    how: &Cosines,
    dy: &Tensor,
    u: &Tensor,
) -> Result<Tensor> {
    let (spread, arguments) = arguments(g, how)?;
    let mut out = Tensor::on_gpu(gpu, DType::F32, p.shape())?;
    let target = out.output();
    LOSS_DOUBLE_BACKWARD.launch(gpu, 0, spread, (p.input(), y.input(), dy.input(), u.input(), target, arguments))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    /// How often each element of the features is read (by the adjoints: written), by the index arithmetic of `arguments`.
    fn reads(p: &Columns) -> Vec<u32> {
        let mut seen = vec![0; p.rows * p.area * p.c];
        for block in 0..p.spread().grid[0] as usize {
            let (row, tile) = (block / p.tiles, block % p.tiles);
            for thread in 0..BLOCK as usize {
                let channel = ((tile << p.shift) + (thread & ((1 << p.shift) - 1))) * p.width;
                if channel < p.c {
                    for q in (thread >> p.shift..p.area).step_by(BLOCK as usize >> p.shift) {
                        let at = (row * p.area + q) * p.c + channel;
                        seen[at..at + p.width].iter_mut().for_each(|s| *s += 1);
                    }
                }
            }
        }
        seen
    }

    /// How often each mean is written, by the threads that hold one.
    fn means(p: &Columns) -> Vec<u32> {
        let mut seen = vec![0; p.rows * p.c];
        let width = p.width << p.shift;
        assert!(width <= 64, "what a block has room for: {p:?}");
        for (row, tile) in (0..p.rows).flat_map(|row| (0..p.tiles).map(move |tile| (row, tile))) {
            for channel in (0..width).map(|thread| tile * width + thread).filter(|channel| *channel < p.c) {
                seen[row * p.c + channel] += 1;
            }
        }
        seen
    }

    #[test]
    fn columns_are_read_and_their_means_written_once() {
        for case in 0..64 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let dims = [4, 4, 9, 9].map(|end| rng.random_range(1..end));
            let p = Columns::new(&Map { dims, c: rng.random_range(1..300) });
            assert!(reads(&p).iter().all(|n| *n == 1), "{p:?}");
            assert!(means(&p).iter().all(|n| *n == 1), "{p:?}");
        }
    }
}
