//! Products of the input with the gradient of the output, summed over positions: wgrad.

use super::kernel::{Correlate, Kernels, Segment, TAPS, VECTORS};
use super::plan::{AxisTap, Plan, blocks};
use crate::tensor::Buffer;
use rayon::prelude::*;

/// Bytes of both arrays that stay in a core's cache while all taps pass over them.
const CACHED: usize = 3 << 18;

/// Bytes all partial sums together may take.
const PARTIAL: usize = 1 << 25;

/// Tasks to aim at.
const TASKS: usize = 16;

/// `dw` (`group channel tap run`) for `channels` outputs per group. Positions are cut into chunks, chunks into sets each
/// with its own partial sum: how many depends on the extents alone, and the sets are added in order.
pub(super) fn run(k: &Kernels, plan: &Plan, x: &[f32], dy: &[f32], groups: usize, channels: usize, dw: &mut [f32]) {
    // A sliding kernel takes three taps, `side` by side, at once; the first stands for them.
    let (side, vectors) = if plan.slides() { (TAPS, 1) } else { (1, VECTORS) };
    let taps: Vec<[&AxisTap; 3]> = plan.taps().step_by(side).collect();
    let (blocks, run) = (blocks(k, channels, vectors), plan.run);
    let [_, _, w] = &plan.axes;
    let rows = plan.positions() / w.count.max(1);
    let row_bytes = 4 * (w.extent * plan.pitch + w.count * plan.out_pitch);
    let of_chunk = (CACHED / row_bytes.max(1)).max(1);
    let chunks = rows.div_ceil(of_chunk);

    // An item is one tap, or three, of one group and block: `run` rows of whole vectors of each.
    let item = run * side * vectors * k.lanes;
    let items = taps.len() * groups * blocks.len();
    if items * item == 0 || rows == 0 {
        return dw.fill(0.0);
    }
    let sets = chunks.min(TASKS).min(PARTIAL / (4 * items * item)).max(1);
    let of_part = items.div_ceil(TASKS.div_ceil(sets).min(items));
    let parts = items.div_ceil(of_part);
    let mut sums = Buffer::arbitrary(sets * parts * of_part * item);
    sums.as_mut_slice().par_chunks_mut(of_part * item).enumerate().for_each(|(task, sums)| {
        let (set, part) = (task / parts, task % parts);
        sums.fill(0.0);
        let mut segments = Vec::new();
        for chunk in chunks * set / sets..chunks * (set + 1) / sets {
            let rows = chunk * of_chunk..((chunk + 1) * of_chunk).min(rows);
            let mut collected = usize::MAX;
            for (i, sum) in (part * of_part..items).zip(sums.chunks_exact_mut(item)) {
                let (tap, group, block) =
                    (i / (groups * blocks.len()), i / blocks.len() % groups, &blocks[i % blocks.len()]);
                if collected != tap {
                    collect(plan, taps[tap], side == TAPS, rows.clone(), &mut segments);
                    collected = tap;
                }
                let dy_first = group * channels + block.first;
                let kernels = if side == TAPS { k.correlate_sliding } else { k.correlate[block.vectors - 1] };
                let tiles = run.div_ceil(kernels.len());
                for tile in 0..tiles {
                    let of_tile = run * tile / tiles..run * (tile + 1) / tiles;
                    let a = Correlate {
                        segments: &segments,
                        x: x.as_ptr().wrapping_add(group * run + of_tile.start),
                        dy: dy.as_ptr().wrapping_add(dy_first),
                        x_step: w.step * plan.pitch,
                        dy_step: plan.out_pitch,
                        pad: taps[tap][2].delta.unsigned_abs(),
                        dy_count: w.count,
                        out: sum[of_tile.start * side * block.vectors * k.lanes..].as_mut_ptr(),
                        last: block.last,
                    };
                    // SAFETY: `collect` keeps to positions whose tap is inside of `x`, where `run` numbers follow; `dy`
                    // has `channels` numbers per group at each; the item has `run` rows. `k` belongs to this machine.
                    unsafe { kernels[of_tile.len() - 1](&a) }
                }
            }
        }
    });

    let (sums, set) = (sums.as_slice(), parts * of_part * item);
    let filter = taps.len() * side * run;
    dw.par_chunks_mut(channels * filter).enumerate().for_each(|(group, dw)| {
        dw.par_chunks_mut(vectors * k.lanes * filter).zip(blocks.par_iter()).enumerate().for_each(
            |(b, (dw, block))| {
                let width = block.vectors * k.lanes;
                for tap in 0..taps.len() * side {
                    let from = ((tap / side * groups + group) * blocks.len() + b) * item + tap % side * width;
                    for first in (0..run).step_by(16) {
                        for (channel, dw) in dw.chunks_exact_mut(filter).enumerate() {
                            for r in first..(first + 16).min(run) {
                                let at = from + r * side * width + channel;
                                dw[tap * run + r] = (0..sets).map(|s| sums[s * set + at]).sum();
                            }
                        }
                    }
                }
            },
        );
    });
}

/// The pixels of some rows of positions at which `tap` is inside, as stretches that lie evenly spaced in both arrays; for
/// a sliding kernel whole rows of both, paired.
fn collect(plan: &Plan, tap: [&AxisTap; 3], sliding: bool, rows: std::ops::Range<usize>, segments: &mut Vec<Segment>) {
    let [t, h, w] = &plan.axes;
    segments.clear();
    let inside = tap[2].inside.clone();
    for row in rows {
        let (n, qt, qh) = (row / (t.count * h.count), row / h.count % t.count, row % h.count);
        if !tap[0].inside.contains(&qt) || !tap[1].inside.contains(&qh) {
            continue;
        }
        if sliding {
            // The row of x starts where the first tap of position 0 would be without padding.
            let x =
                plan.input(n, [qt, qh, 0]).wrapping_add_signed(plan.offset(tap) - tap[2].delta * plan.pitch as isize);
            segments.push(Segment { x, dy: plan.output(n, [qt, qh, 0]), count: w.extent });
            continue;
        }
        if inside.is_empty() {
            return;
        }
        let x = plan.input(n, [qt, qh, inside.start]).wrapping_add_signed(plan.offset(tap));
        let dy = plan.output(n, [qt, qh, inside.start]);
        match segments.last_mut() {
            Some(s) if s.x + s.count * w.step * plan.pitch == x && s.dy + s.count * plan.out_pitch == dy => {
                s.count += inside.len();
            }
            _ => segments.push(Segment { x, dy, count: inside.len() }),
        }
    }
}
