//! A crop that keeps motion: one box for all frames of a clip, chosen by its motion map (`docs/papers/mcl.md` section
//! 1.5).

use super::{AugmentSpec, Crop};
use rand::{Rng, RngExt};

/// Fraction of a map's cells that count as moving.
const TOP: f64 = 0.1;
/// Number of sizes tried.
const SIZES: usize = 20;
/// Number of positions tried per size.
const PLACES: usize = 40;

/// The part of a frame with the most motion: the bounding box of the map's top tenth of cells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// The box, in cells.
    pub cells: Crop,
    /// Cells of the map, rows and columns.
    pub grid: [usize; 2],
    /// Coverage of the box required of a crop, the product of the covered fractions of height and width: 0.9, 0.8 or
    /// 0.7, less for a larger box.
    pub coverage: f64,
}

impl Region {
    /// The region of `map`, `rows cols`; `None` if there is nothing to keep: the box has more than 12 of 49 cells, or
    /// the map is not informative. That is the case if its maximum is not above `still`, or if the cells of the top
    /// tenth are no larger than those after them; if the end of the top tenth is tied, none of the tied cells counts,
    /// so that a mirrored map has the mirrored region.
    ///
    /// With `legacy`, as in the released code: `still` is ignored, and of equal cells the last ones count, so that a
    /// map of zeros has a region of four cells at the bottom right.
    #[must_use]
    pub fn of(map: &[f32], grid: [usize; 2], still: f32, legacy: bool) -> Option<Region> {
        let [rows, cols] = grid;
        let cells = rows * cols;
        if cells == 0 || map.len() != cells {
            return None;
        }
        let top = ((TOP * cells as f64 + 1e-9) as usize).max(1);
        let mut order: Vec<usize> = (0..cells).collect();
        order.sort_by(|&a, &b| map[b].total_cmp(&map[a]).then(b.cmp(&a)));
        let mut chosen = &order[..top];
        if !legacy {
            let next = order.get(top).map_or(f32::NEG_INFINITY, |&i| map[i]);
            let above = order.iter().take_while(|&&i| map[i] > next).count().min(top);
            // `>` is false for NaN.
            let moves = map[order[0]] > still;
            chosen = if moves { &order[..above] } else { &[] };
        }
        let bounds = |at: &dyn Fn(usize) -> usize| {
            let first = chosen.iter().map(|&i| at(i)).min()?;
            Some((first, chosen.iter().map(|&i| at(i)).max()? + 1 - first))
        };
        let ((y, h), (x, w)) = (bounds(&|i| i / cols)?, bounds(&|i| i % cols)?);
        // The thresholds are those for 49 cells.
        let coverage = match h * w * 49 {
            c if c <= 4 * cells => 0.9,
            c if c <= 8 * cells => 0.8,
            c if c <= 12 * cells => 0.7,
            _ => return None,
        };
        Some(Region { cells: Crop { y, x, h, w }, grid, coverage })
    }

    /// The box in pixels of a frame `h w`: top and bottom, left and right.
    fn pixels(&self, h: usize, w: usize) -> [[f64; 2]; 2] {
        let [down, across] = [h as f64 / self.grid[0] as f64, w as f64 / self.grid[1] as f64];
        let Crop { y, x, h, w } = self.cells;
        [[y as f64 * down, (y + h) as f64 * down], [x as f64 * across, (x + w) as f64 * across]]
    }

    /// The fraction of the region that `crop` covers in a frame `h w`: of its height times of its width.
    #[must_use]
    pub fn covered(&self, crop: &Crop, h: usize, w: usize) -> f64 {
        let [rows, cols] = self.pixels(h, w);
        let share = |[from, to]: [f64; 2], start: usize, length: usize| {
            let inside = to.min((start + length) as f64) - from.max(start as f64);
            inside.max(0.0) / (to - from)
        };
        share(rows, crop.y, crop.h) * share(cols, crop.x, crop.w)
    }

    /// A random crop of a frame `h w` that covers the region: a size of random area and aspect ratio as for any crop
    /// (twenty attempts), at the first of forty random positions with enough coverage. If there is none, the crop is
    /// centred on the region as far as the frame permits, which is the best coverage for that size; with `legacy`, the
    /// best of the forty positions. If no size fits, the crop extends from a corner of the region to a random point
    /// beyond the opposite corner.
    pub fn crop(&self, rng: &mut impl Rng, spec: &AugmentSpec, [h, w]: [usize; 2], legacy: bool) -> Crop {
        for _ in 0..SIZES {
            if let Some([height, width]) = Crop::size(rng, spec, h, w) {
                return self.place(rng, [height, width], [h, w], legacy);
            }
        }
        let [[top, bottom], [left, right]] = self.pixels(h, w);
        let [top, left] = [top, left].map(|v| v.floor() as usize);
        let (bottom, right) = ((bottom.ceil() as usize).min(h), (right.ceil() as usize).min(w));
        let (y, x, end_y, end_x) = if rng.random::<f64>() < 0.5 {
            (rng.random_range(0..=top), rng.random_range(0..=left), bottom, right)
        } else {
            (top, left, rng.random_range(bottom..=h), rng.random_range(right..=w))
        };
        Crop { y, x, h: end_y - y, w: end_x - x }
    }

    fn place(&self, rng: &mut impl Rng, [height, width]: [usize; 2], [h, w]: [usize; 2], legacy: bool) -> Crop {
        let (mut best, mut most) = (Crop { y: 0, x: 0, h: height, w: width }, -1.0);
        for _ in 0..PLACES {
            let (y, x) = (rng.random_range(0..=h - height), rng.random_range(0..=w - width));
            let crop = Crop { y, x, h: height, w: width };
            let covered = self.covered(&crop, h, w);
            if covered >= self.coverage {
                return crop;
            }
            if covered > most {
                (best, most) = (crop, covered);
            }
        }
        if legacy {
            return best;
        }
        let centred = |[from, to]: [f64; 2], length: usize, n: usize| {
            (((from + to - length as f64) / 2.0).round().max(0.0) as usize).min(n - length)
        };
        let [rows, cols] = self.pixels(h, w);
        Crop { y: centred(rows, height, h), x: centred(cols, width, w), ..best }
    }
}
