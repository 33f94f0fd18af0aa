//! How a pass is divided into blocks and which kernel computes them: pure functions of the problem.

use super::super::{Conv3d, Operator};
use super::problem::Conv;
use super::reuse::Gather;
use crate::driver::Spread;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Which kernels compute a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// f32 arithmetic: f32 tensors, and groups.
    Exact,
    /// Tensor cores, on rows of a multiple of eight channels.
    Dense,
    /// Tensor cores, on rows of four channels.
    Stem,
}

/// How one pass is launched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The kernels.
    pub path: Path,
    /// Rows and columns of the result that one block computes.
    pub tile: [usize; 2],
    /// Index of the kernel with that tile among the kernels of the pass.
    pub entry: usize,
    /// Blocks, threads, shared memory.
    pub spread: Spread,
    /// Number of partial sums over pixels that are computed separately and added afterwards (wgrad; otherwise 1).
    pub splits: usize,
    /// Whether a second kernel adds up the results of the first and removes padding (wgrad).
    pub sums_after: bool,
    /// Padded channels of `x` and `w`, and of `dy`, if they have to be copied with padding first.
    pub padded: [Option<usize>; 2],
    /// Bytes of working space: copies of the two inputs in the order of the pass's arguments, then partial sums.
    pub space: [usize; 3],
    /// The kernel's parameters.
    pub conv: Conv,
}

/// The number of multiprocessors that tiles are chosen for: that of an H100 or H200. Results do not depend on it.
const PROCESSORS: usize = 132;

/// A tile: rows, columns, threads, bytes of shared memory.
struct Tile(usize, usize, u32, u32);

const HIGH: Tile = Tile(256, 128, 256, 73728);
const WIDE: Tile = Tile(128, 256, 256, 73728);
const BROAD: Tile = Tile(64, 256, 256, 61440);
const LARGE: Tile = Tile(128, 128, 128, 49152);
const TALL: Tile = Tile(128, 64, 128, 49152);
const SMALL: Tile = Tile(64, 64, 128, 32768);

const FPROP: &[Tile] = &[HIGH, LARGE, TALL, SMALL];
const DGRAD: &[Tile] = &[HIGH, LARGE, TALL, SMALL];
const WGRAD: &[Tile] = &[WIDE, BROAD, LARGE, SMALL];
const FPROP_STEM: &[Tile] = &[Tile(128, 64, 256, 49152)];
const WGRAD_STEM: &[Tile] = &[Tile(64, 64, 128, 32768)];
const EXACT: &[Tile] = &[Tile(64, 64, 128, 0)];

/// Multiply-adds in the time in which the second-level cache delivers one bf16 element: about 0.62 of an H100's 495 T a
/// second, which is what `mma.sync` reaches, over 2.85 T elements a second (5.7 TB/s). Assumed, not measured.
const BALANCE: usize = 107;

impl Tile {
    /// The time that one step along the reduction of a product of `rows` x `columns` takes, in multiply-adds: for all
    /// products of the tile, or until the operands have arrived from the second-level cache. What lies outside is not
    /// read, and of the gathered operand only what no tap before has read.
    fn step(&self, gather: &Gather, rows: usize, columns: usize) -> usize {
        let (rows, columns) = (self.0.min(rows), self.1.min(columns));
        let fresh = gather.fresh([self.0, self.1]);
        let read = match gather.pass {
            Operator::Wgrad => rows + (columns as f64 * fresh).ceil() as usize,
            _ => columns + (rows as f64 * fresh).ceil() as usize,
        };
        (self.0 * self.1).max(BALANCE * read)
    }

    /// Number of such tiles in each direction.
    fn tiles(&self, rows: usize, columns: usize) -> [usize; 2] {
        [rows.div_ceil(self.0), columns.div_ceil(self.1)]
    }
}

/// Maximum size of a grid in its second dimension, in which dgrad has one block per residue class modulo the stride.
const MOST_CLASSES: usize = 65535;

/// The pixels of one split are a multiple of this, and at least eight times as many.
const DEPTH: usize = 32;

/// Sums of tiles that one block adds up.
pub(super) const MERGED: usize = 128;

/// In how many parts the sums of `tiles` tiles are added up, which are added afterwards; `None` if one block takes all.
pub(super) fn merged_parts(tiles: usize) -> Option<usize> {
    (tiles > MERGED).then(|| tiles.div_ceil(MERGED))
}

/// Rows of working space for the sums of `tiles` tiles, and of their parts.
fn with_parts(tiles: usize) -> usize {
    tiles + merged_parts(tiles).unwrap_or(0)
}

impl Plan {
    /// How `pass` of `p` is computed on tensors of `dtype`.
    ///
    /// # Errors
    /// `Param` when a tensor has 2³¹ elements or more, or strides are too large for dgrad.
    pub fn new(p: &Conv3d, pass: Operator, dtype: DType) -> Result<Plan> {
        Plan::cut(p, pass, dtype, None, None)
    }

    /// The same for a pass that also computes statistics, over `groups` equal parts of the samples: tiles then do not
    /// cross the boundaries of parts. Not on the exact path.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn with_statistics(p: &Conv3d, pass: Operator, dtype: DType, groups: usize) -> Result<Plan> {
        Plan::cut(p, pass, dtype, Some(groups), None)
    }

    /// As [`Plan::new`], with tile number `tile` instead of the cheapest; `None` if there is no such tile.
    ///
    /// # Errors
    /// As [`Plan::new`].
    #[cfg(any(test, feature = "testing"))]
    pub fn with_tile(p: &Conv3d, pass: Operator, dtype: DType, tile: usize) -> Result<Option<Plan>> {
        let plan = Plan::cut(p, pass, dtype, None, Some(tile))?;
        Ok((plan.entry == tile).then_some(plan))
    }

    fn cut(p: &Conv3d, pass: Operator, dtype: DType, statistics: Option<usize>, tile: Option<usize>) -> Result<Plan> {
        let groups = statistics.unwrap_or(1);
        let exact = dtype == DType::F32 || p.geometry.groups > 1;
        let row = |c: usize| if exact { c } else { c.next_multiple_of(8) };
        let stem = !exact && p.c <= 4 && pass != Operator::Dgrad;
        let (c_row, k_row) = (if stem { 4 } else { row(p.c) }, row(p.k));
        let path = if exact {
            Path::Exact
        } else if stem {
            Path::Stem
        } else {
            Path::Dense
        };
        let (taps, pixels) = (p.taps(), p.n * p.out.iter().product::<usize>());
        let c_row_group = if exact { p.c_group() } else { c_row };
        let classes: usize = if pass == Operator::Dgrad {
            p.geometry.window.stride.iter().fold(1, |n: usize, s| n.saturating_mul(*s))
        } else {
            1
        };
        if classes > MOST_CLASSES {
            let stride = format!("{:?}", p.geometry.window.stride);
            return Err(Error::param("conv3d", "stride", stride, "a GPU takes products of at most 65535"));
        }
        let (rows, columns) = match pass {
            Operator::Fprop => (pixels / groups, p.k_group()),
            Operator::Dgrad => (p.n / groups * largest_class(p).iter().product::<usize>(), p.c_group()),
            Operator::Wgrad => (p.k_group(), taps * c_row_group),
        };
        let tiles = match (path, pass) {
            (Path::Exact, _) => EXACT,
            (Path::Stem, Operator::Wgrad) => WGRAD_STEM,
            (Path::Stem, _) => FPROP_STEM,
            (Path::Dense, Operator::Fprop) => FPROP,
            (Path::Dense, Operator::Dgrad) => DGRAD,
            (Path::Dense, Operator::Wgrad) => WGRAD,
        };
        let times = groups * classes * p.geometry.groups;
        let w = &p.geometry.window;
        let channels = if pass == Operator::Dgrad { k_row } else { c_row };
        let (input, out, kernel) = (p.input, p.out, p.kernel);
        let gather = Gather { pass, input, out, kernel, stride: w.stride, dilation: w.dilation, channels };
        let chosen = |t: &Tile| {
            let step = t.step(&gather, rows, columns);
            match pass {
                Operator::Wgrad => split(t, step, rows, columns, times, pixels),
                _ => Split { size: pixels, count: 1, cost: waves(t, rows, columns, times) * step },
            }
        };
        // Of equals the smallest, which computes the least outside of the result.
        let cost = |t: &Tile| (chosen(t).cost, t.0 * t.1);
        let best = || (0..tiles.len()).min_by_key(|&i| cost(&tiles[i])).unwrap_or(0);
        let entry = tile.filter(|&t| t < tiles.len()).unwrap_or_else(best);
        let Tile(bm, bn, threads, shared) = tiles[entry];
        let [row_tiles, column_tiles] = tiles[entry].tiles(rows, columns);
        let mut conv = Conv::new(p, pass == Operator::Dgrad);
        let Split { size, count: splits, .. } = chosen(&tiles[entry]);
        if pass == Operator::Wgrad {
            conv.split = size as u32;
        }
        (conv.c_row, conv.k_row, conv.column_tiles) = (c_row as u32, k_row as u32, column_tiles as u32);
        let group_rows = if pass == Operator::Dgrad { p.n / groups } else { rows };
        (conv.group_tiles, conv.group_rows) = (row_tiles as u32, group_rows as u32);

        let padded = [(c_row != p.c && !exact).then_some(c_row), (k_row != p.k && !exact).then_some(k_row)];
        let sums_after = splits > 1 || (pass == Operator::Wgrad && padded[0].is_some());
        let copy = |rows: usize, channels: Option<usize>| channels.map_or(0, |c| (rows * c * 2).next_multiple_of(256));
        let x_rows = p.n * p.input.iter().product::<usize>();
        let [first, second] = match pass {
            Operator::Fprop => [copy(x_rows, padded[0]), copy(p.k * taps, padded[0])],
            Operator::Dgrad => [copy(pixels, padded[1]), copy(p.k * taps, padded[0])],
            Operator::Wgrad => [copy(x_rows, padded[0]), copy(pixels, padded[1])],
        };
        let part = match (pass, statistics) {
            (Operator::Wgrad, _) if sums_after => splits * p.k * taps * c_row_group * 4,
            (Operator::Fprop, Some(_)) => groups * with_parts(row_tiles) * 2 * p.k * 4,
            (Operator::Dgrad, Some(_)) => groups * with_parts(classes * row_tiles) * 2 * p.c * 4,
            _ => 0,
        };
        for (what, elements) in [
            ("x", x_rows * c_row.max(p.c)),
            ("y", pixels * k_row.max(p.k)),
            ("w", p.k * taps * c_row_group),
            ("y", p.n * p.out.iter().product::<usize>() * p.k),
        ] {
            if elements >= 1 << 31 {
                return Err(Error::param("conv3d", what, elements, "a GPU's kernels take fewer than 2³¹ elements"));
            }
        }
        let across = [groups * row_tiles * column_tiles, splits * classes, p.geometry.groups];
        let spread = Spread { grid: across.map(|v| v as u32), block: [threads, 1, 1], shared };
        Ok(Plan { path, tile: [bm, bn], entry, spread, splits, sums_after, padded, space: [first, second, part], conv })
    }

    /// Of a pass with statistics: the parts of the samples, and the number of rows of tiles of each, which all write sums.
    pub(super) fn statistics_tiles(&self) -> [usize; 2] {
        let [across, classes, _] = self.spread.grid;
        let of_group = self.conv.group_tiles;
        [across / (of_group * self.conv.column_tiles), of_group * classes].map(|v| v as usize)
    }

    /// Bytes of working space in total.
    pub fn workspace(&self) -> usize {
        self.space.iter().sum()
    }
}

/// Extents of the largest residue class of inputs modulo the stride.
fn largest_class(p: &Conv3d) -> [usize; 3] {
    [0, 1, 2].map(|a| p.input[a].div_ceil(p.geometry.window.stride[a]))
}

/// Blocks that the busiest multiprocessor computes one after another; `times`: the number of such products.
fn waves(tile: &Tile, rows: usize, columns: usize, times: usize) -> usize {
    (tile.tiles(rows, columns).iter().product::<usize>() * times).div_ceil(PROCESSORS)
}

/// How the reduction of wgrad, which is over pixels, is divided among blocks.
struct Split {
    /// Pixels of one block.
    size: usize,
    /// Number of such parts. Each writes partial sums, which are added afterwards if there are several.
    count: usize,
    /// Time until the busiest multiprocessor is done, and the partial sums are added, in multiply-adds.
    cost: usize,
}

/// The division of `pixels` that finishes first with this tile, of which a pixel takes `step`, among those of at most four blocks a multiprocessor.
fn split(tile: &Tile, step: usize, rows: usize, columns: usize, times: usize, pixels: usize) -> Split {
    let tiles = tile.tiles(rows, columns).iter().product::<usize>() * times;
    let most = (4 * PROCESSORS / tiles.max(1)).min(pixels.div_ceil(8 * DEPTH)).max(1);
    let divided = |wanted: usize| {
        let size = pixels.div_ceil(wanted).next_multiple_of(DEPTH).max(DEPTH);
        let count = pixels.div_ceil(size).max(1);
        let products = waves(tile, rows, columns, times * count) * size * step;
        // A sum is written and read: eight bytes, which are four elements. All multiprocessors share this work.
        let sums = if count > 1 { (count * rows * columns * times * 4 * BALANCE).div_ceil(PROCESSORS) } else { 0 };
        Split { size, count, cost: products + sums }
    };
    (2..=most).map(divided).fold(divided(1), |best, next| if next.cost < best.cost { next } else { best })
}

#[cfg(test)]
mod tests {
    use super::super::super::Geometry;
    use super::*;
    use crate::rng::{Purpose, stream};
    use crate::shape::Window;
    use rand::RngExt;

    /// The range of tile number `tile` over `extent`, in tiles of `size`.
    fn range(tile: usize, size: usize, extent: usize) -> std::ops::Range<usize> {
        (tile * size).min(extent)..((tile + 1) * size).min(extent)
    }

    /// How often each element of the kernel's result is written, by the index arithmetic of the kernels. wgrad writes
    /// one result per split, each of which must read its pixels once.
    fn written(p: &Conv3d, pass: Operator, plan: &Plan) -> Vec<u32> {
        let [bm, bn] = plan.tile;
        let [tiles, second, groups] = plan.spread.grid.map(|v| v as usize);
        let (conv, stride) = (&plan.conv, p.geometry.window.stride);
        let width = p.taps() * if plan.path == Path::Exact { p.c_group() } else { conv.c_row as usize };
        let (size, columns) = match pass {
            Operator::Fprop => (p.y_shape().len(), p.k_group()),
            Operator::Dgrad => (p.x_shape().len(), p.c_group()),
            Operator::Wgrad => (plan.splits * p.k * width, width),
        };
        let mut counts = vec![0; size];
        for (x, y, z) in (0..tiles * second * groups).map(|i| (i % tiles, i / tiles % second, i / tiles / second)) {
            let (tile, column) = (x / conv.column_tiles as usize, x % conv.column_tiles as usize);
            let (part, within) = (tile / conv.group_tiles as usize, tile % conv.group_tiles as usize);
            let residue = [y / (stride[1] * stride[2]), y / stride[2] % stride[1], y % stride[2]];
            let class = [0, 1, 2].map(|a| (p.input[a] + stride[a] - 1).saturating_sub(residue[a]) / stride[a]);
            let rows = match pass {
                Operator::Fprop => conv.group_rows as usize,
                Operator::Dgrad => conv.group_rows as usize * class.iter().product::<usize>(),
                Operator::Wgrad => p.k_group(),
            };
            for m in range(within, bm, rows).map(|m| part * rows + m) {
                let row = match pass {
                    Operator::Fprop => m * p.k,
                    Operator::Wgrad => (y * p.k + z * p.k_group() + m) * width,
                    Operator::Dgrad => {
                        let at = [m / class[2] / class[1] % class[0], m / class[2] % class[1], m % class[2]];
                        let at = [0, 1, 2].map(|a| at[a] * stride[a] + residue[a]);
                        let n = m / class.iter().product::<usize>();
                        (((n * p.input[0] + at[0]) * p.input[1] + at[1]) * p.input[2] + at[2]) * p.c
                    }
                };
                let group = if pass == Operator::Wgrad { 0 } else { z * columns };
                range(column, bn, columns).for_each(|n| counts[row + group + n] += 1);
            }
        }
        counts
    }

    /// A random convolution whose filter fits.
    fn problem(rng: &mut impl RngExt) -> Conv3d {
        loop {
            let mut any = |most: usize| rng.random_range(1..=most);
            let (n, groups, cg, kg) = (any(4), any(3), any(140), any(140));
            let [input, kernel, stride] = [21, 3, 4].map(|most| [0; 3].map(|_| any(most)));
            let [pad, dilation] = [4, 2].map(|most| [0; 3].map(|_| any(most)));
            let window = Window { stride, pad: pad.map(|p| p - 1), dilation };
            let x = [n, input[0], input[1], input[2], cg * groups];
            let w = [kg * groups, kernel[0], kernel[1], kernel[2], cg];
            let geometry = Geometry { groups, ..Geometry::new(window) };
            if let Ok(p) = Conv3d::new("conv3d", x.into(), w.into(), &geometry) {
                return p;
            }
        }
    }

    /// The problem of `n` clips of 8 frames and `side` pixels, `c` to `k` channels.
    fn layer(side: usize, c: usize, k: usize, kernel: [usize; 3]) -> Conv3d {
        let [kt, kh, kw] = kernel;
        let geometry = Geometry::new(Window::same(kernel));
        Conv3d::new("conv3d", [64, 8, side, side, c].into(), [k, kt, kh, kw, c].into(), &geometry).unwrap()
    }

    #[test]
    fn wgrad_takes_the_tile_that_reads_least_and_fills_the_processors_by_splitting() {
        // Layers of SlowOnly-R50, 64 clips: stage, channels, kernel.
        for (side, c, k, kernel, tile) in [
            (56, 64, 64, [1, 3, 3], [64, 256]),
            (56, 64, 256, [1, 1, 1], [128, 128]),
            (28, 128, 128, [1, 3, 3], [128, 256]),
            (28, 512, 128, [1, 1, 1], [128, 256]),
            (14, 256, 256, [1, 3, 3], [128, 256]),
            (14, 1024, 256, [3, 1, 1], [128, 256]),
            (7, 512, 512, [1, 3, 3], [128, 256]),
            (7, 2048, 512, [3, 1, 1], [128, 256]),
        ] {
            let p = layer(side, c, k, kernel);
            let plan = Plan::new(&p, Operator::Wgrad, DType::BF16).unwrap();
            assert_eq!(plan.tile, tile, "{c} to {k} at {side}");
            // Of these layers no more than a quarter may be lost to unequal shares: what the busiest multiprocessor computes
            // against an equal share of the padded tiles.
            let [tiles, splits, _] = plan.spread.grid.map(|v| v as usize);
            let busiest = (tiles * splits).div_ceil(PROCESSORS) * plan.conv.split as usize * PROCESSORS;
            let pixels = p.n * p.out.iter().product::<usize>();
            assert!(busiest <= tiles * pixels * 5 / 4, "{c} to {k} at {side}: {busiest} of {}", tiles * pixels);
        }
    }

    #[test]
    fn every_element_is_written_once() {
        for case in 0..64 {
            let p = problem(&mut stream(case, 0, 0, Purpose::Test));
            for pass in [Operator::Fprop, Operator::Dgrad, Operator::Wgrad] {
                let mut plans =
                    vec![Plan::new(&p, pass, DType::F32).unwrap(), Plan::new(&p, pass, DType::BF16).unwrap()];
                plans.extend((0..4).filter_map(|tile| Plan::with_tile(&p, pass, DType::BF16, tile).unwrap()));
                if pass != Operator::Wgrad && p.geometry.groups == 1 {
                    plans.push(Plan::with_statistics(&p, pass, DType::BF16, p.n).unwrap());
                }
                for plan in plans {
                    assert!(written(&p, pass, &plan).iter().all(|&n| n == 1), "{pass:?} of {p:?}: {plan:?}");
                    let pixels = p.n * p.out.iter().product::<usize>();
                    if pass == Operator::Wgrad {
                        let split = plan.conv.split as usize;
                        assert!(plan.splits * split >= pixels && (plan.splits - 1) * split < pixels);
                    }
                }
            }
        }
    }
}
