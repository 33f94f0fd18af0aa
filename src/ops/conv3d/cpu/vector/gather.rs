//! Products of filters with the inputs that each position gathers: fprop, and dgrad for each residue class.

use super::super::epilogue::Finish;
use super::super::loop_nest::LoopNest;
use super::kernel::{Gather, Kernels, Tap};
use super::operand::{Number, Place};
use super::panels::{Out, Panels};
use std::ops::Range;

/// The kernel calls for some positions, except for the filters.
struct Tiles<N> {
    taps: Vec<Tap>,
    rows: Vec<*const N>,
    out: Vec<Place>,
    /// Ranges of the taps, and the positions, of each tile.
    tiles: Vec<(Range<usize>, Range<usize>)>,
}

impl<N: Number> Tiles<N> {
    /// `zeros` is what a tap outside the input reads.
    fn new<T: Number>(
        k: &Kernels<N>,
        nest: &LoopNest,
        input: &[N],
        zeros: &[N],
        out: Out<T>,
        positions: Range<usize>,
    ) -> Self {
        let [qt, qh, qw] = [0, 1, 2].map(|a| nest.axes[a].count);
        let offsets: Vec<isize> = nest.taps().map(|t| nest.offset(t)).collect();
        let mut all = Tiles { taps: Vec::new(), rows: Vec::new(), out: Vec::new(), tiles: Vec::new() };
        // For each axis and tap, a bit mask of the tile's positions that are inside.
        let mut inside = [0, 1, 2].map(|a| vec![0u32; nest.axes[a].taps.len()]);
        for first in positions.clone().step_by(k.rows) {
            let (len, rows, taps) = (k.rows.min(positions.end - first), all.rows.len(), all.taps.len());
            inside.iter_mut().for_each(|m| m.fill(0));
            let mut at = 0;
            while at < len {
                // Positions of the tile in the same row share all but the last coordinate.
                let p = first + at;
                let (n, t, h, w) = (p / (qt * qh * qw), p / (qh * qw) % qt, p / qw % qh, p % qw);
                let here = (len - at).min(qw - w);
                let mask = (u32::MAX >> (32 - here)) << at;
                for (axis, q) in [(0, t), (1, h)] {
                    for (m, tap) in inside[axis].iter_mut().zip(&nest.axes[axis].taps) {
                        *m |= if tap.inside.contains(&q) { mask } else { 0 };
                    }
                }
                for (m, tap) in inside[2].iter_mut().zip(&nest.axes[2].taps) {
                    let from = tap.inside.start.clamp(w, w + here) - w;
                    let to = tap.inside.end.clamp(w, w + here) - w;
                    *m |= (((1u64 << to) - (1u64 << from)) << at) as u32;
                }
                let (input_at, out_at) = (nest.input(n, [t, h, w]), nest.output(n, [t, h, w]));
                let (step, out_step) = (nest.axes[2].step * nest.pitch, nest.axes[2].out_step * nest.out_pitch);
                for i in 0..here {
                    all.rows.push(input.as_ptr().wrapping_add(input_at + i * step));
                    all.out.push(T::place(out.at(out_at + i * out_step)));
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

/// Computes every position of `nest` and writes it to `out`.
pub(super) fn run<N: Number, T: Number>(
    k: &Kernels<N>,
    nest: &LoopNest,
    panels: &Panels<N>,
    input: &[N],
    out: &mut [T],
    finish: &mut Finish<T>,
) {
    let positions = nest.positions();
    let zeros = vec![N::zeroed(); nest.pitch.max(nest.run)];
    let tasks = panels.tasks(positions.div_ceil(k.rows), k.rows, size_of_val(input));
    let out = Out::new(out);
    let strips = finish.begin(tasks.ranges(), out.at(0));
    tasks.run(panels, |tiles, group, blocks| {
        let (range, channels) = (tasks.range(&tiles), panels.span(group, &blocks));
        let positions = tiles.start * k.rows..(tiles.end * k.rows).min(positions);
        let all = Tiles::new(k, nest, input, &zeros, out, positions.clone());
        let call = |b: usize, (taps, rows): &(Range<usize>, Range<usize>)| {
            let block = &panels.blocks[b];
            let a = Gather {
                taps: &all.taps[taps.clone()],
                rows: &all.rows,
                first: group * nest.run,
                run: nest.run,
                panel: panels.panel(group, b),
                out: &all.out[rows.clone()],
                channel: group * panels.channels + block.first,
                last: block.last,
            };
            // SAFETY: `Tiles` gives every tap a row inside the input, or zeros, and every position an output inside of
            // `out` that no other tile has; blocks are disjoint channels. `k` belongs to this machine.
            unsafe { k.gather[block.vectors - 1][rows.len() - 1](&a) }
        };
        if tasks.small {
            all.tiles.iter().for_each(|t| blocks.clone().for_each(|b| call(b, t)));
        } else {
            blocks.for_each(|b| all.tiles.iter().for_each(|t| call(b, t)));
        }
        // SAFETY: these positions and channels are this task's, and have been written.
        unsafe { strips.finish(nest, range, positions, channels) };
    });
    finish.end(strips);
}
