//! TV-L1 on a GPU: a fixed sequence of launches for a batch of pairs, without host synchronisation.
//!
//! Each pair stops independently: it has a state on the device, which every launch of the solver reads and updates. The
//! state, and the changes that decide it, are double-buffered, since the blocks of a launch read what the previous
//! launch wrote.

use super::{Tvl1, coarser, levels, size_fits};
use crate::driver::{Declared, Gpu, In, InOut, Kernel, Module, Out, Pod, Scratch, Spread};
use crate::error::{Error, Result};

static MODULE: Module = Module::new("tvl1", include_str!("../../../ptx/tvl1.sm_80.ptx"));
static ITERATE_MODULE: Module = Module::new("tvl1_iterate", include_str!("../../../ptx/tvl1_iterate.sm_80.ptx"));

static RESAMPLE: Kernel<(In, InOut, In, Pod<Resample>)> = Kernel::new(&MODULE, &["tvl1_resample_f32"]);
static GRADIENT: Kernel<(In, Out, u32, u32)> = Kernel::new(&MODULE, &["tvl1_gradient_f32"]);
type Warp = (In, In, InOut, InOut, Out, In, Out, Pod<Level>, u32);
static WARP: Kernel<Warp> = Kernel::new(&MODULE, &["tvl1_warp_f32"]);
/// Indexed by half the window: 3, 5.
static MEDIAN: Kernel<(InOut, In, Out, In, Pod<Level>)> =
    Kernel::new(&MODULE, &["tvl1_median_3x3_f32", "tvl1_median_5x5_f32"]);
type Iterate = (InOut, InOut, In, In, Out, In, Scratch, Pod<Level>, u32);
static ITERATE: Kernel<Iterate> = Kernel::new(&ITERATE_MODULE, &["tvl1_iterate_f32"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![RESAMPLE.declared(), GRADIENT.declared(), WARP.declared(), MEDIAN.declared(), ITERATE.declared()]
}

/// Side of a tile in pixels.
const SIDE: usize = 64;
/// Maximum number of iterations per launch: one per lane of the warp that checks their changes.
const MOST: usize = 32;
/// Iterations per load of the planes, where an image has several tiles: with eight, three quarters of a tile's side
/// remain after the halo.
const PER_LOAD: usize = 8;

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
    unused: u32,
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

/// One level of the plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedLevel {
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Row pitch of the solver's planes in numbers.
    pub pitch: usize,
    /// Number of tiles down and across.
    pub tiles: [usize; 2],
    /// Pixels that a tile reads beyond those it writes, on each side.
    pub halo: usize,
    /// Iterations per launch.
    pub most: usize,
    /// Offsets of the two images (of coarser levels) and of the flow in the workspace.
    images: [usize; 2],
    flow: usize,
}

impl PlannedLevel {
    /// Numbers per plane.
    fn size(&self) -> usize {
        self.h * self.pitch
    }

    /// Along one axis (0: down, 1: across), the first pixel that tile `i` reads, and the range of pixels that it
    /// writes.
    #[must_use]
    pub fn tile(&self, axis: usize, i: usize) -> (usize, std::ops::Range<usize>) {
        let from = i * (SIDE - 2 * self.halo);
        let end = if axis == 0 { self.h } else { self.pitch };
        let first = if i == 0 { 0 } else { from + self.halo };
        (from, first..if i + 1 == self.tiles[axis] { end } else { from + SIDE - self.halo })
    }

    /// Bytes that one launch of iterations loads and stores: ten planes read with the overlap, six written, for `pairs`
    /// pairs.
    #[must_use]
    pub fn bytes(&self, pairs: usize) -> u64 {
        let read = |axis: usize, n: usize| -> usize {
            (0..self.tiles[axis]).map(|i| (self.tile(axis, i).0 + SIDE).min(n) - self.tile(axis, i).0).sum()
        };
        4 * (pairs * (10 * read(0, self.h) * read(1, self.pitch) + 6 * self.size())) as u64
    }
}

/// How the flow of a batch is computed: levels, tiles, and the layout of the workspace.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Number of pairs.
    pub pairs: usize,
    /// The levels, the finest first.
    pub levels: Vec<PlannedLevel>,
    dual: usize,
    fixed: usize,
    packed: usize,
    state: usize,
    change: [usize; 2],
    bytes: usize,
}

fn tiles(n: usize, halo: usize) -> usize {
    if n <= SIDE { 1 } else { 1 + (n - SIDE).div_ceil(SIDE - 2 * halo) }
}

impl Plan {
    /// A plan for `pairs` pairs of `h w` pixels.
    ///
    /// # Errors
    /// `Param` when a parameter is out of range; `Shape` when an image is smaller than 3x3 or there is too much for one batch.
    pub fn new(pairs: usize, h: usize, w: usize, p: &Tvl1) -> Result<Plan> {
        Self::with_iterations(pairs, h, w, p, PER_LOAD)
    }

    /// The same with `per_load` iterations (1 to 24) per load of the planes of an image of several tiles; results do
    /// not depend on it.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn with_iterations(pairs: usize, h: usize, w: usize, p: &Tvl1, per_load: usize) -> Result<Plan> {
        p.check()?;
        if !(1..=24).contains(&per_load) {
            return Err(Error::param("tvl1", "iterations", per_load, "it must be from 1 to 24"));
        }
        if !size_fits(h, w) || h > 65535 || pairs == 0 || pairs > 16383 {
            let rule =
                "1 to 16383 pairs of at least 3x3 and at most 2^28 pixels, in at most 65535 rows and 2^22 columns";
            return Err(Error::shape("tvl1", "a", rule, format!("{pairs} of {h}x{w}")));
        }
        let mut bytes = 0;
        let mut take = |numbers: usize| {
            let at = bytes;
            bytes += (4 * numbers).next_multiple_of(256);
            at
        };
        let halo = per_load.next_multiple_of(4);
        let (mut levels_of_plan, mut extents) = (Vec::new(), (h, w));
        for level in 0..levels(h, w, p) {
            if level > 0 {
                extents = (coarser(extents.0, p), coarser(extents.1, p));
            }
            let (h, w) = extents;
            let image = if level > 0 { pairs * h * w } else { 0 };
            let (pitch, tiles) = (w.next_multiple_of(8), [tiles(h, halo), tiles(w, halo)]);
            let most = if tiles == [1, 1] { MOST.min(4 * per_load) } else { per_load };
            let flow = take(pairs * 4 * h * pitch);
            let images = [take(image), take(image)];
            let most = most.min(p.inner_iterations);
            levels_of_plan.push(PlannedLevel { h, w, pitch, tiles, halo, most, images, flow });
        }
        let (size, pixels) = (h * w.next_multiple_of(8), h * w);
        let most_tiles = levels_of_plan.iter().map(|l| l.tiles[0] * l.tiles[1]).max().unwrap_or(1);
        let dual = take(pairs * 8 * size);
        let fixed = take(pairs * 4 * size);
        let packed = take(pairs * 4 * pixels);
        let state = take(2 * pairs.next_multiple_of(4));
        let change = [take(pairs * most_tiles * MOST), take(pairs * most_tiles * MOST)];
        Ok(Plan { pairs, levels: levels_of_plan, dual, fixed, packed, state, change, bytes })
    }

    /// Bytes of working memory that [`launch`] needs.
    #[must_use]
    pub fn workspace(&self) -> usize {
        self.bytes
    }
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
/// The addresses are valid on `gpu`'s device for the plan's extents until the work is done, and aligned to 16 bytes. The plan
/// was made for the same parameters.
///
/// # Errors
/// `Driver`.
pub unsafe fn launch(gpu: &Gpu, plan: &Plan, p: &Tvl1, at: &Pointers) -> Result<()> {
    Batch { gpu, plan, p, at, state: 0, change: 0 }.run()
}

impl Batch<'_> {
    fn run(&mut self) -> Result<()> {
        let (levels, pairs) = (&self.plan.levels, self.plan.pairs);
        let zoom = 1.0 / self.p.scale_step;
        for finer in 1..levels.len() {
            for k in 0..2 {
                let (from, to) = (&levels[finer - 1], &levels[finer]);
                let source = self.image(finer - 1, k);
                let target = self.work(to.images[k], 4 * pairs * to.h * to.w);
                let ratio = [zoom, zoom];
                let shape = Resample {
                    ratio,
                    planes: 1,
                    from: [from.h as u32, from.w as u32, from.w as u32],
                    to: [to.h as u32, to.w as u32, to.w as u32],
                    to_step: 1,
                    gain: 1.0,
                    unused: 0,
                };
                self.resample(source, target, None, shape)?;
            }
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
            unused: 0,
        };
        let (flow, state) = (self.flow(0), self.state_in());
        let target = InOut(self.at.flow, 4 * pairs * 2 * l.h * l.w);
        self.resample(In(flow.0, flow.1), target, Some(state), shape)
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
                unused: 0,
            };
            let (from, state) = (self.flow(level + 1), self.state_in());
            self.resample(In(from.0, from.1), self.flow(level), Some(state), shape)?;
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
            for _ in 0..p.outer_iterations {
                if p.median > 1 {
                    let grid =
                        [w.div_ceil(32).max((l.pitch as u32).div_ceil(32)), h.div_ceil(8), 2 * plan.pairs as u32];
                    let args = (flow, self.state_in(), self.state_out(), self.changes(&l, self.change), shape);
                    MEDIAN.launch(gpu, p.median / 2 - 1, Spread { grid, ..Spread::line(1, 256) }, args)?;
                    self.state ^= 1;
                }
                let mut left = p.inner_iterations;
                while left > 0 {
                    let count = left.min(l.most);
                    self.iterate(&l, shape, (flow, dual, In(fixed.0, fixed.1)), count)?;
                    left -= count;
                }
            }
            // Pairs that met the criterion during the last launch are recomputed up to the iteration at which they met
            // it.
            self.iterate(&l, shape, (flow, dual, In(fixed.0, fixed.1)), 0)?;
        }
        Ok(())
    }

    fn iterate(&mut self, l: &PlannedLevel, shape: Pod<Level>, planes: (InOut, InOut, In), count: usize) -> Result<()> {
        let grid = [(l.tiles[0] * l.tiles[1]) as u32, self.plan.pairs as u32, 1];
        let (now, next) = (self.changes(l, self.change), self.changes(l, self.change ^ 1));
        let next = Scratch(next.0, next.1);
        let args = (planes.0, planes.1, planes.2, self.state_in(), self.state_out(), now, next, shape, count as u32);
        ITERATE.launch(self.gpu, 0, Spread { grid, ..Spread::line(1, 512) }, args)?;
        (self.state, self.change) = (self.state ^ 1, self.change ^ 1);
        Ok(())
    }

    fn resample(&self, from: In, to: InOut, state: Option<In>, shape: Resample) -> Result<()> {
        let grid = [shape.to[2].div_ceil(128), shape.to[0], self.plan.pairs as u32 * shape.planes];
        let args = (from, to, state.unwrap_or(In(0, 0)), Pod(shape));
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
        let InOut(ptr, bytes) = self.work(l.images[k], bytes);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    #[test]
    fn tiles_write_every_pixel_once_and_read_what_it_takes() {
        for case in 0..256 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let [h, w] = [0; 2].map(|_| rng.random_range(3..700));
            let (per_load, inner) = (rng.random_range(1..=24), rng.random_range(1..60));
            let p = Tvl1 { inner_iterations: inner, ..Tvl1::default() };
            let plan = Plan::with_iterations(2, h, w, &p, per_load).unwrap();
            for l in &plan.levels {
                for (axis, n) in [(0, l.h), (1, l.pitch)] {
                    let mut next = 0;
                    for i in 0..l.tiles[axis] {
                        let (from, own) = l.tile(axis, i);
                        assert!(own.start == next && own.end > own.start && own.end <= n);
                        assert!(from + SIDE >= own.end && from <= own.start);
                        // Away from the image's edges, a result is correct if it is at least `most` pixels inside the
                        // region that is read.
                        assert!(from == 0 || own.start - from >= l.most);
                        let end = if axis == 0 { l.h } else { l.w };
                        assert!(from + SIDE >= end || from + SIDE - own.end >= l.most);
                        next = own.end;
                    }
                    assert_eq!(next, n);
                }
                assert!(l.most >= 1 && l.most <= MOST && l.most <= inner);
            }
        }
    }
}
