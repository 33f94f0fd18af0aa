//! How the flow of a batch is computed on a GPU: pure functions of its extents.

use super::super::{Tvl1, coarser, levels, size_fits};
use crate::error::{Error, Result};

/// Side of a tile in pixels.
const SIDE: usize = 64;
/// Maximum number of iterations per launch: one per lane of the warp that checks their changes.
pub(super) const MOST: usize = 32;
/// Maximum number of iterations per load of the planes where an image has several tiles: a quarter of a tile's side then
/// remains after the halo.
const MOST_PER_LOAD: usize = 24;
/// The least that a plan chooses: pairs that have stopped still take every launch.
const LEAST_PER_LOAD: usize = 8;
/// The number of multiprocessors that halos are chosen for: that of an H100 or H200, each with one block. Results do not
/// depend on it.
const PROCESSORS: usize = 132;
/// What a launch costs besides its iterations, in iterations of one block: reading and writing the planes of a tile, and
/// the time between two launches. Assumed, not measured.
const LOAD: usize = 5;
const GAP: usize = 3;

/// One level of the plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedLevel {
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Row pitch of the solver's planes in numbers.
    pub pitch: usize,
    /// Number of tiles down and across.
    pub tiles: [usize; 2],
    /// Pixels that a tile reads beyond those it writes, on each side.
    pub halo: usize,
    /// Iterations of a launch that begins with the median, if there is one, and of the launches after it.
    pub most: [usize; 2],
    /// Offsets of the images (of coarser levels), all first ones before all second ones, and of the flow in the workspace.
    pub(super) images: usize,
    pub(super) flow: usize,
}

impl PlannedLevel {
    /// Numbers per plane.
    pub(super) fn size(&self) -> usize {
        self.h * self.pitch
    }

    /// Along one axis (0: down, 1: across), the first pixel that tile `i` reads, and the range of pixels that it
    /// writes.
    #[must_use]
    pub fn tile(&self, axis: usize, i: usize) -> (usize, std::ops::Range<usize>) {
        let from = i * (SIDE - 2 * self.halo);
        let end = if axis == 0 { self.h } else { self.pitch };
        let first = if i == 0 { 0 } else { from + self.halo };
        (from, first..if i + 1 == self.tiles[axis] { end } else { from + SIDE - self.halo })
    }

    /// Iterations of each launch between two medians, `inner` in all.
    pub fn launches(&self, inner: usize) -> impl Iterator<Item = usize> + use<> {
        let [first, most] = self.most;
        let (mut left, mut next) = (inner, first);
        std::iter::from_fn(move || {
            let count = left.min(next);
            (left, next) = (left - count, most);
            (count > 0).then_some(count)
        })
    }

    /// Bytes that one launch of iterations loads and stores: ten planes read with the overlap, six written, for `pairs`
    /// pairs.
    #[must_use]
    pub fn bytes(&self, pairs: usize) -> u64 {
        let read = |axis: usize, n: usize| -> usize {
            (0..self.tiles[axis]).map(|i| (self.tile(axis, i).0 + SIDE).min(n) - self.tile(axis, i).0).sum()
        };
        4 * (pairs * (10 * read(0, self.h) * read(1, self.pitch) + 6 * self.size())) as u64
    }
}

/// How the flow of a batch is computed: levels, tiles, and the layout of the workspace.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Number of pairs.
    pub pairs: usize,
    /// The levels, the finest first.
    pub levels: Vec<PlannedLevel>,
    pub(super) dual: usize,
    pub(super) fixed: usize,
    pub(super) packed: usize,
    pub(super) state: usize,
    pub(super) change: [usize; 2],
    bytes: usize,
}

fn tiles(n: usize, halo: usize) -> usize {
    if n <= SIDE { 1 } else { 1 + (n - SIDE).div_ceil(SIDE - 2 * halo) }
}

/// How a level is cut for `per_load` iterations (1 to [`MOST_PER_LOAD`]) per load of the planes: tiles, halo, iterations
/// per launch. The median takes half its window of the halo.
fn cut(h: usize, w: usize, p: &Tvl1, per_load: usize) -> ([usize; 2], usize, [usize; 2]) {
    let halo = per_load.next_multiple_of(4);
    let tiles = [tiles(h, halo), tiles(w, halo)];
    let most =
        if tiles == [1, 1] { [MOST.min(4 * per_load); 2] } else { [per_load.min(halo - p.median / 2), per_load] };
    (tiles, halo, most.map(|n| n.min(p.inner_iterations)))
}

/// The iterations per load with which the launches between two medians are done first.
fn best_per_load(pairs: usize, h: usize, w: usize, p: &Tvl1) -> usize {
    let time = |per_load: usize| {
        let (tiles, _, [first, most]) = cut(h, w, p, per_load);
        let launches = 1 + (p.inner_iterations - first).div_ceil(most);
        let waves = (tiles[0] * tiles[1] * pairs).div_ceil(PROCESSORS);
        waves * (p.inner_iterations + launches * LOAD) + launches * GAP
    };
    (LEAST_PER_LOAD..=MOST_PER_LOAD).step_by(4).min_by_key(|&n| time(n)).unwrap_or(LEAST_PER_LOAD)
}

impl Plan {
    /// A plan for `pairs` pairs of `h w` pixels.
    ///
    /// # Errors
    /// `Param` when a parameter is out of range; `Shape` when an image is smaller than 3x3 or there is too much for one batch.
    pub fn new(pairs: usize, h: usize, w: usize, p: &Tvl1) -> Result<Plan> {
        Self::cut(pairs, h, w, p, None)
    }

    /// The same with `per_load` iterations (1 to 24) per load of the planes of an image of several tiles; results do
    /// not depend on it.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn with_iterations(pairs: usize, h: usize, w: usize, p: &Tvl1, per_load: usize) -> Result<Plan> {
        if !(1..=MOST_PER_LOAD).contains(&per_load) {
            return Err(Error::param("tvl1", "iterations", per_load, "it must be from 1 to 24"));
        }
        Self::cut(pairs, h, w, p, Some(per_load))
    }

    fn cut(pairs: usize, h: usize, w: usize, p: &Tvl1, per_load: Option<usize>) -> Result<Plan> {
        p.check()?;
        if !size_fits(h, w) || h > 65535 || pairs == 0 || pairs > 16383 {
            let rule =
                "1 to 16383 pairs of at least 3x3 and at most 2^28 pixels, in at most 65535 rows and 2^22 columns";
            return Err(Error::shape("tvl1", "a", rule, format!("{pairs} of {h}x{w}")));
        }
        let mut bytes = 0;
        let mut take = |numbers: usize| {
            let at = bytes;
            bytes += (4 * numbers).next_multiple_of(256);
            at
        };
        let (mut levels_of_plan, mut extents) = (Vec::new(), (h, w));
        for level in 0..levels(h, w, p) {
            if level > 0 {
                extents = (coarser(extents.0, p), coarser(extents.1, p));
            }
            let (h, w) = extents;
            let image = if level > 0 { pairs * h * w } else { 0 };
            let pitch = w.next_multiple_of(8);
            let (tiles, halo, most) = cut(h, w, p, per_load.unwrap_or_else(|| best_per_load(pairs, h, w, p)));
            let flow = take(pairs * 4 * h * pitch);
            let images = take(2 * image);
            levels_of_plan.push(PlannedLevel { h, w, pitch, tiles, halo, most, images, flow });
        }
        let (size, pixels) = (h * w.next_multiple_of(8), h * w);
        let most_tiles = levels_of_plan.iter().map(|l| l.tiles[0] * l.tiles[1]).max().unwrap_or(1);
        let dual = take(pairs * 8 * size);
        let fixed = take(pairs * 4 * size);
        let packed = take(pairs * 4 * pixels);
        let state = take(2 * pairs.next_multiple_of(4));
        let change = [take(pairs * most_tiles * MOST), take(pairs * most_tiles * MOST)];
        Ok(Plan { pairs, levels: levels_of_plan, dual, fixed, packed, state, change, bytes })
    }

    /// Bytes of working memory that [`launch`](super::launch) needs.
    #[must_use]
    pub fn workspace(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    #[test]
    fn tiles_write_every_pixel_once_and_read_what_it_takes() {
        for case in 0..256 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let [h, w] = [0; 2].map(|_| rng.random_range(3..700));
            let (per_load, inner) = (rng.random_range(1..=24), rng.random_range(1..60));
            let median = [1, 3, 5][rng.random_range(0..3)];
            let p = Tvl1 { inner_iterations: inner, median, ..Tvl1::default() };
            let chosen = Plan::new(rng.random_range(1..40), h, w, &p).unwrap();
            let plan = Plan::with_iterations(2, h, w, &p, per_load).unwrap();
            for l in plan.levels.iter().chain(&chosen.levels) {
                let [first, most] = l.most;
                let reach = most.max(first + median / 2);
                for (axis, n) in [(0, l.h), (1, l.pitch)] {
                    let mut next = 0;
                    for i in 0..l.tiles[axis] {
                        let (from, own) = l.tile(axis, i);
                        assert!(own.start == next && own.end > own.start && own.end <= n);
                        assert!(from + SIDE >= own.end && from <= own.start);
                        // Away from the image's edges, a result is correct if it is at least `reach` pixels inside the
                        // region that is read.
                        assert!(from == 0 || own.start - from >= reach);
                        let end = if axis == 0 { l.h } else { l.w };
                        assert!(from + SIDE >= end || from + SIDE - own.end >= reach);
                        next = own.end;
                    }
                    assert_eq!(next, n);
                }
                assert!(1 <= first && first <= most && most <= MOST && most <= inner);
                assert_eq!(l.launches(inner).sum::<usize>(), inner);
                assert!(l.launches(inner).skip(1).all(|n| n <= most) && l.launches(inner).next() == Some(first));
            }
        }
    }
}
