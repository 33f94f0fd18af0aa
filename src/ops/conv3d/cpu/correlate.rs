//! Products of the input with the gradient of the output, summed over positions: wgrad.

use super::kernel::{Correlate, Kernels, Segment, TAPS, VECTORS};
use super::plan::{AxisTap, Block, Plan, blocks};
use super::transpose::transpose;
use crate::tensor::Buffer;
use rayon::prelude::*;
use std::ops::Range;

/// Channels from which the gradients are copied in slices; sliding kernels, which read less, gain by it later.
const MANY: usize = 32;
const MANY_SLIDING: usize = 128;

/// Pixels of a chunk that is copied: what one kernel call reads of their gradients stays in the first-level cache.
const COPIED: usize = 64;

/// Bytes of a chunk that is not: both arrays' stay in the second-level cache while all taps pass over them.
const CACHED: usize = 3 << 18;

/// Positions of a set, so that its sums are worth adding up.
const SET: usize = 1024;

/// Bytes all sums together may take.
const SUMS: usize = 1 << 25;

/// Tasks to aim at.
const TASKS: usize = 16;

/// `dw` (`group channel tap run`) for `channels` outputs per group. Positions are cut into chunks, chunks into sets each
/// with its own sums: how many depends on the extents alone, and the sets are added in order.
pub(super) fn run(k: &Kernels, plan: &Plan, x: &[f32], dy: &[f32], groups: usize, channels: usize, dw: &mut [f32]) {
    // A sliding kernel takes three taps, `side` by side, at once; the first stands for them.
    let (side, vectors) = if plan.slides() { (TAPS, 1) } else { (1, VECTORS) };
    let taps: Vec<[&AxisTap; 3]> = plan.taps().step_by(side).collect();
    let (blocks, run) = (blocks(k, channels, vectors), plan.run);
    let w = &plan.axes[2];
    let rows = plan.positions() / w.count.max(1);
    let row_bytes = 4 * (w.extent * plan.pitch + w.count * plan.out_pitch);
    let copied = channels >= if side == TAPS { MANY_SLIDING } else { MANY };
    let of_chunk = if copied { COPIED / w.count.max(1) } else { CACHED / row_bytes.max(1) }.max(1);
    let chunks = rows.div_ceil(of_chunk);

    // An item is one tap, or three, of one group and block: `run` rows of whole vectors of each.
    let item = run * side * vectors * k.lanes;
    let items = taps.len() * groups * blocks.len();
    if items * item == 0 || rows == 0 {
        return dw.fill(0.0);
    }
    let sets = (plan.positions() / SET).min(chunks).min(TASKS).min(SUMS / (4 * items * item)).max(1);
    let of_part = items.div_ceil(TASKS.div_ceil(sets).min(items));
    let parts = items.div_ceil(of_part);
    let mut sums = Buffer::arbitrary(sets * parts * of_part * item);
    sums.as_mut_slice().par_chunks_mut(of_part * item).enumerate().for_each(|(task, sums)| {
        let (set, part) = (task / parts, task % parts);
        let own = chunks * set / sets..chunks * (set + 1) / sets;
        let (mut segments, mut slices) = (Vec::new(), Slices::default());
        for chunk in own.clone() {
            let rows = chunk * of_chunk..((chunk + 1) * of_chunk).min(rows);
            let pixels = rows.start * w.count..rows.end * w.count;
            if copied {
                slices.start(pixels.clone(), groups * blocks.len(), vectors * k.lanes);
            }
            let mut collected = usize::MAX;
            for (i, sum) in (part * of_part..items).zip(sums.chunks_exact_mut(item)) {
                let (tap, group, b) = (i / (groups * blocks.len()), i / blocks.len() % groups, i % blocks.len());
                if collected != tap {
                    collect(plan, taps[tap], side == TAPS, rows.clone(), &mut segments);
                    collected = tap;
                }
                let block = &blocks[b];
                let (dy, dy_pixel) = if copied {
                    let i = group * blocks.len() + b;
                    (slices.get(i, dy, plan.out_pitch, group * channels, block), vectors * k.lanes)
                } else {
                    (&dy[pixels.start * plan.out_pitch + group * channels + block.first..], plan.out_pitch)
                };
                let kernels = if side == TAPS { k.correlate_sliding } else { k.correlate[block.vectors - 1] };
                let tiles = run.div_ceil(kernels.len());
                for tile in 0..tiles {
                    let of_tile = run * tile / tiles..run * (tile + 1) / tiles;
                    let a = Correlate {
                        segments: &segments,
                        x: x.as_ptr().wrapping_add(group * run + of_tile.start),
                        dy: dy.as_ptr(),
                        x_pixel: plan.pitch,
                        x_step: w.step * plan.pitch,
                        dy_pixel,
                        pad: taps[tap][2].delta.unsigned_abs(),
                        dy_count: w.count,
                        out: sum[of_tile.start * side * block.vectors * k.lanes..].as_mut_ptr(),
                        fresh: chunk == own.start,
                        last: block.last,
                    };
                    // SAFETY: `collect` keeps to positions whose tap is inside of `x`, where `run` numbers follow, and
                    // numbers them from the first of `dy`; the item has `run` rows. `k` belongs to this machine.
                    unsafe { kernels[of_tile.len() - 1](&a) }
                }
            }
        }
    });

    let (sums, set) = (sums.as_slice(), parts * of_part * item);
    let filter = taps.len() * side * run;
    let add_up = |dw: &mut [f32], group: usize, b: usize| {
        let (block, mut sum) = (&blocks[b], Vec::new());
        let width = block.vectors * k.lanes;
        for tap in 0..taps.len() {
            let from = ((tap * groups + group) * blocks.len() + b) * item;
            for first in (0..run).step_by(LINE) {
                let rows = LINE.min(run - first);
                let (from, len) = (from + first * side * width, rows * side * width);
                sum.clear();
                sum.extend_from_slice(&sums[from..][..len]);
                for other in (1..sets).map(|s| &sums[s * set + from..]) {
                    sum.iter_mut().zip(other).for_each(|(sum, v)| *sum += v);
                }
                for d in 0..side {
                    let to = &mut dw[(tap * side + d) * run + first..];
                    transpose(&sum[d * width..], side * width, to, filter, rows, block.len);
                }
            }
        }
    };
    dw.par_chunks_mut(channels * filter).enumerate().for_each(|(group, dw)| {
        let of_blocks = dw.par_chunks_mut(vectors * k.lanes * filter).enumerate();
        of_blocks.for_each(|(b, dw)| add_up(dw, group, b));
    });
}

/// Numbers in a cache line.
const LINE: usize = 16;

/// The gradients of a chunk, one block of channels after the other: where a pixel's channels are many, those of one block
/// are far from the next pixel's, and would meet in the same few places of the cache.
#[derive(Default)]
struct Slices {
    data: Vec<f32>,
    pixels: Range<usize>,
    width: usize,
    done: Vec<bool>,
}

impl Slices {
    /// Makes room for `slices` slices of `width` numbers a pixel.
    fn start(&mut self, pixels: Range<usize>, slices: usize, width: usize) {
        (self.pixels, self.width) = (pixels, width);
        self.data.resize(slices * self.pixels.len() * width, 0.0);
        self.done.clear();
        self.done.resize(slices, false);
    }

    /// Slice `i`, which is `block`, counted from channel `first` of pixels `pitch` numbers apart; made when first asked for.
    fn get(&mut self, i: usize, dy: &[f32], pitch: usize, first: usize, block: &Block) -> &[f32] {
        let slice = &mut self.data[i * self.pixels.len() * self.width..][..self.pixels.len() * self.width];
        if !std::mem::replace(&mut self.done[i], true) {
            for (pixel, to) in self.pixels.clone().zip(slice.chunks_exact_mut(self.width)) {
                let from = &dy[pixel * pitch + first + block.first..];
                for (to, from) in to.chunks_mut(LINE).zip(from[..block.len].chunks(LINE)) {
                    match (from.first_chunk::<LINE>(), to.first_chunk_mut::<LINE>()) {
                        (Some(from), Some(to)) => *to = *from,
                        _ => to[..from.len()].copy_from_slice(from),
                    }
                }
            }
        }
        slice
    }
}

/// The pixels of some rows of positions at which `tap` is inside, as stretches that lie evenly spaced in both arrays; for
/// a sliding kernel whole rows of both, paired. Gradients are numbered from the first row's first pixel.
fn collect(plan: &Plan, tap: [&AxisTap; 3], sliding: bool, rows: Range<usize>, segments: &mut Vec<Segment>) {
    let [t, h, w] = &plan.axes;
    segments.clear();
    let inside = tap[2].inside.clone();
    for row in rows.clone() {
        let (n, qt, qh) = (row / (t.count * h.count), row / h.count % t.count, row % h.count);
        if !tap[0].inside.contains(&qt) || !tap[1].inside.contains(&qh) {
            continue;
        }
        let dy = (row - rows.start) * w.count;
        // The pixel at which the tap reads for position `q` of this row.
        let x = |q: usize| plan.input(n, [qt, qh, q]).wrapping_add_signed(plan.offset(tap)) / plan.pitch;
        if sliding {
            // Position `pad` is the first whose first tap is inside, and reads the row's first pixel.
            let pad = tap[2].delta.unsigned_abs();
            segments.push(Segment { x: x(pad), dy, count: w.extent });
        } else if !inside.is_empty() {
            let (x, dy) = (x(inside.start), dy + inside.start);
            match segments.last_mut() {
                Some(s) if s.x + s.count * w.step == x && s.dy + s.count == dy => s.count += inside.len(),
                _ => segments.push(Segment { x, dy, count: inside.len() }),
            }
        }
    }
}
