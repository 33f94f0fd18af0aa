//! How wgrad on AMX tiles divides its work into bands, shares and sets: by the extents alone.

use super::super::super::Conv3d;
use crate::cpu::amx::{DEPTH, SIDE, TILE};

/// Steps per stretch: what a block reads in them, 4 KiB each, stays in the L1 cache.
pub(super) const STRETCH: usize = 11;

/// Minimum positions per set, so that adding up its sums pays; maximum number of sets; maximum bytes of all their sums.
const SET: usize = 3072;
const SETS: usize = 8;
const ALL_SUMS: usize = 1 << 24;

/// Bytes for the sums of a share, maximum for all sums, and bytes for a band; a share and a band fit into the L2 cache
/// together. Filters whose sums take more are divided into shares. Inputs are interleaved again for each share, so with
/// more sums than the maximum [`correlate_flat`](super::correlate_flat) is used instead.
const SHARE: usize = 5 << 18;
const SUMS: usize = 15 << 17;
const BAND: usize = 5 << 17;

/// With fewer positions than this, and at least a block's columns of channels, sets do not pay.
const FEW: usize = 1024;

/// Columns per block of the sums.
pub(super) const BLOCK: usize = 2 * SIDE;

/// How the work is divided.
#[derive(Debug)]
pub(super) struct Tiling {
    /// Contiguous numbers under the taps of a row, the number of such pieces, and the distance between them.
    pub run: usize,
    pub pieces: usize,
    pub piece_step: usize,
    /// Tiles of columns per piece, and in all.
    pub piece_columns: usize,
    pub columns: usize,
    /// Tiles of filters per share, and the number of shares.
    pub filters: usize,
    pub shares: usize,
    /// Pairs of positions in a row.
    pub pairs: usize,
    /// Rows of positions per band, and bands per frame.
    pub rows: usize,
    pub bands: usize,
    /// Input frames that the taps of a position span.
    pub ring: usize,
    pub sets: usize,
    /// Numbers of the sums of a share: taps, then blocks of 32 columns, each with a row per filter.
    pub of_share: usize,
    /// Whether [`correlate_flat`](super::correlate_flat) is used: there are too many sums for bands, too few positions,
    /// or rows so few and short that bands leave steps empty.
    pub flat: bool,
    /// Positions of all steps, including the unused ones.
    pub stepped: usize,
}

impl Tiling {
    pub fn new(p: &Conv3d, numbers: usize) -> Self {
        let win = &p.geometry.window;
        let [_, dh, dw] = win.dilation;
        let merged = dw == 1;
        let (run, pieces) = if merged { (p.kernel[2] * p.c, 1) } else { (p.c, p.kernel[2]) };
        let piece_columns = run.div_ceil(SIDE);
        let columns = pieces * piece_columns;
        let tiles = p.k.div_ceil(SIDE);
        let [frames, height, width] = p.out;
        let pairs = width.div_ceil(2);
        let ring = (p.kernel[0] - 1) * win.dilation[0] + 1;

        let taps = p.kernel[0] * p.kernel[1];
        let of_tile = taps * columns.next_multiple_of(2) * TILE;
        let sums = tiles * of_tile;
        let filters = tiles.div_ceil(sums.div_ceil(SHARE)).next_multiple_of(2).min(tiles);
        let positions = p.n * frames * height * width;
        let sets = (positions / SET).next_power_of_two().min(SETS).min(ALL_SUMS / sums).max(2);

        // The tallest bands that fit; among those, the one that wastes the fewest positions.
        let bytes = |rows: usize| {
            let inputs = ((rows - 1) * win.stride[1] + (p.kernel[1] - 1) * dh + 1) * pairs * columns * ring;
            64 * numbers * (inputs + rows * pairs * filters)
        };
        let cost = |rows: usize| {
            let halo = ((p.kernel[1] - 1) * dh) as f64 / (rows * win.stride[1]) as f64;
            let steps = height / rows * (rows * pairs).div_ceil(SIDE) + (height % rows * pairs).div_ceil(SIDE);
            let interleaving = 1.2 * (1.0 + halo) * (height * win.stride[1] * pairs * columns) as f64;
            (steps * 64 * filters * columns * taps / 4) as f64 + interleaving
        };
        let fits = (1..=height).filter(|&rows| rows == 1 || bytes(rows) <= BAND);
        let rows = fits.min_by(|&a, &b| cost(a).total_cmp(&cost(b)).then(b.cmp(&a))).unwrap_or(1);
        let of_frame = height / rows * (rows * pairs).div_ceil(SIDE) + (height % rows * pairs).div_ceil(SIDE);
        let banded = p.n * frames * of_frame * DEPTH;
        let flat = sums > SUMS || p.c >= BLOCK && (positions < FEW || banded > 2 * positions);
        Tiling {
            run,
            pieces,
            piece_step: dw * p.c,
            piece_columns,
            columns,
            filters,
            shares: tiles.div_ceil(filters),
            pairs,
            rows,
            bands: height.div_ceil(rows),
            ring,
            sets: sets.min(p.n * frames * height.div_ceil(rows)),
            of_share: filters * of_tile / 4,
            flat,
            stepped: if flat { positions.next_multiple_of(DEPTH) } else { banded },
        }
    }
}

/// Rows of the input that `rows` rows of positions span.
pub(super) fn phase_rows(p: &Conv3d, rows: usize) -> usize {
    let win = &p.geometry.window;
    (rows - 1) * win.stride[1] + (p.kernel[1] - 1) * win.dilation[1] + 1
}
