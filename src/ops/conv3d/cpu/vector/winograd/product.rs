//! fprop and dgrad: the products of the tiles of a strip with the filters, and the results made of them.

use super::super::super::super::Conv3d;
use super::super::super::epilogue::Finish;
use super::super::super::loop_nest::Rows;
use super::super::kernel::{Gather, Tap, VECTORS};
use super::super::kernels;
use super::super::operand::Place;
use super::super::panels::{Block, Out, blocks};
use super::super::transpose::transpose;
use super::transform::{self, PRODUCTS};
use super::{APART, Problem, Strip, TILE};
use crate::cpu::traffic::{self, Temporary, Work};
use crate::cpu::{Isa, simd};
use crate::error::Result;
use crate::tensor::Buffer;
use rayon::prelude::*;
use std::ops::Range;

/// Transformed filters as the kernels read them: `block product tap run channel`, the channels of a block padded to whole vectors.
pub(super) struct Filters {
    data: Buffer<f32>,
    blocks: Vec<Block>,
    /// Numbers of one product of a block.
    len: usize,
}

/// Channels that are transformed together before they are transposed.
const CHANNELS: usize = 64;

impl Filters {
    /// For fprop: sums over input channels, results of output channels.
    pub fn of_results(isa: Isa, p: &Conv3d, w: &[f32]) -> Result<Filters> {
        Self::new(isa, p.kernel[0], p.c, p.k, |block, panel, len| {
            let width = block.vectors * kernels(isa).0.lanes;
            let mut space = Buffer::<f32>::workspace(PRODUCTS * (block.len * CHANNELS + APART));
            let space = space.as_mut_slice();
            for tap in 0..p.kernel[0] {
                for first in (0..p.c).step_by(CHANNELS) {
                    let count = CHANNELS.min(p.c - first);
                    for k in 0..block.len {
                        let w = &w[(((block.first + k) * p.kernel[0] + tap) * 9) * p.c..][..9 * p.c];
                        let to = &mut space[k * CHANNELS..];
                        let from = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|i| w[i * p.c + first..][..count].as_ptr());
                        let (to, pitch) = (to.as_mut_ptr(), block.len * CHANNELS + APART);
                        // SAFETY of the kernel: each tap has `count` numbers, and `space` has as many for each product.
                        simd::run(isa, transform::Filters { from, to, pitch, len: count });
                    }
                    for product in 0..PRODUCTS {
                        let from = &space[product * (block.len * CHANNELS + APART)..];
                        let to = &mut panel[product * len + (tap * p.c + first) * width..];
                        transpose(from, CHANNELS, to, width, block.len, count);
                    }
                }
            }
        })
    }

    /// For dgrad: sums over output channels, results of input channels, and taps in space in the opposite order.
    pub fn of_inputs(isa: Isa, p: &Conv3d, w: &[f32]) -> Result<Filters> {
        Self::new(isa, p.kernel[0], p.k, p.c, |block, panel, len| {
            let width = block.vectors * kernels(isa).0.lanes;
            for k in 0..p.k {
                for tap in 0..p.kernel[0] {
                    let w = &w[((k * p.kernel[0] + tap) * 9) * p.c..][..9 * p.c];
                    let from = [8, 7, 6, 5, 4, 3, 2, 1, 0].map(|i| w[i * p.c + block.first..][..block.len].as_ptr());
                    let to = &mut panel[(tap * p.k + k) * width..];
                    assert!(to.len() >= (PRODUCTS - 1) * len + block.len);
                    // SAFETY of the kernel: each tap has the block's channels, and so has each product's panel.
                    simd::run(isa, transform::Filters { from, to: to.as_mut_ptr(), pitch: len, len: block.len });
                }
            }
        })
    }

    /// `fill(block, panel, len)` writes the products of a block, `len` numbers each, of which the channels that do not exist are 0.
    fn new(
        isa: Isa,
        taps: usize,
        run: usize,
        channels: usize,
        fill: impl Fn(&Block, &mut [f32], usize) + Sync,
    ) -> Result<Filters> {
        let k = kernels(isa).0;
        let blocks = blocks(k, channels, VECTORS);
        let len = taps * run * VECTORS * k.lanes + APART;
        let mut data = Buffer::arbitrary(blocks.len() * PRODUCTS * len)?;
        let bytes = size_of_val(data.as_slice());
        traffic::temporary(Temporary::Filters, bytes, bytes);
        data.as_mut_slice().par_chunks_mut(PRODUCTS * len).zip(&blocks).for_each(|(panel, block)| {
            let width = block.vectors * k.lanes;
            if block.len < width {
                panel.fill(0.0);
            }
            fill(block, panel, len);
        });
        Ok(Filters { data, blocks, len })
    }

    fn panel(&self, block: usize, product: usize) -> *const f32 {
        self.data.as_slice()[(block * PRODUCTS + product) * self.len..][..self.len].as_ptr()
    }
}

/// Tasks that a convolution is divided into, where it can be.
const TASKS: usize = 16;

/// Numbers of a block's filters that stay in a core's second-level cache beside the tiles: with more, all frames of a strip go
/// through one product's filters before the next one's.
const CACHED: usize = 1 << 17;

/// Computes `out` of `x`.
pub(super) fn run(isa: Isa, p: &Problem, filters: &Filters, x: &[f32], out: &mut [f32], finish: &mut Finish<f32>) {
    let strips = p.strips();
    // Each part of the blocks transforms the inputs once more.
    let parts = TASKS.div_ceil(strips.len().max(1)).min(filters.blocks.len());
    assert!(out.len() == p.n * p.output.iter().product::<usize>() * p.k, "the result has these extents");
    traffic::more(|| Work::moves(parts * size_of_val(x), 0, strips.len() * parts));
    traffic::cached(strips.iter().map(|strip| 4 * PRODUCTS * (parts * strip.pitch(p) + strip.tiles(p) * p.k)).sum());
    let samples = finish.part();
    let out = Out::new(out);
    let sums = finish.begin(strips.len(), out.at(0));
    (0..strips.len() * parts).into_par_iter().with_max_len(1).for_each(|task| {
        let (index, part) = (task / parts, task % parts);
        let (strip, all) = (&strips[index], filters.blocks.len());
        let blocks = all * part / parts..all * (part + 1) / parts;
        Task { isa, p, filters, strip }.run(x, out, blocks.clone());
        if let (Some(of), Some(first), Some(last)) =
            (strip.n.checked_div(samples), filters.blocks.get(blocks.start), filters.blocks[..blocks.end].last())
        {
            // SAFETY: these rows and channels are this task's, and have been written.
            unsafe { sums.strip(index, of, strip.written(p), first.first..last.first + last.len) };
        }
    });
    finish.end(sums);
}

impl Strip {
    /// The results it writes.
    fn written<'a>(&'a self, p: &'a Problem) -> impl Iterator<Item = Rows> + 'a {
        let [row, frame, sample] = Problem::steps(p.output, p.k);
        let (from, to) = (TILE * self.rows.start, (TILE * self.rows.end).min(p.output[1]));
        self.frames.clone().map(move |t| Rows {
            first: self.n * sample + t * frame + from * row,
            count: (to - from) * p.output[2],
            step: p.k,
        })
    }
}

struct Task<'a> {
    isa: Isa,
    p: &'a Problem,
    filters: &'a Filters,
    strip: &'a Strip,
}

impl Task<'_> {
    /// The results of some blocks of channels.
    fn run(&self, x: &[f32], out: Out<f32>, blocks: Range<usize>) {
        let Task { isa, p, filters, strip } = *self;
        let k = kernels(isa).0;
        let (tiles, width) = (strip.tiles(p), VECTORS * k.lanes);
        let together = if PRODUCTS * filters.len <= CACHED { 1 } else { strip.frames.len() };
        let mut inputs = Buffer::<f32>::workspace(PRODUCTS * strip.pitch(p));
        let mut products = Buffer::<f32>::workspace(together * tiles * (PRODUCTS * width + APART));
        strip.transform_inputs(isa, p, x, inputs.as_mut_slice());
        // Of product 0 of the first frame.
        let rows: Vec<*const f32> = (0..tiles).map(|i| inputs.as_slice()[i * p.c..].as_ptr()).collect();
        let cuts = tiles.div_ceil(k.rows);
        let mut taps = Vec::with_capacity(p.taps);
        for index in blocks {
            let block = &filters.blocks[index];
            let channels = block.vectors * k.lanes;
            let tile = PRODUCTS * channels + APART;
            for first in strip.frames.clone().step_by(together) {
                let frames = first..(first + together).min(strip.frames.end);
                let to = products.as_mut_slice();
                let to: Vec<Place> =
                    (0..frames.len() * tiles).map(|i| Place::F32(to[i * tile..][..tile].as_mut_ptr())).collect();
                for product in 0..PRODUCTS {
                    for (f, t) in frames.clone().enumerate() {
                        taps.clear();
                        for &(tap, from) in &p.frames[t] {
                            let offset = (from - strip.reads.start) * tiles * p.c;
                            taps.push(Tap { rows: 0, offset: offset as isize, index: tap });
                        }
                        for cut in 0..cuts {
                            let of = tiles * cut / cuts..tiles * (cut + 1) / cuts;
                            let a = Gather {
                                taps: &taps,
                                rows: &rows[of.clone()],
                                first: product * strip.pitch(p),
                                run: p.c,
                                panel: filters.panel(index, product),
                                out: &to[f * tiles..][of.clone()],
                                channel: product * channels,
                                last: k.lanes,
                            };
                            // SAFETY: the tiles of each frame that is read have `c` numbers of each product, `to` has the
                            // block's channels for each, and the panel has all taps. `k` belongs to this machine.
                            unsafe { k.gather[block.vectors - 1][of.len() - 1](&a) }
                        }
                    }
                }
                for (f, t) in frames.enumerate() {
                    self.write(block, &products.as_slice()[f * tiles * tile..], channels, t, out);
                }
            }
        }
    }

    /// Writes one frame's results of a block of channels, from the products `tile product channel`.
    fn write(&self, block: &Block, products: &[f32], channels: usize, t: usize, out: Out<f32>) {
        let Task { isa, p, strip, .. } = *self;
        let [row, frame, sample] = Problem::steps(p.output, p.k);
        let columns = p.tiles()[1];
        for (r, tile_row) in strip.rows.clone().enumerate() {
            let tile = PRODUCTS * channels + APART;
            let from = &products[r * columns * tile..][..columns * tile];
            let rows = [0, 1].map(|i| {
                let y = TILE * tile_row + i;
                let at = strip.n * sample + t * frame + y * row + block.first;
                if y < p.output[1] { out.at(at) } else { std::ptr::null_mut() }
            });
            // SAFETY of the kernel: the rows are inside of the result, and these channels of them are this task's.
            simd::run(
                isa,
                transform::Outputs {
                    from: from.as_ptr(),
                    channels,
                    tile,
                    rows,
                    step: p.k,
                    pixels: p.output[2],
                    tiles: columns,
                    len: block.len,
                },
            );
        }
    }
}
