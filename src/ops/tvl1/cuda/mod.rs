//! TV-L1 on a GPU: a fixed sequence of launches for a batch of pairs, without host synchronisation.
//!
//! Each pair stops independently: it has a state on the device, which every launch of the solver reads and updates. The
//! state, and the changes that decide it, are double-buffered, since the blocks of a launch read what the previous
//! launch wrote.

mod plan;

pub use plan::{Plan, PlannedLevel};

use super::Tvl1;
use crate::driver::{Declared, Gpu, In, InOut, Kernel, Module, Out, Pod, Scratch, Spread};
use crate::error::Result;
use crate::tensor::{WIDE, aligned};
use plan::MOST;

static MODULE: Module = Module::new("tvl1", include_str!("../../../../ptx/tvl1.sm_80.ptx"));
static ITERATE_MODULE: Module = Module::new("tvl1_iterate", include_str!("../../../../ptx/tvl1_iterate.sm_80.ptx"));

static RESAMPLE: Kernel<(In, In, InOut, In, Pod<Resample>)> = Kernel::new(&MODULE, &["tvl1_resample_f32"]);
static GRADIENT: Kernel<(In, Out, u32, u32)> = Kernel::new(&MODULE, &["tvl1_gradient_f32"]);
type Warp = (In, In, InOut, InOut, Out, In, Out, Pod<Level>, u32);
static WARP: Kernel<Warp> = Kernel::new(&MODULE, &["tvl1_warp_f32"]);
type Iterate = (InOut, InOut, In, In, Out, In, Scratch, Pod<Level>, u32, u32);
/// Indexed by half the window of the median: 1 (none), 3, 5.
static ITERATE: Kernel<Iterate> =
    Kernel::new(&ITERATE_MODULE, &["tvl1_iterate_f32", "tvl1_iterate_3x3_f32", "tvl1_iterate_5x5_f32"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![RESAMPLE.declared(), GRADIENT.declared(), WARP.declared(), ITERATE.declared()]
}

/// Arguments of resampling as its kernel takes them.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Resample {
    ratio: [f64; 2],
    planes: u32,
    /// Rows, columns, and row pitch in numbers.
    from: [u32; 3],
    to: [u32; 3],
    to_step: u32,
    gain: f32,
    /// Planes of the first source; the others are of the second one.
    first: u32,
}

/// A level as the kernels take it.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Level {
    h: u32,
    w: u32,
    pitch: u32,
    tiles_x: u32,
    tiles: u32,
    halo: u32,
    stop: f32,
    threshold: f32,
    theta: f32,
    step: f32,
}

/// Device addresses of a batch's arguments, aligned to 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointers {
    /// First images, `[pairs h w]` of f32, 0 to 255.
    pub a: u64,
    /// Second images.
    pub b: u64,
    /// Flow, `[pairs 2 h w]` of f32 (u, then v), written.
    pub flow: u64,
    /// [`Plan::workspace`] bytes.
    pub workspace: u64,
}

/// A batch being launched.
struct Batch<'a> {
    gpu: &'a Gpu,
    plan: &'a Plan,
    p: &'a Tvl1,
    at: &'a Pointers,
    /// Which of the two states, and of the two sets of changes, the next launch reads.
    state: usize,
    change: usize,
}

/// Enqueues the flows of a batch of pairs on `gpu`. Pixels are not checked: a pair with a NaN gets meaningless flow,
/// without affecting other pairs.
///
/// # Safety
/// The addresses are valid on `gpu`'s device for the plan's extents until the work is done. The plan was made for the same
/// parameters.
///
/// # Errors
/// `Param` when an address is null or not a multiple of 16; `Driver`.
pub unsafe fn launch(gpu: &Gpu, plan: &Plan, p: &Tvl1, at: &Pointers) -> Result<()> {
    for (arg, at) in [("a", at.a), ("b", at.b), ("flow", at.flow), ("workspace", at.workspace)] {
        aligned("tvl1", arg, at, WIDE)?;
    }
    Batch { gpu, plan, p, at, state: 0, change: 0 }.run()
}

impl Batch<'_> {
    fn run(&mut self) -> Result<()> {
        let (levels, pairs) = (&self.plan.levels, self.plan.pairs);
        let zoom = 1.0 / self.p.scale_step;
        for finer in 1..levels.len() {
            let (from, to) = (&levels[finer - 1], &levels[finer]);
            let target = self.work(to.images, 8 * pairs * to.h * to.w);
            let shape = Resample {
                ratio: [zoom, zoom],
                planes: 1,
                from: [from.h as u32, from.w as u32, from.w as u32],
                to: [to.h as u32, to.w as u32, to.w as u32],
                to_step: 1,
                gain: 1.0,
                first: pairs as u32,
            };
            let sources = [0, 1].map(|k| self.image(finer - 1, k));
            self.resample(sources, target, None, shape, 2 * pairs)?;
        }
        for level in (0..levels.len()).rev() {
            self.level(level)?;
        }
        let l = &levels[0];
        let shape = Resample {
            ratio: [1.0, 1.0],
            planes: 2,
            from: [l.h as u32, l.w as u32, l.pitch as u32],
            to: [l.h as u32, l.w as u32, l.w as u32],
            to_step: 2,
            gain: 1.0,
            first: u32::MAX >> 1,
        };
        let (flow, state) = (self.flow(0), self.state_in());
        let target = InOut(self.at.flow, 4 * pairs * 2 * l.h * l.w);
        self.resample([In(flow.0, flow.1), In(0, 0)], target, Some(state), shape, 2 * pairs)
    }

    /// The flow of a level, starting from that of the coarser one.
    fn level(&mut self, level: usize) -> Result<()> {
        let (plan, p, gpu) = (self.plan, self.p, self.gpu);
        let l = plan.levels[level];
        if let Some(coarse) = plan.levels.get(level + 1) {
            let shape = Resample {
                ratio: [coarse.w as f64 / l.w as f64, coarse.h as f64 / l.h as f64],
                planes: 2,
                from: [coarse.h as u32, coarse.w as u32, coarse.pitch as u32],
                to: [l.h as u32, l.w as u32, l.pitch as u32],
                to_step: 4,
                gain: (1.0 / p.scale_step) as f32,
                first: u32::MAX >> 1,
            };
            let (from, state) = (self.flow(level + 1), self.state_in());
            self.resample([In(from.0, from.1), In(0, 0)], self.flow(level), Some(state), shape, 2 * plan.pairs)?;
        }
        let line =
            |n: usize| Spread { grid: [n.div_ceil(128) as u32, l.h as u32, plan.pairs as u32], ..Spread::line(1, 128) };
        let (h, w) = (l.h as u32, l.w as u32);
        let packed = self.work(plan.packed, 16 * plan.pairs * l.h * l.w);
        GRADIENT.launch(gpu, 0, line(l.w), (self.image(level, 1), Out(packed.0, packed.1), h, w))?;

        let shape = Pod(Level {
            h,
            w,
            pitch: l.pitch as u32,
            tiles_x: l.tiles[1] as u32,
            tiles: (l.tiles[0] * l.tiles[1]) as u32,
            halo: l.halo as u32,
            stop: (p.epsilon * p.epsilon * (l.h * l.w) as f64) as f32,
            threshold: (p.lambda * p.theta) as f32,
            theta: p.theta as f32,
            step: (p.tau / p.theta) as f32,
        });
        let flow = self.flow(level);
        let dual = self.work(plan.dual, 4 * plan.pairs * 8 * l.size());
        let fixed = self.work(plan.fixed, 4 * plan.pairs * 4 * l.size());
        for warp in 0..p.warps {
            let start = if warp > 0 { 0 } else { 1 + u32::from(level + 1 == plan.levels.len()) };
            let before = if warp > 0 { self.state_in() } else { In(0, 0) };
            let images = (self.image(level, 0), In(packed.0, packed.1));
            let args = (images.0, images.1, flow, dual, Out(fixed.0, fixed.1), before, self.state_out(), shape, start);
            WARP.launch(gpu, 0, line(l.pitch), args)?;
            self.state ^= 1;
            let planes = (flow, dual, In(fixed.0, fixed.1));
            for _ in 0..p.outer_iterations {
                for (i, count) in l.launches(p.inner_iterations).enumerate() {
                    self.iterate(&l, shape, planes, count, i == 0 && p.median > 1)?;
                }
            }
            // Pairs that met the criterion during the last launch are recomputed up to the iteration at which they met
            // it.
            self.iterate(&l, shape, planes, 0, false)?;
        }
        Ok(())
    }

    fn iterate(
        &mut self,
        l: &PlannedLevel,
        shape: Pod<Level>,
        planes: (InOut, InOut, In),
        count: usize,
        median: bool,
    ) -> Result<()> {
        let grid = [(l.tiles[0] * l.tiles[1]) as u32, self.plan.pairs as u32, 1];
        let (now, next) = (self.changes(l, self.change), self.changes(l, self.change ^ 1));
        let next = Scratch(next.0, next.1);
        let (flow, dual, fixed) = planes;
        let (count, median) = (count as u32, u32::from(median));
        let args = (flow, dual, fixed, self.state_in(), self.state_out(), now, next, shape, count, median);
        ITERATE.launch(self.gpu, self.p.median / 2, Spread { grid, ..Spread::line(1, 512) }, args)?;
        (self.state, self.change) = (self.state ^ 1, self.change ^ 1);
        Ok(())
    }

    fn resample(&self, from: [In; 2], to: InOut, state: Option<In>, shape: Resample, planes: usize) -> Result<()> {
        let grid = [shape.to[2].div_ceil(128), shape.to[0], planes as u32];
        let args = (from[0], from[1], to, state.unwrap_or(In(0, 0)), Pod(shape));
        RESAMPLE.launch(self.gpu, 0, Spread { grid, ..Spread::line(1, 128) }, args)
    }

    fn work(&self, offset: usize, bytes: usize) -> InOut {
        InOut(self.at.workspace + offset as u64, bytes)
    }

    fn image(&self, level: usize, k: usize) -> In {
        let l = &self.plan.levels[level];
        let bytes = 4 * self.plan.pairs * l.h * l.w;
        if level == 0 {
            return In([self.at.a, self.at.b][k], bytes);
        }
        let InOut(ptr, bytes) = self.work(l.images + k * bytes, bytes);
        In(ptr, bytes)
    }

    fn flow(&self, level: usize) -> InOut {
        let l = &self.plan.levels[level];
        self.work(l.flow, 4 * self.plan.pairs * 4 * l.size())
    }

    fn state_at(&self, which: usize) -> InOut {
        self.work(self.plan.state + 4 * which * self.plan.pairs.next_multiple_of(4), 4 * self.plan.pairs)
    }

    fn state_in(&self) -> In {
        let InOut(ptr, bytes) = self.state_at(self.state);
        In(ptr, bytes)
    }

    fn state_out(&self) -> Out {
        let InOut(ptr, bytes) = self.state_at(self.state ^ 1);
        Out(ptr, bytes)
    }

    fn changes(&self, l: &PlannedLevel, which: usize) -> In {
        let InOut(ptr, bytes) =
            self.work(self.plan.change[which], 4 * self.plan.pairs * l.tiles[0] * l.tiles[1] * MOST);
        In(ptr, bytes)
    }
}
