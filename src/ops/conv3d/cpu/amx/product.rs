//! Products of slabs with panels: which positions and channels each task computes, and in what order.

use super::super::epilogue::{Finish, Strips};
use super::super::loop_nest::{LoopNest, Rows};
use super::Input;
use super::number::{BLOCK, Number};
use super::panels::Class;
use super::slab::{Layout, Unit, widest};
use crate::cpu::amx::{Offsets, Product, SIDE, Tiles};
use crate::cpu::traffic::{self, Temporary, Work};
use crate::error::Result;
use crate::tensor::Buffer;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of a slab: together with the filters it stays in the L2 cache.
const SLAB: usize = 640 << 10;

/// Bytes of the panels that a task reads repeatedly.
const PANELS: usize = 1280 << 10;

/// Target number of tasks.
const TASKS: usize = 8;

/// The result, to which all tasks write at disjoint positions and channels.
struct Out<S>(*mut S);

// SAFETY: tasks write disjoint elements: other positions, or other channels of them.
unsafe impl<S> Sync for Out<S> {}

/// The work of one call, before it is divided into tasks.
struct Job<'a, 'e, S> {
    layout: Layout,
    classes: Vec<Class>,
    nests: Vec<LoopNest>,
    /// Offset of the panels of each class.
    firsts: Vec<usize>,
    panels: Buffer<bf16>,
    x: Input<'a, S>,
    out: Out<S>,
    k: usize,
    strips: Strips<'e, S>,
    /// Samples per part of the epilogue's sums.
    samples: usize,
}

/// Computes every position of `nests`, which read `x` and together cover `out`. `transposed` says whether the filters are
/// transposed.
pub(super) fn run<S: Number>(
    nests: Vec<LoopNest>,
    planes: usize,
    x: Input<S>,
    w: &[S],
    transposed: bool,
    out: &mut [S],
    finish: &mut Finish<S>,
) -> Result<()> {
    let Some(&LoopNest { n, out_pitch: k, .. }) = nests.first() else { return Ok(()) };
    let blocks = k.div_ceil(BLOCK);
    let [t, h] = [0, 1].map(|a| widest(&nests, a));
    let probe = Layout::new(&nests, planes, x.stored(), [t, h]);
    let of_block: usize = nests.iter().map(|p| 2 * Class::new(p.clone(), &probe).panel()).sum();
    let mut parts = (of_block * blocks).div_ceil(PANELS).min(blocks);
    let size = sizes(&nests, planes, x.stored(), k);
    let layout = Layout::new(&nests, planes, x.stored(), size);
    let classes: Vec<Class> = nests.iter().map(|p| Class::new(p.clone(), &layout)).collect();
    let mut units = Vec::new();
    for n in 0..n {
        for t0 in (0..t).step_by(size[0]) {
            for h0 in (0..h).step_by(size[1]) {
                units.push(Unit { n, t: t0..(t0 + size[0]).min(t), h: h0..(h0 + size[1]).min(h) });
            }
        }
    }
    parts = parts.max(TASKS.div_ceil(units.len())).min(blocks);

    let mut firsts = Vec::new();
    let mut len = 0;
    for class in &classes {
        firsts.push(len);
        len += class.panel() * blocks;
    }
    let mut panels = Buffer::<bf16>::arbitrary(len)?;
    {
        let mut all = Vec::new();
        let mut rest = panels.as_mut_slice();
        for class in &classes {
            for block in 0..blocks {
                let (panel, behind) = rest.split_at_mut(class.panel());
                all.push((class, block, panel));
                rest = behind;
            }
        }
        // SAFETY: this module runs only with `Isa::Amx`.
        all.into_par_iter().for_each(|(class, block, panel)| unsafe { class.pack(w, transposed, block, panel) });
    }

    // Without slabs every part of the channels reads the input; with them, they are read in its place.
    let (slabs, direct) = (2 * layout.len() * units.len(), layout.len() == 0);
    let read = if direct { parts } else { 1 } * size_of_val(x.numbers);
    traffic::more(|| Work::moves(read, 0, parts * units.len()));
    match parts {
        _ if direct => {}
        1 => traffic::cached(slabs),
        _ => traffic::temporary(Temporary::Layout, parts * slabs, slabs),
    }
    traffic::temporary(Temporary::Filters, 2 * len, 2 * len);

    let strips = finish.begin(units.len(), out.as_mut_ptr());
    let samples = finish.part().max(1);
    let job = Job { layout, classes, nests, firsts, panels, x, out: Out(out.as_mut_ptr()), k, strips, samples };
    job.run(&units, parts, blocks);
    finish.end(job.strips);
    Ok(())
}

/// Frames and rows per unit: few enough for the cache, enough for all threads, with little copied twice.
fn sizes(nests: &[LoopNest], planes: usize, stored: bool, k: usize) -> [usize; 2] {
    let [t, h, w] = [0, 1, 2].map(|a| widest(nests, a));
    let n = nests[0].n;
    let taps: usize = nests.iter().map(|p| p.taps().count()).sum();
    // The measured cost of copying a number, relative to multiplying it.
    let copying = 250.0 / (taps * k) as f64;
    let pieces = |all: usize| {
        let mut sizes: Vec<usize> = (1..=all).map(|parts| all.div_ceil(parts)).collect();
        sizes.dedup();
        sizes
    };
    let mut best = (f64::INFINITY, [t, h]);
    for &rows in &pieces(h) {
        for &frames in &pieces(t) {
            let layout = Layout::new(nests, planes, stored, [frames, rows]);
            let last = (h - 1) % rows + 1;
            if layout.direct && rows < h && last * w < SIDE {
                continue; // a tile needs 16 positions
            }
            let bytes =
                if layout.direct { 2 * (nests[0].pitch + k) * rows * w * frames.min(4) } else { 2 * layout.len() };
            let units = n * t.div_ceil(frames) * h.div_ceil(rows);
            let flat = if layout.gapless() { frames * rows * w } else { (rows - 1) * layout.across + w };
            let useful = if layout.gapless() { frames * rows * w } else { rows * w };
            let waste = flat.next_multiple_of(SIDE) as f64 / useful as f64;
            let twice = layout.copied() as f64 / (frames * rows * w) as f64;
            let uneven = units.next_multiple_of(TASKS) as f64 / units as f64;
            let too_large = (bytes as f64 / SLAB as f64).max(1.0);
            let cost = (waste + copying * twice) * uneven.min(2.0) * too_large + 1e-3 * units as f64 / n as f64;
            if cost < best.0 {
                best = (cost, [frames, rows]);
            }
        }
    }
    best.1
}

/// Positions computed together, and where their results go.
struct Positions<'a, S> {
    /// Address of the first position in the input.
    base: *const bf16,
    steps: &'a [Vec<Offsets>],
    to: &'a [*mut S],
    /// Positions from the first tile's to the second's; `None` if there is only one tile.
    second: Option<usize>,
}

impl<S: Number> Job<'_, '_, S> {
    /// Computes all units, with all blocks of channels.
    fn run(&self, units: &[Unit], parts: usize, blocks: usize) {
        let of_part = |part: usize| blocks * part / parts..blocks * (part + 1) / parts;
        let len = self.layout.len();
        if parts == 1 || len == 0 {
            (0..parts * units.len()).into_par_iter().with_max_len(1).for_each(|task| {
                let (part, unit) = (task / units.len(), &units[task % units.len()]);
                let mut slab = Buffer::<bf16>::workspace(len);
                // SAFETY: this module runs only with `Isa::Amx`.
                unsafe {
                    if len > 0 {
                        self.layout.fill(&self.nests, unit, &self.x, slab.as_mut_slice());
                    }
                    self.unit(task % units.len(), unit, slab.as_slice(), of_part(part));
                }
            });
            return;
        }
        // Several tasks read each slab, so all slabs are filled first.
        let mut slabs = Buffer::<bf16>::workspace(len * units.len());
        slabs.as_mut_slice().par_chunks_exact_mut(len).zip(units).for_each(|(slab, unit)| {
            // SAFETY: as above.
            unsafe { self.layout.fill(&self.nests, unit, &self.x, slab) };
        });
        let slabs = slabs.as_slice();
        (0..parts * units.len()).into_par_iter().with_max_len(1).for_each(|task| {
            let (part, unit) = (task / units.len(), task % units.len());
            // SAFETY: as above.
            unsafe { self.unit(unit, &units[unit], &slabs[unit * len..][..len], of_part(part)) };
        });
    }

    /// Computes all positions of a unit in some blocks of channels.
    ///
    /// # Safety
    /// `Isa::Amx` is available; `slab` was filled for `unit`, unless the layout is direct.
    unsafe fn unit(&self, range: usize, unit: &Unit, slab: &[bf16], blocks: Range<usize>) {
        let frames = self.layout.frames(&self.nests, unit);
        let mut sums = Buffer::<f32>::workspace(blocks.len().max(2) * BLOCK * BLOCK);
        for (class, &first) in self.classes.iter().zip(&self.firsts) {
            let nest = &class.nest;
            let [at, ah, aw] = &nest.axes;
            let (qt, qh) = (unit.t.start..unit.t.end.min(at.count), unit.h.start..unit.h.end.min(ah.count));
            if qt.is_empty() || qh.is_empty() || aw.count == 0 {
                continue;
            }
            // SAFETY: as the caller vouches; nothing below calls into rayon.
            let tiles = unsafe { Tiles::new(class.depth) };
            let panels = &self.panels.as_slice()[first..];
            let inside = |q: usize| -> Vec<bool> { at.taps.iter().map(|t| t.inside.contains(&q)).collect() };
            let whole = if self.layout.direct { ah.extent } else { self.layout.rows };
            let flat = self.layout.gapless() && unit.h.len() == whole && at.step == 1;
            let mut q = qt.start;
            while q < qt.end {
                let taps = inside(q);
                let mut end = q + 1;
                while end < qt.end && inside(end) == taps {
                    end += 1;
                }
                let steps: Vec<Vec<Offsets>> =
                    class.segments.iter().map(|s| class.steps(&self.layout, s, &taps)).collect();
                let together = if flat { end - q } else { 1 };
                for q in (q..end).step_by(together) {
                    let base = if self.layout.direct {
                        let first = (unit.n * at.extent + q * at.step) * self.layout.frame_pitch;
                        let x: *const bf16 = self.x.numbers.as_ptr().cast(); // of that type, or the layout is not direct
                        x.wrapping_add(first + unit.h.start * self.layout.row_pitch)
                    } else {
                        let frame = (q * at.step) as isize - frames.start as isize;
                        slab.as_ptr().wrapping_offset(frame * self.layout.frame_pitch as isize)
                    };
                    let (across, height) = (self.layout.across, unit.h.len());
                    let rows = if together == 1 { qh.len() } else { together * unit.h.len() };
                    let count = (rows - 1) * across + aw.count;
                    for f in (0..count).step_by(BLOCK) {
                        // No tile may extend past the end of the input itself.
                        let latest = if self.layout.direct { count - SIDE } else { usize::MAX };
                        let starts = [f, f + SIDE].map(|s| s.min(latest));
                        let two = f + SIDE < count;
                        let mut to = [std::ptr::null_mut(); BLOCK];
                        for (tile, to) in to.chunks_exact_mut(SIDE).enumerate().take(1 + usize::from(two)) {
                            let (mut row, mut qw) = (starts[tile] / across, starts[tile] % across);
                            let mut left = count - starts[tile];
                            // Positions before these belong to another tile, too.
                            let known = f + tile * SIDE - starts[tile];
                            let mut line = std::ptr::null_mut();
                            let mut at = usize::MAX;
                            for (i, to) in to.iter_mut().enumerate() {
                                if at != row {
                                    at = row;
                                    let (frame, row) =
                                        if together == 1 { (0, row) } else { (row / height, row % height) };
                                    let inside = row < qh.len() && q + frame < end;
                                    line = match inside {
                                        true => {
                                            self.out.0.wrapping_add(nest.output(unit.n, [q + frame, qh.start + row, 0]))
                                        }
                                        false => std::ptr::null_mut(),
                                    };
                                }
                                if i >= known && left > 0 && qw < aw.count && !line.is_null() {
                                    *to = line.wrapping_add(qw * aw.out_step * nest.out_pitch);
                                }
                                left = left.saturating_sub(1);
                                qw += 1;
                                if qw == across {
                                    (qw, row) = (0, row + 1);
                                }
                            }
                        }
                        let positions = Positions {
                            base: base.wrapping_add(starts[0] * self.layout.step()),
                            steps: &steps,
                            to: &to[..if two { BLOCK } else { SIDE }],
                            second: two.then(|| starts[1] - starts[0]),
                        };
                        debug_assert!(self.covers(class, &positions, slab));
                        // SAFETY: every tap of these positions is in the slab or the input; no other task writes them.
                        unsafe { self.block(class, &tiles, panels, &positions, blocks.clone(), sums.as_mut_slice()) };
                    }
                }
                q = end;
            }
            // Finish the class's results while they are in the cache.
            let channels = blocks.start * BLOCK..(blocks.end * BLOCK).min(self.k);
            let positions = qt.flat_map(|t| qh.clone().map(move |h| [t, h]));
            let rows = positions.map(|[t, h]| Rows {
                first: nest.output(unit.n, [t, h, 0]),
                count: aw.count,
                step: aw.out_step * nest.out_pitch,
            });
            // SAFETY: these positions and channels belong to this task, and have been written.
            unsafe { self.strips.strip(range, unit.n / self.samples, rows, channels) };
        }
    }

    /// Whether everything that tiles read is inside the slab, or the input.
    fn covers(&self, class: &Class, positions: &Positions<S>, slab: &[bf16]) -> bool {
        let bytes =
            if self.layout.direct { bytemuck::cast_slice(self.x.numbers) } else { bytemuck::cast_slice::<_, u8>(slab) };
        let bytes = bytes.as_ptr_range();
        let first = positions.base.cast::<u8>();
        let rows = positions.second.unwrap_or(0) + SIDE - 1;
        let parts = 0..self.layout.planes;
        let mut all = positions.steps.iter().flatten().flat_map(|s| parts.clone().map(move |part| (s, part)));
        all.all(|(step, part)| {
            let from = first.wrapping_offset(step.a).wrapping_add(2 * part * self.layout.plane_pitch);
            let to = from.wrapping_add(2 * (rows * self.layout.step() + class.depth));
            from >= bytes.start && to <= bytes.end && from <= to
        })
    }

    /// Computes some positions in some blocks of channels.
    unsafe fn block(
        &self,
        class: &Class,
        tiles: &Tiles,
        panels: &[bf16],
        positions: &Positions<S>,
        blocks: Range<usize>,
        sums: &mut [f32],
    ) {
        let step = 2 * self.layout.step();
        let one = class.segments.len() == 1;
        // While tiles multiply for one block, vector instructions store the block before.
        let mut waiting: Option<(usize, *const f32)> = None;
        let store = |(block, sums): (usize, *const f32)| {
            let channel = block * BLOCK;
            // SAFETY: the places are this task's; blocks have disjoint channels.
            unsafe { S::store(sums, positions.to, channel, (self.k - channel).min(BLOCK)) };
        };
        for (i, steps) in positions.steps.iter().enumerate() {
            let last = i + 1 == positions.steps.len();
            for block in blocks.clone() {
                let slot = if one { block % 2 } else { block - blocks.start };
                let c = sums[slot * BLOCK * BLOCK..].as_mut_ptr();
                let p = Product {
                    steps,
                    parts: self.layout.planes,
                    a: positions.base.cast(),
                    a_stride: step as isize,
                    a_second: (positions.second.unwrap_or(0) * step) as isize,
                    a_part: 2 * self.layout.plane_pitch as isize,
                    b: panels[block * class.panel()..].as_ptr().cast(),
                    b_second: class.second(),
                    b_part: 2 * class.second(),
                    c,
                    fresh: i == 0,
                };
                let wide = self.k - block * BLOCK > SIDE;
                // SAFETY: as the caller vouches.
                unsafe {
                    match (positions.second.is_some(), wide) {
                        (true, true) => tiles.multiply::<2, 2>(&p),
                        (true, false) => tiles.multiply::<2, 1>(&p),
                        (false, true) => tiles.multiply::<1, 2>(&p),
                        (false, false) => tiles.multiply::<1, 1>(&p),
                    }
                }
                if last && let Some(before) = waiting.replace((block, c)) {
                    store(before);
                }
            }
        }
        if let Some(before) = waiting {
            store(before);
        }
    }
}
