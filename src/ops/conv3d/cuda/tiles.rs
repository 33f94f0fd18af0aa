//! The tiles that there are kernels for, and what a pass costs with each.

use super::super::{Conv3d, Operator};
use super::halo::{self, Halo};
use super::reuse::Gather;
use super::stem::Stem;

/// Which kernels compute a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// f32 arithmetic: f32 tensors, and groups.
    Exact,
    /// Tensor cores, on rows of a multiple of eight channels.
    Dense,
    /// Tensor cores, on rows of four channels.
    Stem,
    /// Tensor cores of Hopper, on rows of a multiple of eight channels.
    Warpgroup,
    /// The same, where pixels are copied once for all taps within a frame.
    Halo,
    /// Tensor cores of Hopper, on packed pixels of four channels.
    Packed,
}

/// The number of multiprocessors that tiles are chosen for: that of an H100 or H200. Results do not depend on it.
pub(super) const PROCESSORS: usize = 132;

/// A tile: rows, columns, threads, bytes of shared memory, and blocks of a cluster. The tiles of a cluster are one above the
/// other, and the operand of their columns is read once for all.
pub(super) struct Tile(pub usize, pub usize, pub u32, pub u32, pub usize);

const HIGH: Tile = Tile(256, 128, 256, 73728, 1);
const WIDE: Tile = Tile(128, 256, 256, 73728, 1);
const BROAD: Tile = Tile(64, 256, 256, 61440, 1);
const LARGE: Tile = Tile(128, 128, 128, 49152, 1);
const TALL: Tile = Tile(128, 64, 128, 49152, 1);
const SMALL: Tile = Tile(64, 64, 128, 32768, 1);

const FPROP: &[Tile] = &[HIGH, LARGE, TALL, SMALL];
const DGRAD: &[Tile] = &[HIGH, LARGE, TALL, SMALL];
const WGRAD: &[Tile] = &[WIDE, BROAD, LARGE, SMALL];
const FPROP_STEM: &[Tile] = &[Tile(128, 64, 256, 49152, 1)];
const WGRAD_STEM: &[Tile] = &[Tile(64, 64, 128, 32768, 1)];
const EXACT: &[Tile] = &[Tile(64, 64, 128, 0, 1)];

/// Of wgmma: fprop and dgrad, which stage a part of the result, and wgrad.
const STAGED_SM90: &[Tile] = &[
    Tile(128, 256, 384, 216064, 1),
    Tile(256, 128, 384, 218112, 1),
    Tile(128, 128, 384, 216064, 1),
    Tile(256, 64, 384, 185344, 1),
    Tile(128, 256, 384, 216064, 2),
];
const WGRAD_SM90: &[Tile] = &[
    Tile(128, 256, 384, 197632, 1),
    Tile(256, 128, 384, 197632, 1),
    Tile(128, 128, 384, 197632, 1),
    Tile(64, 256, 384, 205824, 1),
    Tile(128, 256, 384, 197632, 2),
];

/// Of wgmma with halos, which have rings as long as memory allows.
const RING: u32 = halo::SHARED as u32;
const FPROP_HALO_SM90: &[Tile] = &[
    Tile(128, 256, 384, RING, 1),
    Tile(256, 128, 384, RING, 1),
    Tile(128, 128, 384, RING, 1),
    Tile(256, 64, 384, RING, 1),
    Tile(256, 144, 384, RING, 1),
    Tile(128, 128, 384, RING, 2),
    Tile(256, 64, 384, RING, 2),
];
const DGRAD_HALO_SM90: &[Tile] = &[
    Tile(128, 256, 384, RING, 1),
    Tile(256, 128, 384, RING, 1),
    Tile(128, 128, 384, RING, 1),
    Tile(256, 64, 384, RING, 1),
    Tile(128, 128, 384, RING, 2),
    Tile(256, 64, 384, RING, 2),
];
const WGRAD_HALO_SM90: &[Tile] =
    &[Tile(64, 576, 512, RING, 1), Tile(128, 192, 512, RING, 1), Tile(64, 432, 512, RING, 1)];

/// Of stems on Hopper: outputs of a line and filters, and filters and columns of a frame of the filter.
const FPROP_STEM_SM90: &[Tile] = &[Tile(112, 64, 384, RING, 1), Tile(56, 64, 384, RING, 1)];
const WGRAD_STEM_SM90: &[Tile] = &[Tile(64, 224, 384, RING, 1)];

/// The tiles of the kernels of a pass.
pub(super) fn tiles(path: Path, pass: Operator) -> &'static [Tile] {
    match (path, pass) {
        (Path::Exact, _) => EXACT,
        (Path::Stem, Operator::Wgrad) => WGRAD_STEM,
        (Path::Stem, _) => FPROP_STEM,
        (Path::Packed, Operator::Wgrad) => WGRAD_STEM_SM90,
        (Path::Packed, _) => FPROP_STEM_SM90,
        (Path::Dense, Operator::Fprop) => FPROP,
        (Path::Dense, Operator::Dgrad) => DGRAD,
        (Path::Dense, Operator::Wgrad) => WGRAD,
        (Path::Warpgroup, Operator::Wgrad) => WGRAD_SM90,
        (Path::Warpgroup, _) => STAGED_SM90,
        (Path::Halo, Operator::Wgrad) => WGRAD_HALO_SM90,
        (Path::Halo, Operator::Fprop) => FPROP_HALO_SM90,
        (Path::Halo, Operator::Dgrad) => DGRAD_HALO_SM90,
    }
}

/// What `mma.sync` and wgmma reach of the 495 T multiply-adds of bf16 a second of an H100, in percent, as in
/// `benches/model/device.rs`: the former measured by Luo et al. (arXiv 2402.13499), the latter by the best GEMMs (fast.cu).
const SYNC_PERCENT: usize = 62;
const WARPGROUP_PERCENT: usize = 80;

/// Multiply-adds of `mma.sync` in the time in which the second-level cache delivers one bf16 element: about 0.62 of an
/// H100's 495 T a second over 2.85 T elements a second (5.7 TB/s). Assumed, not measured.
const BALANCE: usize = 107;

/// A product to be divided into tiles, `times` times.
pub(super) struct Product<'a> {
    pub problem: &'a Conv3d,
    pub path: Path,
    pub gather: Gather,
    /// Samples of a group, and the rows and columns of their product.
    pub samples: usize,
    pub rows: usize,
    pub columns: usize,
    pub times: usize,
}

impl Tile {
    /// The time that one step along the reduction takes, in multiply-adds of `mma.sync`: for all products of the tile,
    /// or until the operands have arrived from the second-level cache. What lies outside is not read, and of the gathered
    /// operand only what no tap before has read, unless TMA reads it, which bypasses the first-level cache.
    fn step(&self, of: &Product) -> usize {
        let (rows, columns) = (self.0.min(of.rows), self.1.min(of.columns));
        if let Path::Warpgroup | Path::Halo = of.path {
            let products = (self.0 * self.1 * SYNC_PERCENT).div_ceil(WARPGROUP_PERCENT);
            let halo = self.halo(of);
            if let (Operator::Wgrad, Some(halo)) = (of.gather.pass, halo) {
                let [of_dy, of_x, _] = halo.units(of.problem);
                let channels = self.channels(of.problem).next_multiple_of(64).min(of.gather.channels);
                return products.max(BALANCE * (rows + (channels * of_x).div_ceil(of_dy)));
            }
            let channels = of.gather.channels.max(1);
            if let Some(halo) = halo {
                // Channels are reduced sixteen at a time, and what is only padding is not read.
                let products = (products * channels.next_multiple_of(16)).div_ceil(channels);
                return products.max(BALANCE * (halo.pixels_of_tap(of.problem) + columns / self.4));
            }
            // Channels are reduced, and of wgrad are columns, in blocks of 64.
            let padded = if of.gather.pass == Operator::Wgrad { channels } else { channels.next_multiple_of(64) };
            return (products.max(BALANCE * (rows + columns / self.4)) * padded).div_ceil(channels);
        }
        let fresh = of.gather.fresh([self.0, self.1]);
        let read = match of.gather.pass {
            Operator::Wgrad => rows + (columns as f64 * fresh).ceil() as usize,
            _ => columns + (rows as f64 * fresh).ceil() as usize,
        };
        (self.0 * self.1).max(BALANCE * read)
    }

    /// How frames are cut, on the path that copies halos: into whole clusters in each group of samples.
    pub fn halo(&self, of: &Product) -> Option<Halo> {
        let whole = |halo: &Halo| halo.tiles(of.problem, of.gather.pass, of.samples).is_multiple_of(self.4);
        match (of.path, of.gather.pass) {
            (Path::Halo, Operator::Wgrad) => Halo::of_wgrad(of.problem, [self.0, self.1]),
            (Path::Halo, pass) => Halo::new(of.problem, pass, [self.0, self.1]).filter(whole),
            _ => None,
        }
    }

    /// How frames are cut, on the path of stems.
    pub fn stem(&self, of: &Product) -> Option<Stem> {
        match (of.path, of.gather.pass) {
            (Path::Packed, Operator::Wgrad) => Stem::of_wgrad(of.problem, PROCESSORS),
            (Path::Packed, _) => Stem::of_fprop(of.problem, self.0),
            _ => None,
        }
    }

    /// Channels of a tile of wgrad with halos, which has all taps of a frame of the filter.
    fn channels(&self, p: &Conv3d) -> usize {
        let [_, h, w] = halo::flat(p).kernel;
        self.1 / (h * w)
    }

    /// Number of such tiles in each direction, for whole clusters; with halos every frame is cut by itself.
    pub fn tiles(&self, of: &Product) -> [usize; 2] {
        let (rows, columns) = (of.rows.div_ceil(self.0).next_multiple_of(self.4), of.columns.div_ceil(self.1));
        if let Some(stem) = self.stem(of) {
            let frames = of.problem.kernel[0];
            return if of.gather.pass == Operator::Wgrad {
                [1, frames]
            } else {
                [stem.tiles(of.problem, of.samples), 1]
            };
        }
        match (of.path, of.gather.pass) {
            (Path::Halo, Operator::Wgrad) => {
                let frames = halo::flat(of.problem).kernel[0];
                [rows, frames * of.gather.channels.div_ceil(self.channels(of.problem))]
            }
            (Path::Halo, pass) => [self.halo(of).map_or(0, |halo| halo.tiles(of.problem, pass, of.samples)), columns],
            _ => [rows, columns],
        }
    }

    /// Blocks that the busiest multiprocessor computes one after another, of `count` times all tiles.
    fn waves(&self, of: &Product, count: usize) -> usize {
        (self.tiles(of).iter().product::<usize>() * of.times * count).div_ceil(PROCESSORS)
    }

    /// The division of `pixels` that finishes first, of wgrad among those of at most four blocks a multiprocessor.
    pub fn divide(&self, of: &Product, pixels: usize) -> Split {
        let step = match self.stem(of) {
            Some(stem) => {
                let [products, numbers] = stem.of_tile(of.problem, of.gather.pass);
                (products * SYNC_PERCENT).div_ceil(WARPGROUP_PERCENT).max(BALANCE * numbers)
            }
            None => self.step(of),
        };
        if let (Some(_), Operator::Fprop) = (self.stem(of), of.gather.pass) {
            // Of all tiles, those of other kernels of a step along the reduction.
            let depth = of.problem.taps() * of.gather.channels;
            return Split { size: pixels, count: 1, cost: (self.waves(of, 1) * step).div_ceil(depth.max(1)) };
        }
        if of.gather.pass != Operator::Wgrad {
            return Split { size: pixels, count: 1, cost: self.waves(of, 1) * step };
        }
        // The pixels of one split are whole k-blocks, and at least eight; with halos, positions in whole units; of stems
        // one unit, which is long, or several.
        let (depth, pixels) = match (of.path, self.halo(of)) {
            // A step is a unit.
            (Path::Packed, _) => (1, self.stem(of).map_or(1, |stem| stem.tiles(of.problem, of.problem.n))),
            (_, Some(halo)) => {
                let [positions, _, units] = halo.units(of.problem);
                (positions, positions * units)
            }
            (Path::Warpgroup, None) => (64, pixels),
            _ => (32, pixels),
        };
        let least = if of.path == Path::Packed { 1 } else { 8 * depth };
        let tiles = self.tiles(of).iter().product::<usize>() * of.times;
        let most = (4 * PROCESSORS / tiles.max(1)).min(pixels.div_ceil(least)).max(1);
        let divided = |wanted: usize| {
            let size = pixels.div_ceil(wanted).next_multiple_of(depth).max(depth);
            let count = pixels.div_ceil(size).max(1);
            let products = self.waves(of, count) * size * step;
            // A sum is written and read: eight bytes, which are four elements. All multiprocessors share this work.
            let sums = count * of.rows * of.columns * of.times * 4 * BALANCE;
            let sums = if count > 1 { sums.div_ceil(PROCESSORS) } else { 0 };
            Split { size, count, cost: products + sums }
        };
        (2..=most).map(divided).fold(divided(1), |best, next| if next.cost < best.cost { next } else { best })
    }
}

/// How the reduction of wgrad, which is over pixels, is divided among blocks.
pub(super) struct Split {
    /// Pixels of one block.
    pub size: usize,
    /// Number of such parts. Each writes partial sums, which are added afterwards if there are several.
    pub count: usize,
    /// Time until the busiest multiprocessor is done, and the partial sums are added, in multiply-adds.
    pub cost: usize,
}
