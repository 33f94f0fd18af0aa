//! What stems on Hopper copy and multiply (`cuda/conv3d/stem_sm90.cuh`): lines of `x` for all windows of a tile.

use super::conv::{Pass, Tiled};
use super::recorder::Launch;
use std::collections::BTreeSet;
use tubelet::ops::conv3d::Launched;

/// How frames are cut: the kernel's parameter `Stem`, field for field.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stem {
    columns: usize,
    lines: usize,
    width: usize,
    height: usize,
    column_tiles: usize,
    line_tiles: usize,
    steps: usize,
}

/// Bytes of four channels, and of four taps of a line of 64 filters.
const PIXEL: usize = 8;
const STEP: usize = 2048;
/// Filters of a copy of dy.
const FILTERS: usize = 64;

impl Stem {
    fn read(launch: &Launch) -> Option<Stem> {
        let bytes = launch.values.iter().find(|value| value.len() == 32)?;
        let [columns, lines, width, height, column_tiles, line_tiles, steps] =
            std::array::from_fn(|i| bytes[4 * i..].first_chunk().map_or(0, |four| u32::from_ne_bytes(*four) as usize));
        Some(Stem { columns, lines, width, height, column_tiles, line_tiles, steps })
    }

    /// Pixels inside of frames of `extent` lines and pixels, over the copies of all tiles of a frame: of `size` lines and
    /// pixels, the first of which is at `lowest`, `apart` for each line and pixel of the result.
    fn inside(&self, extent: [usize; 2], size: [usize; 2], lowest: [usize; 2], apart: [usize; 2]) -> usize {
        let along = |axis: usize, tiles: usize, of_tile: usize| {
            let within = |tile: usize| {
                let from = (tile * of_tile * apart[axis]) as i64 - lowest[axis] as i64;
                let clamped = |at: i64| at.clamp(0, extent[axis] as i64);
                (clamped(from + size[axis] as i64) - clamped(from)) as usize
            };
            (0..tiles).map(within).sum::<usize>()
        };
        along(0, self.line_tiles, self.lines) * along(1, self.column_tiles, self.columns)
    }
}

/// The launch, if it is one of these kernels.
pub fn tiled(pass: Pass, p: &Launched, launch: &Launch) -> Option<Tiled> {
    let stem = Stem::read(launch).filter(|_| launch.name.contains("_stem_sm90_"))?;
    let [_, stride_h, stride_w] = p.stride;
    let frame = |out: usize, tap: usize| (out * p.stride[0] + tap * p.dilation[0]) as i64 - p.pad[0] as i64;
    let meets = |out: usize, tap: usize| (0..p.input[0] as i64).contains(&frame(out, tap));
    // Frames of the result and of the filter that meet a frame of x; the others are left out.
    let pairs = (0..p.out[0]).map(|out| (0..p.kernel[0]).filter(|tap| meets(out, *tap)).count()).sum::<usize>();
    let of_frame = stem.line_tiles * stem.column_tiles;
    let tiles = p.n * p.out[0] * of_frame;
    // Lines of packed pixels have an even length.
    let extent = [p.input[1], p.input[2].next_multiple_of(2)];
    let pixels = stem.inside(extent, [stem.height, stem.width], [p.pad[1], p.pad[2]], [stride_h, stride_w]);
    let x = p.n * pairs * pixels * PIXEL;
    let copied = stem.height * stem.width * PIXEL;
    if pass == Pass::Wgrad {
        let [h, w] = [p.out[1], p.out[2]];
        let dy = stem.inside([h, w], [stem.lines, stem.columns], [0; 2], [1; 2]) * p.of_row[1].min(FILTERS) * 2;
        // Two consumers share the lines of a unit.
        let of_unit = stem.lines / 2 * stem.columns / 16;
        let blocks = p.kernel[0] * tiles.div_ceil(p.split.max(1));
        return Some(Tiled {
            blocks: blocks as f64,
            k_blocks: (p.n * pairs * of_frame * of_unit) as f64 / blocks as f64,
            operands: (x + p.n * pairs * dy) as f64,
            again: 0.0,
            stage: (stem.lines * stem.columns * FILTERS * 2 + copied) as f64 / of_unit as f64,
        });
    }
    // Each block copies the frames of the filter that its tiles meet, once.
    let grid = launch.spread.grid[0] as usize;
    let met: BTreeSet<(usize, usize)> = (0..tiles)
        .flat_map(|tile| (0..p.kernel[0]).map(move |tap| (tile, tap)))
        .filter(|(tile, tap)| meets(tile / of_frame % p.out[0], *tap))
        .map(|(tile, tap)| (tile % grid, tap))
        .collect();
    let steps = p.kernel[1] * stem.steps;
    let filters = met.len() * steps * STEP;
    let k_blocks = (p.n * pairs * of_frame * steps) as f64;
    Some(Tiled {
        blocks: tiles as f64,
        k_blocks: k_blocks / tiles as f64,
        operands: (x + filters) as f64,
        again: 0.0,
        stage: copied as f64 / steps as f64 + filters as f64 / k_blocks,
    })
}
