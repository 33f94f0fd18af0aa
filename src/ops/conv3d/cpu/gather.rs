//! Products of filters with the rows each position gathers: fprop, and dgrad class by class.

use super::kernel::{Gather, Kernels, Tap, VECTORS};
use super::plan::{Block, Plan, blocks};
use crate::tensor::Buffer;
use rayon::prelude::*;

/// Filters as the kernels read them: `group block tap run channel`, the channels of a block filled up to whole vectors.
pub(super) struct Panels {
    data: Buffer<f32>,
    blocks: Vec<Block>,
    groups: usize,
    channels: usize,
    /// Numbers of one block.
    len: usize,
}

/// Numbers between neighbouring filter elements in the array given.
pub(super) struct Strides {
    pub group: usize,
    pub channel: usize,
    pub tap: usize,
    pub run: usize,
}

impl Panels {
    /// The filters of `groups` groups of `channels` results each.
    pub fn pack(k: &Kernels, plan: &Plan, w: &[f32], groups: usize, channels: usize, s: Strides) -> Self {
        let taps: Vec<usize> = plan.taps().map(|t| plan.index(t)).collect();
        let (blocks, run) = (blocks(k, channels), plan.run);
        let len = taps.len() * run * VECTORS * k.lanes;
        let mut data = Buffer::arbitrary(groups * blocks.len() * len);
        data.as_mut_slice().par_chunks_mut(len.max(1)).enumerate().for_each(|(i, panel)| {
            let (group, block) = (i / blocks.len(), &blocks[i % blocks.len()]);
            let width = block.vectors * k.lanes;
            for (&tap, panel) in taps.iter().zip(panel.chunks_exact_mut((run * width).max(1))) {
                let w = &w[group * s.group + tap * s.tap + block.first * s.channel..];
                // A cache line of each filter at a time.
                for (part, panel) in panel.chunks_mut(16 * width).enumerate() {
                    let runs = part * 16..part * 16 + panel.len() / width;
                    for channel in 0..block.len {
                        for (r, row) in runs.clone().zip(panel.chunks_exact_mut(width)) {
                            row[channel] = w[channel * s.channel + r * s.run];
                        }
                    }
                    panel.chunks_exact_mut(width).for_each(|row| row[block.len..].fill(0.0));
                }
            }
        });
        Panels { data, blocks, groups, channels, len }
    }
}

/// The kernel calls for some positions, without the filters.
struct Tiles {
    taps: Vec<Tap>,
    rows: Vec<*const f32>,
    out: Vec<*mut f32>,
    /// Taps and positions of each tile.
    tiles: Vec<(std::ops::Range<usize>, std::ops::Range<usize>)>,
}

impl Tiles {
    /// `zeros` is what a tap outside of the input reads.
    fn new(
        k: &Kernels,
        plan: &Plan,
        input: &[f32],
        zeros: &[f32],
        out: Out,
        positions: std::ops::Range<usize>,
    ) -> Self {
        let [qt, qh, qw] = [0, 1, 2].map(|a| plan.axes[a].count);
        let offsets: Vec<isize> = plan.taps().map(|t| plan.offset(t)).collect();
        let mut all = Tiles { taps: Vec::new(), rows: Vec::new(), out: Vec::new(), tiles: Vec::new() };
        // For each axis and tap, which of the tile's positions are inside.
        let mut inside = [0, 1, 2].map(|a| vec![0u32; plan.axes[a].taps.len()]);
        for first in positions.clone().step_by(k.rows) {
            let (len, rows, taps) = (k.rows.min(positions.end - first), all.rows.len(), all.taps.len());
            inside.iter_mut().for_each(|m| m.fill(0));
            let mut at = 0;
            while at < len {
                // The positions of the tile that lie in one row share all but the last coordinate.
                let p = first + at;
                let (n, t, h, w) = (p / (qt * qh * qw), p / (qh * qw) % qt, p / qw % qh, p % qw);
                let here = (len - at).min(qw - w);
                let mask = (u32::MAX >> (32 - here)) << at;
                for (axis, q) in [(0, t), (1, h)] {
                    for (m, tap) in inside[axis].iter_mut().zip(&plan.axes[axis].taps) {
                        *m |= if tap.inside.contains(&q) { mask } else { 0 };
                    }
                }
                for (m, tap) in inside[2].iter_mut().zip(&plan.axes[2].taps) {
                    let from = tap.inside.start.clamp(w, w + here) - w;
                    let to = tap.inside.end.clamp(w, w + here) - w;
                    *m |= (((1u64 << to) - (1u64 << from)) << at) as u32;
                }
                let (input_at, out_at) = (plan.input(n, [t, h, w]), plan.output(n, [t, h, w]));
                let (step, out_step) = (plan.axes[2].step * plan.pitch, plan.axes[2].out_step * plan.out_pitch);
                for i in 0..here {
                    all.rows.push(input.as_ptr().wrapping_add(input_at + i * step));
                    all.out.push(out.0.wrapping_add(out_at + i * out_step));
                }
                at += here;
            }
            let full = u32::MAX >> (32 - len);
            let mut index = 0;
            for t in &inside[0] {
                for h in &inside[1] {
                    for w in &inside[2] {
                        let mask = t & h & w;
                        if mask == full {
                            all.taps.push(Tap { rows, offset: offsets[index], index });
                        } else if mask != 0 {
                            all.taps.push(Tap { rows: all.rows.len(), offset: 0, index });
                            for i in 0..len {
                                let row = all.rows[rows + i].wrapping_offset(offsets[index]);
                                all.rows.push(if mask >> i & 1 == 1 { row } else { zeros.as_ptr() });
                            }
                        }
                        index += 1;
                    }
                }
            }
            all.tiles.push((taps..all.taps.len(), all.out.len() - len..all.out.len()));
        }
        all
    }
}

/// Where all tasks write, each its own positions and channels.
#[derive(Clone, Copy)]
struct Out(*mut f32);
// SAFETY: tasks write disjoint elements; see `run`.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// Panels up to this size stay in a core's cache beside the rows they meet.
const CACHED: usize = 1 << 18;

/// Floating-point operations worth a task of their own.
const TASK: usize = 1 << 22;

/// Writes every position of `plan` in `out`.
pub(super) fn run(k: &Kernels, plan: &Plan, panels: &Panels, input: &[f32], out: &mut [f32]) {
    let positions = plan.positions();
    let zeros = vec![0.0; plan.pitch.max(plan.run)];
    let tiles = positions.div_ceil(k.rows);
    let small = panels.data.as_slice().len() <= CACHED;
    let per_tile = (2 * k.rows * panels.len * panels.blocks.len()).max(1);
    // Large panels are read anew by every task, so a task should have many tiles; parallelism then comes from blocks.
    let per_task = if small { (TASK / per_tile).clamp(1, 32) } else { 24 };
    let ranges = tiles.div_ceil(per_task);
    let parts = if small { 1 } else { 32usize.div_ceil(ranges).min(panels.blocks.len()) };
    let of_part = panels.blocks.len().div_ceil(parts);
    let out = Out(out.as_mut_ptr());
    (0..ranges * panels.groups * parts).into_par_iter().with_max_len(1).for_each(|task| {
        let (range, group, part) = (task / parts / panels.groups, task / parts % panels.groups, task % parts);
        let from = range * per_task * k.rows;
        let all = Tiles::new(k, plan, input, &zeros, out, from..(from + per_task * k.rows).min(positions));
        let blocks = part * of_part..((part + 1) * of_part).min(panels.blocks.len());
        let call = |b: usize, (taps, rows): &(std::ops::Range<usize>, std::ops::Range<usize>)| {
            let block = &panels.blocks[b];
            let panel = panels.data.as_slice()[(group * panels.blocks.len() + b) * panels.len..].as_ptr();
            let a = Gather {
                taps: &all.taps[taps.clone()],
                rows: &all.rows,
                first: group * plan.run,
                run: plan.run,
                panel,
                out: &all.out[rows.clone()],
                channel: group * panels.channels + block.first,
                last: block.last,
            };
            // SAFETY: `Tiles` gives every tap a row inside the input, or zeros, and every position an output inside of
            // `out` that no other tile has; blocks are disjoint channels. `k` belongs to this machine.
            unsafe { k.gather[block.vectors - 1][rows.len() - 1](&a) }
        };
        if small {
            all.tiles.iter().for_each(|t| blocks.clone().for_each(|b| call(b, t)));
        } else {
            blocks.for_each(|b| all.tiles.iter().for_each(|t| call(b, t)));
        }
    });
}
