//! f32 convolution with kernels of 3x3 in space, by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, *Fast Algorithms
//! for Convolutional Neural Networks*, CVPR 2016): 16 products instead of 36 for a tile of two by two results.
//!
//! `y = Aᵀ [Σ over channels and taps in time of (G g Gᵀ) ⊙ (Bᵀ d B)] A` for each tile, of which `d` is the square of four by
//! four inputs. The 16 products of a tile are entries of 16 matrix products, which [`super::kernel`] computes.
//! dgrad is the same with the filters turned round. wgrad is the adjoint in `g`: `Gᵀ [Σ over tiles of (A dy Aᵀ) ⊙ (Bᵀ d B)] G`.
//!
//! **Accuracy.** Each result is a sum of `16 c` products instead of `9 c`, and the transformed numbers are sums of up to four
//! inputs, so the bound of its error is relative to the magnitudes in the whole tile (`docs/cpu.md`). Numbers above a quarter of
//! the largest f32 may overflow, and an infinite input gives NaN in its tile.

mod correlate;
mod product;
#[cfg(test)]
mod tests;
mod transform;

use super::super::super::{Conv3d, Operator, Products};
use super::super::epilogue::Finish;
use crate::cpu::Isa;
use crate::error::Result;
use std::ops::Range;
use transform::PRODUCTS;

/// Whether a pass is computed so: where the window permits it and it is faster. Depends on the extents alone, and for fprop not on
/// the number of samples, so that the features of a clip do not depend on those beside it.
pub(super) fn applies(p: &Conv3d, pass: Operator) -> bool {
    let window = &p.geometry.window;
    let fits = |a: usize| p.kernel[a] == 3 && window.stride[a] == 1 && window.dilation[a] == 1 && window.pad[a] <= 2;
    p.geometry.products != Products::Fma
        && p.geometry.groups == 1
        && fits(1)
        && fits(2)
        && (pass != Operator::Dgrad || window.stride[0] == 1)
        && pays(p, pass)
}

/// Samples that the transform of the filters is spread over in the choice for fprop: the smallest batch that networks train with.
const CLIPS: usize = 2;

/// Whether the products that are saved cost more than the transforms, both in cycles of a core that multiplies 32 pairs of numbers in
/// each. The costs are of extents alone: on every processor a product is a multiply-add of vectors, and a transform is a few vectors
/// read, added and written.
fn pays(p: &Conv3d, pass: Operator) -> bool {
    let (n, results) = match pass {
        Operator::Fprop => (CLIPS, p.out),
        Operator::Dgrad => (p.n, p.input),
        Operator::Wgrad => (p.n, p.out),
    };
    let [t, h, w] = results.map(|extent| extent as f64);
    let tiles = (n * results[0] * results[1].div_ceil(TILE) * results[2].div_ceil(TILE)) as f64;
    // What vectors are of: results, but input channels in wgrad.
    let (lanes, others) = if pass == Operator::Fprop { (p.k, p.c) } else { (p.c, p.k) };
    let whole = lanes.next_multiple_of(16);
    let per_vectors = (p.kernel[0] * others) as f64 / 32.0;
    let direct = n as f64 * t * h * w * 9.0 * per_vectors * whole as f64;
    let (lanes, others) = (lanes as f64, others as f64);
    let (transforms, filters) = match pass {
        Operator::Fprop | Operator::Dgrad => (8.0 * others + 6.0 * lanes, 100.0),
        Operator::Wgrad => (20.0 * (lanes + others), 60.0),
    };
    // A tile's product of one vector takes as long as one of two.
    let products = PRODUCTS as f64 * per_vectors * whole.max(32) as f64;
    // The products are of short rows, and their results pass through the cache: a seventh slower.
    let by_tiles = tiles * (1.15 * products + transforms) + 2.0 * filters * products;
    by_tiles < 0.95 * direct
}

/// Numbers between arrays that are written side by side, in addition to their own: with extents that are powers of two they would
/// otherwise fall into the same lines of the first-level cache.
const APART: usize = 16;

/// Side of a tile of results.
const TILE: usize = 2;

/// Most tiles of a strip, and how many numbers of one of their products should stay in a core's second-level cache.
const TILES: usize = 128;
const CACHED: usize = 1 << 14;

/// What is read and written: `input [n t h w c]` and `output [n t h w k]`.
struct Problem {
    n: usize,
    input: [usize; 3],
    output: [usize; 3],
    c: usize,
    k: usize,
    /// Taps in time.
    taps: usize,
    /// Padding above and on the left.
    pad: [isize; 2],
    /// For each output frame its taps inside and the input frames that they read.
    frames: Vec<Vec<(usize, usize)>>,
}

impl Problem {
    fn fprop(p: &Conv3d) -> Problem {
        let window = &p.geometry.window;
        let frame = |t: usize, tap: usize| {
            (t * window.stride[0] + tap * window.dilation[0])
                .checked_sub(window.pad[0])
                .filter(|f| *f < p.input[0])
                .map(|f| (tap, f))
        };
        Problem {
            n: p.n,
            input: p.input,
            output: p.out,
            c: p.c,
            k: p.k,
            taps: p.kernel[0],
            pad: [1, 2].map(|a| window.pad[a] as isize),
            frames: (0..p.out[0]).map(|t| (0..p.kernel[0]).filter_map(|tap| frame(t, tap)).collect()).collect(),
        }
    }

    /// With stride 1 in time.
    fn dgrad(p: &Conv3d) -> Problem {
        let window = &p.geometry.window;
        let frame = |t: usize, tap: usize| {
            (t + window.pad[0]).checked_sub(tap * window.dilation[0]).filter(|f| *f < p.out[0]).map(|f| (tap, f))
        };
        Problem {
            n: p.n,
            input: p.out,
            output: p.input,
            c: p.k,
            k: p.c,
            taps: p.kernel[0],
            pad: [1, 2].map(|a| 2 - window.pad[a] as isize),
            frames: (0..p.input[0]).map(|t| (0..p.kernel[0]).filter_map(|tap| frame(t, tap)).collect()).collect(),
        }
    }

    /// Rows of tiles, and tiles per row.
    fn tiles(&self) -> [usize; 2] {
        [1, 2].map(|a| self.output[a].div_ceil(TILE))
    }

    /// The strips of all samples.
    fn strips(&self) -> Vec<Strip> {
        let [rows, columns] = self.tiles();
        // Taps in time read the same frames: with several of them a strip has all frames.
        let all = self.output[0];
        let tiles = (CACHED / self.c).clamp(TILES / 4, TILES);
        let frames_each = if self.taps > 1 { all } else { (tiles / (rows * columns)).clamp(1, all) };
        let rows_each = (tiles / (frames_each * columns)).clamp(1, rows);
        let mut strips = Vec::new();
        for n in 0..self.n {
            for t in (0..all).step_by(frames_each) {
                for row in (0..rows).step_by(rows_each) {
                    let (frames, rows) = (t..(t + frames_each).min(all), row..(row + rows_each).min(rows));
                    let read = self.frames[frames.clone()].iter().flatten().map(|(_, f)| *f);
                    let (first, last) = (read.clone().min().unwrap_or(0), read.max().map_or(0, |f| f + 1));
                    strips.push(Strip { n, frames, rows, reads: first.min(last)..last });
                }
            }
        }
        strips
    }

    /// Numbers between rows, frames and samples of an array of these extents and channels.
    fn steps(extents: [usize; 3], channels: usize) -> [usize; 3] {
        let row = extents[2] * channels;
        [row, extents[1] * row, extents[0] * extents[1] * row]
    }
}

/// Rows of tiles of some frames of one sample.
struct Strip {
    n: usize,
    frames: Range<usize>,
    rows: Range<usize>,
    /// Input frames that it reads.
    reads: Range<usize>,
}

impl Strip {
    /// Tiles in each frame.
    fn tiles(&self, p: &Problem) -> usize {
        self.rows.len() * p.tiles()[1]
    }

    /// Numbers between the products of the transformed inputs.
    fn pitch(&self, p: &Problem) -> usize {
        self.reads.len() * self.tiles(p) * p.c + APART
    }

    /// `Bᵀ d B` of all tiles of the frames that are read: `product frame tile channel`.
    fn transform_inputs(&self, isa: Isa, p: &Problem, x: &[f32], to: &mut [f32]) {
        let [row, frame, sample] = Problem::steps(p.input, p.c);
        let (columns, tiles) = (p.tiles()[1], self.tiles(p));
        assert!(to.len() >= PRODUCTS * self.pitch(p));
        let x = &x[self.n * sample..(self.n + 1) * sample];
        for (f, t) in self.reads.clone().enumerate() {
            for (r, tile_row) in self.rows.clone().enumerate() {
                let top = (TILE * tile_row) as isize - p.pad[0];
                let rows = [0, 1, 2, 3].map(|i| {
                    let y = top + i;
                    let inside = y >= 0 && y < p.input[1] as isize;
                    if inside { x[t * frame + y as usize * row..][..row].as_ptr() } else { std::ptr::null() }
                });
                let to = to[(f * tiles + r * columns) * p.c..].as_mut_ptr();
                // SAFETY of the kernel: the rows are inside of `x` with all their pixels, and `to` has space for the products
                // of all tiles of the strip, as was asserted.
                crate::cpu::simd::run(
                    isa,
                    transform::Inputs {
                        rows,
                        width: p.input[2],
                        first: -p.pad[1],
                        tiles: columns,
                        c: p.c,
                        to,
                        pitch: self.pitch(p),
                    },
                );
            }
        }
    }
}

/// Computes `y`.
pub(super) fn fprop(isa: Isa, p: &Conv3d, x: &[f32], w: &[f32], y: &mut [f32], finish: &mut Finish<f32>) -> Result<()> {
    let filters = product::Filters::of_results(isa, p, w)?;
    product::run(isa, &Problem::fprop(p), &filters, x, y, finish);
    Ok(())
}

/// Computes `dx`.
pub(super) fn dgrad(
    isa: Isa,
    p: &Conv3d,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    finish: &mut Finish<f32>,
) -> Result<()> {
    let filters = product::Filters::of_inputs(isa, p, w)?;
    product::run(isa, &Problem::dgrad(p), &filters, dy, dx, finish);
    Ok(())
}

/// Computes `dw`.
pub(super) fn wgrad(isa: Isa, p: &Conv3d, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    correlate::run(isa, &Problem::fprop(p), x, dy, dw)
}
