//! The same products as [`super::gather`], for nests whose taps along a row are three neighbours one input apart.

use super::super::epilogue::Finish;
use super::super::loop_nest::{LoopNest, TAPS};
use super::kernel::{Kernels, Slide, Tap};
use super::operand::Number;
use super::panels::{Out, Panels};

/// Computes every position of `nest`, which slides, and writes it to `out`.
pub(super) fn run<N: Number, T: Number>(
    k: &Kernels<N>,
    nest: &LoopNest,
    panels: &Panels<N>,
    input: &[N],
    out: &mut [T],
    finish: &mut Finish<T>,
) {
    let [t, h, w] = &nest.axes;
    let zeros = vec![N::zeroed(); nest.run];
    // The first tap of each group of three.
    let threes: Vec<_> = nest.taps().step_by(TAPS).collect();
    let offsets: Vec<isize> = threes.iter().map(|&tap| nest.offset(tap)).collect();
    let tasks = panels.tasks(nest.n * t.count * h.count, w.count, size_of_val(input));
    let out = Out::new(out);
    let strips = finish.begin(tasks.ranges(), out.at(0));
    tasks.run(panels, |rows, group, blocks| {
        let (range, channels) = (tasks.range(&rows), panels.span(group, &blocks));
        let positions = rows.start * w.count..rows.end * w.count;
        let mut taps = Vec::with_capacity(threes.len());
        let mut call = |row: usize, b: usize| {
            let (n, qt, qh) = (row / (t.count * h.count), row / h.count % t.count, row % h.count);
            taps.clear();
            for (index, ([a, b, _], &offset)) in threes.iter().zip(&offsets).enumerate() {
                if a.inside.contains(&qt) && b.inside.contains(&qh) {
                    taps.push(Tap { rows: 0, offset, index });
                }
            }
            let block = &panels.blocks[b];
            let kernels = k.slide[block.vectors - 1];
            let tiles = w.count.div_ceil(kernels.len());
            for tile in 0..tiles {
                let (from, to) = (w.count * tile / tiles, w.count * (tile + 1) / tiles);
                // The tile reads inputs `first..first + to - from + 2` of the row.
                let first = from as isize + w.taps[0].delta;
                let within = |i: isize| (i - first).clamp(0, (to - from + TAPS - 1) as isize) as usize;
                let a = Slide {
                    taps: &taps,
                    x: input.as_ptr().wrapping_add(nest.input(n, [qt, qh, from]) + group * nest.run),
                    step: nest.pitch,
                    inside: within(0)..within(w.extent as isize),
                    zeros: zeros.as_ptr(),
                    run: nest.run,
                    panel: panels.panel(group, b),
                    out: T::place(out.at(nest.output(n, [qt, qh, from]) + group * panels.channels + block.first)),
                    out_step: w.out_step * nest.out_pitch,
                    last: block.last,
                };
                // SAFETY: `taps` are inside along t and h, `inside` says which inputs are inside along w; no other call
                // writes these positions and channels. `k` belongs to this machine.
                unsafe { kernels[to - from - 1](&a) }
            }
        };
        if tasks.small {
            rows.for_each(|row| blocks.clone().for_each(|b| call(row, b)));
        } else {
            blocks.for_each(|b| rows.clone().for_each(|row| call(row, b)));
        }
        // SAFETY: these positions and channels are this task's, and have been written.
        unsafe { strips.finish(nest, range, positions, channels) };
    });
    finish.end(strips);
}
