//! How stems are cut into tiles on Hopper (`cuda/conv3d/stem_sm90.cuh`), and what is packed for the kernels.

use super::super::{Conv3d, Operator};
use super::halo::SHARED;
use bytemuck::{Pod, Zeroable};

/// Channels of a packed pixel, and bytes of a line of the filter and four taps, for 64 filters.
const CHANNELS: usize = 4;
const PIXEL_BYTES: usize = 8;
const STEP_BYTES: usize = 2048;
/// Filters at most, and rows of the product: all are in one tile.
pub(super) const ROWS: usize = 64;
/// Frames of the filter at most, of which each has a barrier.
const FRAMES: usize = 8;
/// Consumers of a block: each writes sums of its own, of tiles in fprop and of pixels in wgrad.
pub(super) const CONSUMERS: usize = 2;
/// Lines and taps of a line in wgrad's product.
const LINES: usize = 7;
const TAPS: usize = 8;
/// Stages of the ring, and the most numbers of a box of TMA along an axis.
const STAGES: std::ops::RangeInclusive<usize> = 2..=8;
const BOX: usize = 256;
/// The largest distance that a descriptor of wgmma can have, in bytes: 14 bits of sixteen bytes.
const DISTANCE: usize = ((1 << 14) - 1) * 16;

/// The kernels' parameters, field for field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Stem {
    /// Outputs of a line in a tile, and lines.
    pub columns: u32,
    /// Lines of the result in a tile; in wgrad in a unit of the reduction.
    pub lines: u32,
    /// Pixels of a line of `x` that they meet.
    pub width: u32,
    /// Lines of `x` that they meet.
    pub height: u32,
    /// Tiles of a line of the result.
    pub column_tiles: u32,
    /// Tiles of the lines of a frame.
    pub line_tiles: u32,
    /// Sixteen numbers of the reduction are four taps: how many of them a line of the filter has.
    pub steps: u32,
    /// Stages of the ring.
    pub stages: u32,
}

/// Whether the kernels take such a convolution, apart from what fits into shared memory.
fn fits(p: &Conv3d) -> bool {
    let window = &p.geometry.window;
    // Windows are 16 bytes apart: two pixels.
    let along = window.stride[2] == 2 && window.dilation[2] == 1 && p.kernel[2] <= TAPS;
    let filters = p.c <= CHANNELS && p.k <= ROWS && p.kernel[0] <= FRAMES && p.geometry.groups == 1;
    along && filters && p.input.iter().chain(&p.out).all(|extent| *extent > 0) && p.n > 0 && p.c > 0
}

/// Pixels of a packed line: an even number, so that lines begin at multiples of 16 bytes.
pub(super) fn pitch(p: &Conv3d) -> usize {
    p.input[2].next_multiple_of(2)
}

/// Shape of packed pixels.
pub(super) fn packed_shape(p: &Conv3d) -> [usize; 5] {
    let [t, h, _] = p.input;
    [p.n, t, h, pitch(p), CHANNELS]
}

/// Bytes of working space for packed pixels; 0 where `x` is packed as it is.
pub(super) fn pixel_space(p: &Conv3d) -> usize {
    let packed = p.c == CHANNELS && p.input[2] == pitch(p);
    let numbers = packed_shape(p).iter().product::<usize>();
    if packed { 0 } else { (2 * numbers).next_multiple_of(256) }
}

/// The same for packed filters.
pub(super) fn filter_space(p: &Conv3d) -> usize {
    p.kernel[0] * p.kernel[1] * steps(p) * STEP_BYTES
}

pub(super) fn steps(p: &Conv3d) -> usize {
    p.kernel[2].div_ceil(4)
}

impl Stem {
    /// The cut of fprop for tiles of `columns` outputs of a line, four of which make 448 outputs with their lines.
    pub fn of_fprop(p: &Conv3d, columns: usize) -> Option<Stem> {
        let lines = 448 / columns;
        let width = 2 * columns + 4 * steps(p) - 2;
        let staged = CONSUMERS * columns * (2 * ROWS + 16);
        let left = SHARED.checked_sub(128 + filter_space(p) + staged)?;
        Stem::cut(p, [columns, lines, width, p.kernel[1]], |x_bytes| left / x_bytes.next_multiple_of(128).max(1))
    }

    /// The cut of wgrad: of those whose units fit twice, the one whose busiest multiprocessor has the fewest lines, and of
    /// equals the one that copies least.
    pub fn of_wgrad(p: &Conv3d, processors: usize) -> Option<Stem> {
        let most = (BOX - TAPS + 2) / 2 / 16 * 16;
        let tiles = p.out[2].div_ceil(most).max(1);
        let columns = p.out[2].div_ceil(tiles).next_multiple_of(16);
        let cuts = (1..=4).filter_map(|pairs| {
            let lines = CONSUMERS * pairs;
            let of_dy = lines * columns * 128;
            let stage = |x_bytes: usize| of_dy + x_bytes.next_multiple_of(1024);
            Stem::cut(p, [columns, lines, 2 * columns + TAPS - 2, LINES], |x| (SHARED - 1024) / stage(x))
        });
        let far = |stem: &Stem| p.geometry.window.dilation[1] * stem.width as usize * PIXEL_BYTES <= DISTANCE;
        let busiest = |stem: &Stem| (stem.tiles(p, p.n) * p.kernel[0]).div_ceil(processors) * stem.lines as usize;
        cuts.filter(far).min_by_key(|stem| (busiest(stem), stem.line_tiles * stem.copied()))
    }

    fn cut(p: &Conv3d, [columns, lines, width, taps]: [usize; 4], stages: impl Fn(usize) -> usize) -> Option<Stem> {
        let window = &p.geometry.window;
        let height = (lines - 1) * window.stride[1] + (taps - 1) * window.dilation[1] + 1;
        if !fits(p) || p.kernel[1] > taps || width.max(height) > BOX {
            return None;
        }
        let stages = stages(height * width * PIXEL_BYTES).min(*STAGES.end());
        let [column_tiles, line_tiles] = [p.out[2].div_ceil(columns), p.out[1].div_ceil(lines)];
        let all = [columns, lines, width, height, column_tiles, line_tiles, steps(p), stages].map(|v| v as u32);
        let [columns, lines, width, height, column_tiles, line_tiles, steps, stages] = all;
        let stem = Stem { columns, lines, width, height, column_tiles, line_tiles, steps, stages };
        STAGES.contains(&(stages as usize)).then_some(stem)
    }

    /// Numbers of a frame of `x` and of dy that are copied for a unit of wgrad.
    fn copied(&self) -> u32 {
        self.width * self.height * CHANNELS as u32 + self.columns * self.lines * ROWS as u32
    }

    /// Tiles of fprop, or units of wgrad, of `n` samples.
    pub fn tiles(&self, p: &Conv3d, n: usize) -> usize {
        n * p.out[0] * (self.line_tiles * self.column_tiles) as usize
    }

    /// Multiply-adds and copied numbers of a tile of fprop, or of a unit and a frame of the filter in wgrad.
    pub fn of_tile(&self, p: &Conv3d, pass: Operator) -> [usize; 2] {
        let outputs = (self.columns * self.lines) as usize;
        if pass == Operator::Wgrad {
            return [outputs * ROWS * LINES * TAPS * CHANNELS, self.copied() as usize];
        }
        let depth = p.kernel[0] * p.kernel[1] * self.steps as usize * 16;
        [outputs * ROWS * depth, p.kernel[0] * (self.width * self.height) as usize * CHANNELS]
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Geometry;
    use super::*;
    use crate::shape::Window;

    fn stem(x: [usize; 5], k: usize, kernel: [usize; 3], stride: [usize; 3]) -> Conv3d {
        let w = [k, kernel[0], kernel[1], kernel[2], x[4]];
        let g = Geometry::new(Window::same(kernel).strided(stride));
        Conv3d::new("conv3d", x.into(), w.into(), &g).unwrap()
    }

    #[test]
    fn cuts_cover_frames_and_fit_into_memory() {
        for width in 1..300 {
            let p = stem([1, 3, 40, width, 3], 64, [3, 7, 7], [1, 2, 2]);
            for stem in [Stem::of_fprop(&p, 112), Stem::of_fprop(&p, 56), Stem::of_wgrad(&p, 132)] {
                let stem = stem.unwrap();
                let [columns, lines, width, height] = [stem.columns, stem.lines, stem.width, stem.height];
                assert!((stem.column_tiles * columns) as usize >= p.out[2]);
                assert!((stem.line_tiles * lines) as usize >= p.out[1]);
                // The last window of a tile has eight taps and seven lines.
                assert!(width >= 2 * (columns - 1) + 8 && height >= 2 * (lines - 1) + 7 && width <= 256, "{stem:?}");
            }
        }
        // Packed pixels have lines of an even length.
        let odd = stem([2, 3, 5, 7, 3], 8, [1, 3, 3], [1, 2, 2]);
        assert_eq!((packed_shape(&odd), pixel_space(&odd)), ([2, 3, 5, 8, 4], 2048));
        let packed = stem([2, 3, 5, 8, 4], 8, [1, 3, 3], [1, 2, 2]);
        assert_eq!(pixel_space(&packed), 0);
    }
}
