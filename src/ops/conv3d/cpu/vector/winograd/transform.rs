//! The linear maps of F(2x2, 3x3), vectors of channels at a time.
//!
//! With `B`, `G` and `A` of the module's formula, all entries are 0, 1, -1 or 1/2, so that each map is a few additions.

use crate::cpu::simd::{Vector, Vectorized};

/// Products per tile: a square of four by four.
pub(super) const PRODUCTS: usize = 16;

/// Calls `$body` for each vector of `$len` channels: `$at` is its first channel and `$mask` has those that exist.
macro_rules! vectors {
    ($v:ty, $len:expr, |$at:ident, $mask:ident| $body:block) => {
        let len = $len;
        let mut $at = 0;
        while $at < len {
            let $mask = <$v>::first((len - $at).min(<$v>::LANES));
            $body
            $at += <$v>::LANES;
        }
    };
}

/// `Bᵀ d B` of the tiles of one row of tiles: each is a square of four by four numbers of a frame, two further right than the
/// one before it.
pub(super) struct Inputs {
    /// The first pixel of each of the four rows; null for a row outside of the frame.
    pub rows: [*const f32; 4],
    /// Pixels per row, and the column of the first tile's first pixel, which may be outside.
    pub width: usize,
    pub first: isize,
    pub tiles: usize,
    pub c: usize,
    /// Where product 0 of the first tile goes: `product tile channel`, products `pitch` numbers apart.
    pub to: *mut f32,
    pub pitch: usize,
}

impl Vectorized for Inputs {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the constructor vouches for the memory, the caller for the instructions.
        unsafe {
            vectors!(V, self.c, |at, mask| {
                let column = |x: isize| -> [V; 4] {
                    if x < 0 || x >= self.width as isize {
                        return [V::zero(); 4];
                    }
                    let at = x as usize * self.c + at;
                    let mut d = [V::zero(); 4];
                    for (d, row) in d.iter_mut().zip(self.rows) {
                        if !row.is_null() {
                            *d = V::load_masked(row.add(at), mask);
                        }
                    }
                    input(d)
                };
                let (mut c0, mut c1) = (column(self.first), column(self.first + 1));
                for tile in 0..self.tiles {
                    let x = self.first + 2 * tile as isize;
                    let (c2, c3) = (column(x + 2), column(x + 3));
                    let to = self.to.add(tile * self.c + at);
                    for i in 0..4 {
                        let row = input([c0[i], c1[i], c2[i], c3[i]]);
                        for (j, v) in row.into_iter().enumerate() {
                            v.store_masked(to.add((4 * i + j) * self.pitch), mask);
                        }
                    }
                    (c0, c1) = (c2, c3);
                }
            });
        }
    }
}

/// `Aᵀ m A` of some tiles of a row of tiles, written to up to two by two pixels of each.
pub(super) struct Outputs {
    /// The products of the first tile: `tile product channel`, `channels` numbers each and `tile` for each tile.
    pub from: *const f32,
    pub channels: usize,
    pub tile: usize,
    /// The first tile's pixels of both rows that it writes; null for a row that does not exist.
    pub rows: [*mut f32; 2],
    /// Numbers between pixels, and how many pixels there are from the first tile's on.
    pub step: usize,
    pub pixels: usize,
    pub tiles: usize,
    /// Channels that exist, at most `channels`.
    pub len: usize,
}

impl Vectorized for Outputs {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: as above.
        unsafe {
            for tile in 0..self.tiles {
                let from = self.from.add(tile * self.tile);
                vectors!(V, self.len, |at, mask| {
                    let m = |i: usize, j: usize| V::load(from.add((4 * i + j) * self.channels + at));
                    let mut columns = [[V::zero(); 2]; 4];
                    for (j, column) in columns.iter_mut().enumerate() {
                        *column = output([m(0, j), m(1, j), m(2, j), m(3, j)]);
                    }
                    let [c0, c1, c2, c3] = columns;
                    for (i, row) in self.rows.into_iter().enumerate() {
                        if row.is_null() {
                            continue;
                        }
                        let [left, right] = output([c0[i], c1[i], c2[i], c3[i]]);
                        let to = row.add(2 * tile * self.step + at);
                        left.store_masked(to, mask);
                        if 2 * tile + 1 < self.pixels {
                            right.store_masked(to.add(self.step), mask);
                        }
                    }
                });
            }
        }
    }
}

/// `A dy Aᵀ` of the tiles of one row of tiles: the adjoint of [`Outputs`].
pub(super) struct Gradients {
    /// The first pixels of both rows; null for a row that does not exist.
    pub rows: [*const f32; 2],
    pub step: usize,
    pub pixels: usize,
    pub tiles: usize,
    /// Channels, and where product 0 of the first tile goes: `product tile channel`, products `pitch` numbers apart.
    pub len: usize,
    pub to: *mut f32,
    pub pitch: usize,
}

impl Vectorized for Gradients {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: as above.
        unsafe {
            for tile in 0..self.tiles {
                vectors!(V, self.len, |at, mask| {
                    let pixel = |row: *const f32, x: usize| {
                        if row.is_null() || x >= self.pixels {
                            return V::zero();
                        }
                        V::load_masked(row.add(x * self.step + at), mask)
                    };
                    let [upper, lower] = self.rows;
                    let left = gradient([pixel(upper, 2 * tile), pixel(lower, 2 * tile)]);
                    let right = gradient([pixel(upper, 2 * tile + 1), pixel(lower, 2 * tile + 1)]);
                    let to = self.to.add(tile * self.len + at);
                    for i in 0..4 {
                        for (j, v) in gradient([left[i], right[i]]).into_iter().enumerate() {
                            v.store_masked(to.add((4 * i + j) * self.pitch), mask);
                        }
                    }
                });
            }
        }
    }
}

/// `G g Gᵀ` of filters whose numbers are `len` contiguous ones at each of nine taps.
pub(super) struct Filters {
    pub from: [*const f32; 9],
    pub to: *mut f32,
    /// Numbers between the products in `to`.
    pub pitch: usize,
    pub len: usize,
}

impl Vectorized for Filters {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: as above.
        unsafe {
            vectors!(V, self.len, |at, mask| {
                let g = |i: usize| V::load_masked(self.from[i].add(at), mask);
                let mut columns = [[V::zero(); 4]; 3];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = filter([g(j), g(3 + j), g(6 + j)]);
                }
                let [c0, c1, c2] = columns;
                for i in 0..4 {
                    for (j, v) in filter([c0[i], c1[i], c2[i]]).into_iter().enumerate() {
                        v.store_masked(self.to.add((4 * i + j) * self.pitch + at), mask);
                    }
                }
            });
        }
    }
}

/// `Gᵀ m G` of the sum of several arrays of products: the adjoint of [`Filters`].
pub(super) struct FilterGradients {
    /// Products of the first array, `pitch` numbers apart.
    pub from: *const f32,
    pub pitch: usize,
    /// How many arrays there are, and their distance.
    pub arrays: usize,
    pub apart: usize,
    /// The nine taps, `step` numbers apart.
    pub to: *mut f32,
    pub step: usize,
    pub len: usize,
}

impl Vectorized for FilterGradients {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: as above.
        unsafe {
            vectors!(V, self.len, |at, mask| {
                let m = |i: usize, j: usize| {
                    let from = self.from.add((4 * i + j) * self.pitch + at);
                    let mut sum = V::load_masked(from, mask);
                    for other in 1..self.arrays {
                        sum = sum.add(V::load_masked(from.add(other * self.apart), mask));
                    }
                    sum
                };
                let mut columns = [[V::zero(); 3]; 4];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = filter_gradient([m(0, j), m(1, j), m(2, j), m(3, j)]);
                }
                let [c0, c1, c2, c3] = columns;
                for i in 0..3 {
                    let row = filter_gradient([c0[i], c1[i], c2[i], c3[i]]);
                    for (j, v) in row.into_iter().enumerate() {
                        v.store_masked(self.to.add((3 * i + j) * self.step + at), mask);
                    }
                }
            });
        }
    }
}

/// `Bᵀ d`.
#[inline(always)]
unsafe fn input<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
    // SAFETY: here and below, the caller vouches for the instructions.
    unsafe { [a.sub(c), b.add(c), c.sub(b), b.sub(d)] }
}

/// `Aᵀ m`.
#[inline(always)]
unsafe fn output<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 2] {
    // SAFETY: as above.
    unsafe { [a.add(b.add(c)), b.sub(c).sub(d)] }
}

/// `A y`.
#[inline(always)]
unsafe fn gradient<V: Vector>([a, b]: [V; 2]) -> [V; 4] {
    // SAFETY: as above.
    unsafe { [a, a.add(b), a.sub(b), V::zero().sub(b)] }
}

/// `G g`.
#[inline(always)]
unsafe fn filter<V: Vector>([a, b, c]: [V; 3]) -> [V; 4] {
    // SAFETY: as above.
    unsafe {
        let half = V::splat(0.5);
        let (ends, middle) = (a.add(c).mul(half), b.mul(half));
        [a, ends.add(middle), ends.sub(middle), c]
    }
}

/// `Gᵀ m`.
#[inline(always)]
unsafe fn filter_gradient<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 3] {
    // SAFETY: as above.
    unsafe {
        let half = V::splat(0.5);
        let (sum, difference) = (b.add(c).mul(half), b.sub(c).mul(half));
        [a.add(sum), difference, sum.add(d)]
    }
}
