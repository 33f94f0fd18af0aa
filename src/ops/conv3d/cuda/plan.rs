//! How a pass is divided into blocks and which kernel computes them: pure functions of the problem.

use super::super::{Conv3d, Operator};
use super::halo::{self, Halo};
use super::problem::Conv;
use super::reuse::Gather;
use super::rows;
use super::stem::{self, Stem};
pub use super::tiles::Path;
use super::tiles::{PROCESSORS, Product, Split, Tile, tiles};
use super::windows;
use crate::driver::{Gpu, Spread};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// The compute capability of devices with TMA and wgmma.
pub(super) const HOPPER: (u32, u32) = (9, 0);

/// Which instructions the kernels may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// `mma.sync`: compute capability 8.0 and newer.
    Ampere,
    /// TMA and wgmma beside it, with operands that begin where a pattern of the swizzle does: compute capability 9.0.
    HopperWithoutHalos,
    /// The same, with operands that begin at any row.
    Hopper,
}

impl Generation {
    /// That of a device. A Hopper is asked once whether the kernels with halos compute the right numbers there, which waits for
    /// the answer.
    #[must_use]
    pub fn of(gpu: &Gpu) -> Generation {
        if gpu.compute_capability() != HOPPER {
            return Generation::Ampere;
        }
        let right = gpu.once(|| Ok(rows::ask(gpu)?.anywhere()));
        if right { Generation::Hopper } else { Generation::HopperWithoutHalos }
    }
}

/// How one pass is launched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The kernels.
    pub path: Path,
    /// Rows and columns of the result that one block computes.
    pub tile: [usize; 2],
    /// Blocks of a cluster, whose tiles are one above the other. The grid has whole clusters.
    pub cluster: usize,
    /// Index of the kernel with that tile among the kernels of the path and the pass.
    pub entry: usize,
    /// Its number among all tiles that can compute the pass.
    pub candidate: usize,
    /// Blocks, threads, shared memory.
    pub spread: Spread,
    /// Tiles of all blocks of one launch. With wgmma each block computes several of them, one after another, and there is
    /// a launch for each residue class of dgrad; elsewhere a block computes one.
    pub tiles: usize,
    /// Of a pass with statistics: the parts of the samples, and the number of rows of tiles of each, which all write
    /// sums.
    pub sums: [usize; 2],
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
    /// Those of the path [`Path::Halo`].
    pub halo: Option<Halo>,
    /// Those of the path [`Path::Packed`].
    pub stem: Option<Stem>,
}

/// Maximum size of a grid in its second dimension, in which dgrad has one block per residue class modulo the stride.
const MOST_CLASSES: usize = 65535;

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
    pub fn new(p: &Conv3d, pass: Operator, dtype: DType, on: Generation) -> Result<Plan> {
        Plan::cut(p, pass, dtype, on, None, None)
    }

    /// The same for a pass that also computes statistics, over `groups` equal parts of the samples: tiles then do not
    /// cross the boundaries of parts. Not on the exact path.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn with_statistics(p: &Conv3d, pass: Operator, dtype: DType, on: Generation, groups: usize) -> Result<Plan> {
        Plan::cut(p, pass, dtype, on, Some(groups), None)
    }

    /// As [`Plan::new`], with tile number `tile` of those that can compute it instead of the cheapest, and tiles that do not
    /// cross the boundaries of `groups` parts of the samples; `None` if there is no such tile.
    ///
    /// # Errors
    /// As [`Plan::new`].
    #[cfg(any(test, feature = "testing"))]
    pub fn with_tile(
        p: &Conv3d,
        pass: Operator,
        dtype: DType,
        on: Generation,
        tile: usize,
        groups: Option<usize>,
    ) -> Result<Option<Plan>> {
        let plan = Plan::cut(p, pass, dtype, on, groups, Some(tile))?;
        Ok((plan.candidate == tile).then_some(plan))
    }

    fn cut(
        p: &Conv3d,
        pass: Operator,
        dtype: DType,
        on: Generation,
        statistics: Option<usize>,
        tile: Option<usize>,
    ) -> Result<Plan> {
        let groups = statistics.unwrap_or(1);
        let paths = paths(p, pass, dtype, on);
        let exact = paths[0] == Path::Exact;
        let row = |c: usize| if exact { c } else { c.next_multiple_of(8) };
        let (c_row, k_row) = (if paths[0] == Path::Stem { 4 } else { row(p.c) }, row(p.k));
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
        let times = groups * classes * p.geometry.groups;
        let w = &p.geometry.window;
        let channels = if pass == Operator::Dgrad { k_row } else { c_row };
        let (input, out, kernel) = (p.input, p.out, p.kernel);
        let gather = Gather { pass, input, out, kernel, stride: w.stride, dilation: w.dilation, channels };
        let product = |path: Path| {
            let (rows, columns) = match pass {
                Operator::Fprop => (pixels / groups, p.k_group()),
                Operator::Dgrad => (p.n / groups * largest_class(p).iter().product::<usize>(), p.c_group()),
                Operator::Wgrad if path == Path::Warpgroup => (p.k_group(), taps * c_row.next_multiple_of(64)),
                Operator::Wgrad => (p.k_group(), taps * c_row_group),
            };
            Product { problem: p, path, gather, samples: p.n / groups, rows, columns, times }
        };
        let candidates: Vec<(Product, usize, &Tile)> = paths
            .iter()
            .flat_map(|&path| tiles(path, pass).iter().enumerate().map(move |(entry, tile)| (path, entry, tile)))
            .map(|(path, entry, tile)| (product(path), entry, tile))
            .filter(|(of, _, tile)| of.path != Path::Halo || tile.halo(of).is_some())
            .filter(|(of, _, tile)| of.path != Path::Packed || tile.stem(of).is_some())
            // Each of several launches reads dy from memory, which costs more than pairs save.
            .filter(|(_, _, tile)| tile.4 == 1 || classes == 1)
            .collect();
        // Of equals one whose operands are copied by TMA, so that no warp that multiplies computes addresses, unless it takes
        // several launches; of those the smallest, which computes the least outside of the result. Of stems fewer tiles do so,
        // and then the first one, whose products read the fewest operands.
        let cost = |i: &usize| {
            let (of, _, t) = &candidates[*i];
            let outside = if of.path == Path::Packed { t.tiles(of)[0] } else { t.0 * t.1 };
            (t.divide(of, pixels).cost, of.path == Path::Dense && classes == 1, outside)
        };
        let best = || (0..candidates.len()).min_by_key(cost).unwrap_or(0);
        let chosen = tile.filter(|tile| *tile < candidates.len()).unwrap_or_else(best);
        let (of, entry, tile) = &candidates[chosen];
        let &Tile(bm, bn, threads, shared, cluster) = *tile;
        let ([row_tiles, column_tiles], halo, stem) = (tile.tiles(of), tile.halo(of), tile.stem(of));
        let launched = if halo.is_some() { halo::flat(p) } else { *p };
        let mut conv = Conv::new(&launched, pass == Operator::Dgrad);
        let Split { size, count: splits, .. } = tile.divide(of, pixels);
        if pass == Operator::Wgrad {
            // With halos, in units of lines.
            conv.split = halo.map_or(size, |halo| size / halo.units(p)[0]) as u32;
        }
        (conv.c_row, conv.k_row, conv.column_tiles) = (c_row as u32, k_row as u32, column_tiles as u32);
        let group_rows = if pass == Operator::Dgrad { p.n / groups } else { of.rows };
        (conv.group_tiles, conv.group_rows) = (row_tiles as u32, group_rows as u32);

        let padded = [(c_row != p.c && !exact).then_some(c_row), (k_row != p.k && !exact).then_some(k_row)];
        // With stems on Hopper, each consumer of a block writes sums of its own.
        let writers = if stem.is_some() { stem::CONSUMERS } else { 1 };
        let across = groups * row_tiles * column_tiles * splits;
        let splits = if pass == Operator::Wgrad { splits * writers } else { splits };
        let sums_after = splits > 1 || (pass == Operator::Wgrad && padded[0].is_some());
        let copy = |rows: usize, channels: Option<usize>| channels.map_or(0, |c| (rows * c * 2).next_multiple_of(256));
        let x_rows = p.n * p.input.iter().product::<usize>();
        let [first, second] = match pass {
            Operator::Fprop if stem.is_some() => [stem::pixel_space(p), stem::filter_space(p)],
            Operator::Wgrad if stem.is_some() => [stem::pixel_space(p), copy(pixels, padded[1])],
            Operator::Fprop => [copy(x_rows, padded[0]), copy(p.k * taps, padded[0])],
            Operator::Dgrad => [copy(pixels, padded[1]), copy(p.k * taps, padded[0])],
            Operator::Wgrad => [copy(x_rows, padded[0]), copy(pixels, padded[1])],
        };
        let sums = [groups, row_tiles * classes * writers];
        let part = match (pass, statistics) {
            (Operator::Wgrad, _) if sums_after => splits * p.k * taps * c_row_group * 4,
            (Operator::Fprop, Some(_)) => groups * with_parts(sums[1]) * 2 * p.k * 4,
            (Operator::Dgrad, Some(_)) => groups * with_parts(sums[1]) * 2 * p.c * 4,
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
        let (tiles, grid) = if let Path::Warpgroup | Path::Halo | Path::Packed = of.path {
            (across, [across.min(PROCESSORS), 1, 1])
        } else {
            let parts = splits * classes;
            (across * classes * p.geometry.groups, [across / splits, parts, p.geometry.groups])
        };
        let spread = Spread { grid: grid.map(|v| v as u32), block: [threads, 1, 1], shared };
        let (path, tile, entry, space) = (of.path, [bm, bn], *entry, [first, second, part]);
        Ok(Plan {
            path,
            tile,
            cluster,
            entry,
            candidate: chosen,
            spread,
            tiles,
            sums,
            splits,
            sums_after,
            padded,
            space,
            conv,
            halo,
            stem,
        })
    }

    /// Bytes of working space in total.
    pub fn workspace(&self) -> usize {
        self.space.iter().sum()
    }
}

/// The kernels that can compute a pass: one sort, or those of Hopper beside those for all devices.
fn paths(p: &Conv3d, pass: Operator, dtype: DType, on: Generation) -> Vec<Path> {
    if dtype == DType::F32 || p.geometry.groups > 1 {
        return vec![Path::Exact];
    }
    if p.c <= 4 && pass != Operator::Dgrad {
        return if on == Generation::Ampere { vec![Path::Stem] } else { vec![Path::Stem, Path::Packed] };
    }
    let warpgroup = on != Generation::Ampere && windows::fit(p, pass);
    let halo = on == Generation::Hopper;
    let all = [Some(Path::Dense), warpgroup.then_some(Path::Warpgroup), halo.then_some(Path::Halo)];
    all.into_iter().flatten().collect()
}

/// Extents of the largest residue class of inputs modulo the stride.
fn largest_class(p: &Conv3d) -> [usize; 3] {
    [0, 1, 2].map(|a| p.input[a].div_ceil(p.geometry.window.stride[a]))
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
        let (conv, stride) = (&plan.conv, p.geometry.window.stride);
        let [mut tiles, mut second, groups] = plan.spread.grid.map(|v| v as usize);
        if plan.path == Path::Warpgroup {
            // A persistent grid: in wgrad splits follow each other, and dgrad has a launch for each class.
            let classes = if pass == Operator::Dgrad { stride.iter().product() } else { 1 };
            (tiles, second) = (plan.tiles / plan.splits, plan.splits * classes);
        }
        // Of wgrad with wgmma, columns are in blocks of 64 channels of a tap.
        let blocks = (conv.c_row as usize).next_multiple_of(64);
        let width = p.taps() * if plan.path == Path::Exact { p.c_group() } else { conv.c_row as usize };
        let (size, columns) = match pass {
            Operator::Fprop => (p.y_shape().len(), p.k_group()),
            Operator::Dgrad => (p.x_shape().len(), p.c_group()),
            Operator::Wgrad => (plan.splits * p.k * width, width),
        };
        let mut counts = vec![0; size];
        for (x, y, z) in (0..tiles * second * groups).map(|i| (i % tiles, i / tiles % second, i / tiles / second)) {
            // Blocks of a cluster follow each other, and their tiles are one above the other.
            let (across, down) = (x / plan.cluster, x % plan.cluster);
            let (tile, column) = (across / conv.column_tiles as usize, across % conv.column_tiles as usize);
            let tile = tile * plan.cluster + down;
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
                if plan.path == Path::Warpgroup && pass == Operator::Wgrad {
                    for n in range(column, bn, p.taps() * blocks).filter(|n| n % blocks < conv.c_row as usize) {
                        counts[row + n / blocks * conv.c_row as usize + n % blocks] += 1;
                    }
                    continue;
                }
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
            let plan = Plan::new(&p, Operator::Wgrad, DType::BF16, Generation::Ampere).unwrap();
            assert_eq!(plan.tile, tile, "{c} to {k} at {side}");
            // Of these layers no more than a quarter may be lost to unequal shares: what the busiest multiprocessor computes
            // against an equal share of the padded tiles.
            let [tiles, splits, _] = plan.spread.grid.map(|v| v as usize);
            let busiest = (tiles * splits).div_ceil(PROCESSORS) * plan.conv.split as usize * PROCESSORS;
            let pixels = p.n * p.out.iter().product::<usize>();
            assert!(busiest <= tiles * pixels * 5 / 4, "{c} to {k} at {side}: {busiest} of {}", tiles * pixels);
        }
    }

    /// Nothing of such an input is computed, but programs ask for its working space.
    #[test]
    fn an_input_of_padding_alone_has_a_plan() {
        for kernel in [[1, 3, 3], [3, 1, 1], [1, 1, 1]] {
            let window = Window { pad: [2; 3], ..Window::same(kernel) };
            let [kt, kh, kw] = kernel;
            let p = Conv3d::new("conv3d", [1, 0, 0, 0, 8].into(), [8, kt, kh, kw, 8].into(), &Geometry::new(window))
                .unwrap();
            for pass in [Operator::Fprop, Operator::Dgrad, Operator::Wgrad] {
                for on in [Generation::Ampere, Generation::Hopper] {
                    Plan::new(&p, pass, DType::BF16, on).unwrap();
                }
            }
        }
    }

    #[test]
    fn every_element_is_written_once() {
        for case in 0..64 {
            let p = problem(&mut stream(case, 0, 0, Purpose::Test));
            for pass in [Operator::Fprop, Operator::Dgrad, Operator::Wgrad] {
                let on = Generation::Hopper;
                let mut plans = vec![Plan::new(&p, pass, DType::F32, on).unwrap()];
                plans.extend((0..16).map_while(|tile| Plan::with_tile(&p, pass, DType::BF16, on, tile, None).unwrap()));
                if pass != Operator::Wgrad && p.geometry.groups == 1 {
                    plans.extend(
                        [Generation::Ampere, on]
                            .map(|on| Plan::with_statistics(&p, pass, DType::BF16, on, p.n).unwrap()),
                    );
                }
                // Kernels that cut frames skip positions; the simulator holds that they write everything.
                plans.retain(|plan| plan.halo.is_none() && plan.stem.is_none());
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
