//! wgrad: products of transformed inputs with transformed gradients, summed over tiles.
//!
//! Each task computes the sums of one set of strips for some of the filters, `product tap filter channel`. The sums of the sets are
//! added in order as they are transformed back.

use super::super::kernel::{Correlate, Segment, Side, VECTORS};
use super::super::kernels;
use super::super::panels::{Out, blocks};
use super::transform::{self, PRODUCTS};
use super::{APART, Problem, Strip, TILE};
use crate::cpu::traffic::{self, Temporary, Work};
use crate::cpu::{Isa, simd};
use crate::error::Result;
use crate::tensor::Buffer;
use rayon::prelude::*;

/// Target number of tasks.
const TASKS: usize = 8;

/// Maximum numbers of the sums of all sets.
const SUMS: usize = 1 << 22;

/// Fewest filters of a task: each task transforms the inputs once more.
const FILTERS: usize = 32;

/// `dw [k taps 3 3 c]` of `x` and `dy`.
pub(super) fn run(isa: Isa, p: &Problem, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    let strips = p.strips();
    let len = PRODUCTS * p.taps * p.k * p.c;
    // The number of sets decides the order of the sums, so it must depend on the shape alone.
    let sets = strips.len().min(TASKS).min(SUMS / len).max(1);
    let parts = TASKS.div_ceil(sets).min(p.k / FILTERS).max(1);
    let mut sums = Buffer::arbitrary(sets * len)?;
    // They are read for each strip of a set, but for the first, and at the end.
    traffic::temporary(Temporary::Sums, 4 * len * strips.len(), 4 * len * strips.len());
    traffic::more(|| Work::moves(parts * size_of_val(x) + size_of_val(dy), 0, sets * parts));
    traffic::cached(
        strips.iter().map(|s| 4 * PRODUCTS * (parts * s.pitch(p) + s.frames.len() * s.tiles(p) * p.k)).sum(),
    );
    let to = Out::new(sums.as_mut_slice());
    (0..sets * parts).into_par_iter().with_max_len(1).for_each(|task| {
        let (set, part) = (task / parts, task % parts);
        let strips = &strips[strips.len() * set / sets..strips.len() * (set + 1) / sets];
        let filters = p.k * part / parts..p.k * (part + 1) / parts;
        Task { isa, p, x, dy, filters: [filters.start, filters.end] }.run(strips, to.at(set * len));
    });
    let sums = sums.as_slice();
    let step = p.c;
    dw.par_chunks_mut(9 * p.c).enumerate().for_each(|(i, dw)| {
        let (filter, tap) = (i / p.taps, i % p.taps);
        let from = sums[(tap * p.k + filter) * p.c..].as_ptr();
        let pitch = p.taps * p.k * p.c;
        // SAFETY of the kernel: each set has `c` numbers of each product of this tap and filter, and `dw` of each of nine taps.
        simd::run(
            isa,
            transform::FilterGradients { from, pitch, arrays: sets, apart: len, to: dw.as_mut_ptr(), step, len: p.c },
        );
    });
    Ok(())
}

struct Task<'a> {
    isa: Isa,
    p: &'a Problem,
    x: &'a [f32],
    dy: &'a [f32],
    /// The first filter and the one after the last.
    filters: [usize; 2],
}

impl Task<'_> {
    /// The sums over some strips, written to `to`, where those of all filters have their places.
    fn run(&self, strips: &[Strip], to: *mut f32) {
        let Task { isa, p, filters: [first, end], .. } = *self;
        let (k, filters) = (kernels(isa).0, end - first);
        let most = |f: &dyn Fn(&Strip) -> usize| strips.iter().map(f).max().unwrap_or(0);
        let mut inputs = Buffer::<f32>::workspace(most(&|s| PRODUCTS * s.pitch(p)));
        let mut gradients = Buffer::<f32>::workspace(most(&|s| PRODUCTS * self.pitch(s)));
        let blocks = blocks(k, p.c, VECTORS);
        let cuts = filters.div_ceil(k.rows);
        let mut segments = Vec::new();
        for (i, strip) in strips.iter().enumerate() {
            let tiles = strip.tiles(p);
            strip.transform_inputs(isa, p, self.x, inputs.as_mut_slice());
            self.transform_gradients(strip, gradients.as_mut_slice());
            let (gradients, inputs) = (gradients.as_slice().as_ptr(), inputs.as_slice().as_ptr());
            for product in 0..PRODUCTS {
                let gradients = gradients.wrapping_add(product * self.pitch(strip));
                let inputs = inputs.wrapping_add(product * strip.pitch(p));
                for tap in 0..p.taps {
                    segments.clear();
                    for (f, t) in strip.frames.clone().enumerate() {
                        let read = p.frames[t].iter().find(|(of, _)| *of == tap);
                        segments.extend(read.map(|(_, from)| Segment {
                            a: f * tiles,
                            b: (from - strip.reads.start) * tiles,
                            count: tiles,
                        }));
                    }
                    for block in &blocks {
                        for cut in 0..cuts {
                            let of = filters * cut / cuts..filters * (cut + 1) / cuts;
                            let at = ((product * p.taps + tap) * p.k + first + of.start) * p.c + block.first;
                            let to = to.wrapping_add(at);
                            let a = Correlate {
                                segments: &segments,
                                a: Side { at: gradients.wrapping_add(of.start), pixel: filters, step: filters },
                                b: Side { at: inputs.wrapping_add(block.first), pixel: p.c, step: p.c },
                                from: if i == 0 { std::ptr::null() } else { to },
                                from_step: p.c,
                                to,
                                to_step: p.c,
                                last: block.last,
                            };
                            // SAFETY: both arrays have the strip's tiles of each product and frame, and `to` has the sums
                            // of these filters and channels, which are this task's. `k` belongs to this machine.
                            unsafe { k.correlate[block.vectors - 1][of.len() - 1](&a) }
                        }
                    }
                }
            }
        }
    }

    /// Numbers between the products of the transformed gradients.
    fn pitch(&self, strip: &Strip) -> usize {
        strip.frames.len() * strip.tiles(self.p) * (self.filters[1] - self.filters[0]) + APART
    }

    /// `A dy Aᵀ` of the strip's tiles, of these filters: `product frame tile filter`.
    fn transform_gradients(&self, strip: &Strip, to: &mut [f32]) {
        let Task { isa, p, dy, filters: [first, end], .. } = *self;
        let [row, frame, sample] = Problem::steps(p.output, p.k);
        let (columns, tiles, len) = (p.tiles()[1], strip.tiles(p), end - first);
        assert!(to.len() >= PRODUCTS * self.pitch(strip));
        for (f, t) in strip.frames.clone().enumerate() {
            for (r, tile_row) in strip.rows.clone().enumerate() {
                let rows = [0, 1].map(|i| {
                    let y = TILE * tile_row + i;
                    let at = strip.n * sample + t * frame + y * row;
                    if y < p.output[1] { dy[at..at + row][first..].as_ptr() } else { std::ptr::null() }
                });
                let to = to[(f * tiles + r * columns) * len..].as_mut_ptr();
                // SAFETY of the kernel: the rows are inside of `dy` with all pixels, and `to` has space for the products of all
                // tiles of the strip, as was asserted.
                simd::run(
                    isa,
                    transform::Gradients {
                        rows,
                        step: p.k,
                        pixels: p.output[2],
                        tiles: columns,
                        len,
                        to,
                        pitch: self.pitch(strip),
                    },
                );
            }
        }
    }
}
