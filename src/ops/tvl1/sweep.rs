//! One or several iterations in one pass over memory: the primal step of row `y` and, as soon as its result is known,
//! the dual step of row `y - 1` above it, which is the last to need that row's flow. A further iteration follows two
//! rows behind: there the dual variables of the previous iteration are complete, and still in the cache.

use super::plane::{LINE, Plane};
use crate::cpu::Isa;
use crate::cpu::simd::{self, Vector, Vectorized};
use rayon::prelude::*;

/// What an iteration reads and updates.
pub(super) struct State {
    /// The current fields, updated in place by a pass of one iteration.
    pub now: Fields,
    /// Output of a pass of several iterations, which leaves `now` unchanged, so that the pass can be repeated with
    /// fewer iterations.
    pub next: Fields,
    /// Warped gradient along x and y.
    pub gradient: [Plane; 2],
    /// `-1 / max(|gradient|², ε)`.
    pub slope: Plane,
    /// The residual without the part that is linear in the flow.
    pub rho: Plane,
    /// One row: 1 where there is a pixel to the right, else 0.
    pub inside: Plane,
    /// One row of zeros, read above the first row.
    pub zero: Plane,
    /// For each iteration of a pass and each row: the sum of squared changes of its flow.
    pub change: Vec<f32>,
}

/// The fields that an iteration updates.
pub(super) struct Fields {
    /// Flow: u, v.
    pub u: [Plane; 2],
    /// Dual variables: of u along x and y, of v along x and y.
    pub dual: [Plane; 4],
}

/// Maximum bytes of an image's planes for which they stay in a core's cache between iterations.
const CACHED: usize = 3 << 19;

/// Bytes of the rows that all iterations of one pass together have in the cache.
const HELD: usize = 3 << 18;

/// Maximum number of iterations per pass.
const DEEPEST: usize = 16;

/// The constants of an iteration.
#[derive(Clone, Copy)]
pub(super) struct Scalars {
    pub threshold: f32,
    pub theta: f32,
    /// τ / θ
    pub step: f32,
}

/// The planes as pointers to row 0, so that bands of rows can be given to threads.
#[derive(Clone, Copy)]
struct Pointers {
    /// Before the iteration, and after it; where they are the same memory it happens in place.
    from: Moving,
    to: Moving,
    gradient: [*const f32; 2],
    slope: *const f32,
    rho: *const f32,
    inside: *const f32,
    zero: *const f32,
    change: *mut f32,
    h: usize,
    stride: usize,
}

/// [`Fields`] as pointers to row 0.
#[derive(Clone, Copy)]
struct Moving {
    u: [*mut f32; 2],
    dual: [*mut f32; 4],
}

// SAFETY: bands write disjoint rows and read no row another band writes in the same pass; see `iterate`.
unsafe impl Send for Pointers {}
// SAFETY: as above.
unsafe impl Sync for Pointers {}

impl Fields {
    fn pointers(&mut self) -> Moving {
        Moving { u: self.u.each_mut().map(Plane::pointer), dual: self.dual.each_mut().map(Plane::pointer) }
    }
}

impl State {
    fn pointers(&mut self) -> Pointers {
        let moving = self.now.pointers();
        Pointers {
            from: moving,
            to: moving,
            gradient: self.gradient.each_mut().map(|p| p.pointer().cast_const()),
            slope: self.slope.pointer(),
            rho: self.rho.pointer(),
            inside: self.inside.pointer(),
            zero: self.zero.pointer(),
            change: self.change.as_mut_ptr(),
            h: self.now.u[0].h,
            stride: self.now.u[0].stride,
        }
    }

    /// The sum of squared changes of the flow in iteration `i` of the last pass.
    fn changed(&self, i: usize) -> f64 {
        let h = self.now.u[0].h;
        self.change[i * h..(i + 1) * h].iter().map(|&c| f64::from(c)).sum()
    }

    /// How many iterations a pass should have on one thread: one if all planes stay in the cache anyway.
    fn depth(&self) -> usize {
        let row = 10 * size_of::<f32>() * self.now.u[0].stride;
        if row * self.now.u[0].h <= CACHED { 1 } else { (HELD / (2 * row)).clamp(1, DEEPEST) }
    }

    /// Iterates until an iteration changes the flow by no more than `stop` (the sum of squares over all pixels), at
    /// most `most` times; returns the last change. The results do not depend on `bands`, nor on how many iterations
    /// share a pass.
    pub fn iterate_until(&mut self, isa: Isa, s: Scalars, bands: usize, stop: f64, most: usize) -> f64 {
        let depth = if bands == 1 { self.depth() } else { 1 };
        let (mut change, mut before) = (f64::INFINITY, f64::INFINITY);
        let mut left = most;
        while left > 0 && change > stop {
            // Changes fall by about the same factor each time. From the last two, estimate how many iterations are
            // left.
            let factor = change / before;
            let expected = match stop > 0.0 {
                true if factor < 1.0 => ((stop / change).ln() / factor.ln()).ceil(),
                true => 1.0,
                false => f64::INFINITY,
            };
            let count = (expected.min(left as f64) as usize).clamp(1, depth);
            if count == 1 {
                (before, change) = (change, self.iterate(isa, s, bands));
                left -= 1;
                continue;
            }
            self.pass(isa, s, count);
            let end = (0..count).find(|&i| self.changed(i) <= stop);
            let done = end.map_or(count, |i| i + 1);
            if done < count {
                self.pass(isa, s, done); // it went too far: again from where it began
            }
            before = self.changed(done - 1 - usize::from(done > 1));
            change = self.changed(done - 1);
            std::mem::swap(&mut self.now, &mut self.next);
            left -= done;
        }
        change
    }

    /// `count` iterations in one pass, from `now` to `next`.
    fn pass(&mut self, isa: Isa, s: Scalars, count: usize) {
        let h = self.now.u[0].h;
        if self.change.len() < count * h {
            self.change.resize(count * h, 0.0);
        }
        let mut first = self.pointers();
        first.to = self.next.pointers();
        simd::run(isa, Wave { first, s, count });
    }

    /// One iteration over all rows, in `bands` parts that threads may compute; returns the sum of squared changes of
    /// the flow. The results do not depend on `bands`.
    ///
    /// The dual step of a band's last row needs the first row of the next band, so it is done at the end. Within the
    /// pass, a band therefore writes the flow of its own rows and the dual variables of all but the last of them. Of
    /// other rows it reads only the dual variables of the one above its first, which no band writes.
    fn iterate(&mut self, isa: Isa, s: Scalars, bands: usize) -> f64 {
        let at = self.pointers();
        let bound = |i: usize| i * at.h / bands;
        if bands == 1 {
            simd::run(isa, Band { at, s, rows: (0, at.h) });
        } else {
            (0..bands).into_par_iter().for_each(|i| simd::run(isa, Band { at, s, rows: (bound(i), bound(i + 1)) }));
            for i in 1..bands {
                simd::run(isa, Seam { at, s, below: bound(i) });
            }
        }
        self.changed(0)
    }
}

/// The rows `rows.0..rows.1` of an iteration, without the dual step of the last unless it is the image's last.
struct Band {
    at: Pointers,
    s: Scalars,
    rows: (usize, usize),
}

/// The dual step of the row above `below`, the last of a band.
struct Seam {
    at: Pointers,
    s: Scalars,
    below: usize,
}

/// Several iterations, each two rows behind the previous one; the first reads other memory than it writes.
struct Wave {
    first: Pointers,
    s: Scalars,
    count: usize,
}

impl Vectorized for Wave {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let h = self.first.h;
        for front in 0..=h + 2 * (self.count - 1) {
            for i in 0..self.count {
                let Some(y) = front.checked_sub(2 * i).filter(|&y| y <= h) else { continue };
                let mut at = self.first;
                // SAFETY: `change` has a number for every iteration and row; rows up to h, and the primal step only below
                // it; the instruction set is the caller's promise.
                unsafe {
                    if i > 0 {
                        at.from = at.to;
                        at.change = at.change.add(i * h);
                    }
                    match y {
                        0 => row::<V, true, false>(&at, self.s, y),
                        y if y < h => row::<V, true, true>(&at, self.s, y),
                        _ => row::<V, false, true>(&at, self.s, y),
                    }
                }
            }
        }
    }
}

impl Vectorized for Band {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (first, end) = self.rows;
        if first == end {
            return;
        }
        // SAFETY: rows below h; the instruction set is the caller's promise.
        unsafe {
            row::<V, true, false>(&self.at, self.s, first);
            for y in first + 1..end {
                row::<V, true, true>(&self.at, self.s, y);
            }
            if end == self.at.h {
                row::<V, false, true>(&self.at, self.s, end);
            }
        }
    }
}

impl Vectorized for Seam {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: `below` is a row from 1 to h - 1; the instruction set is the caller's promise.
        unsafe { row::<V, false, true>(&self.at, self.s, self.below) }
    }
}

/// The primal step of row `y` (if `PRIMAL`) and the dual step of row `y - 1` (if `DUAL`); below the last row the flow
/// is continued unchanged.
///
/// The horizontal dual variable of the last pixel of a row is always zero (there is no gradient across the image's
/// edge), and so is the padding. Therefore the number before a row's first is the zero that the divergence needs there.
#[inline(always)]
unsafe fn row<V: Vector, const PRIMAL: bool, const DUAL: bool>(at: &Pointers, s: Scalars, y: usize) {
    const { assert!(LINE.is_multiple_of(V::LANES)) }
    debug_assert!((PRIMAL && y < at.h || !PRIMAL && y <= at.h) && (!DUAL || y > 0));
    let stride = at.stride;
    let last = y.min(at.h - 1);
    // SAFETY: all rows touched are `y`, `y - 1` and `last`, inside of the planes; loads one number before or behind a
    // row stay within the plane's line of padding.
    unsafe {
        let above = y.saturating_sub(1) * stride;
        let (here, up) = (last * stride, above);
        let (u, dual) = (at.from.u.map(|p| p.add(here)), at.from.dual.map(|p| p.add(here)));
        let dual_up = at.from.dual.map(|p| p.add(up));
        let to_u = at.to.u.map(|p| p.add(here));
        let (to_u_up, to_dual_up) = (at.to.u.map(|p| p.add(up)), at.to.dual.map(|p| p.add(up)));
        // The vertical dual variables above the row; above the first row they are zero.
        let over = [1, 3].map(|k| if y > 0 { dual_up[k].cast_const() } else { at.zero });
        let gradient = at.gradient.map(|p| p.add(here));
        let (slope, rho) = (at.slope.add(here), at.rho.add(here));
        let (theta, step, one) = (V::splat(s.theta), V::splat(s.step), V::splat(1.0));
        let (high, low) = (V::splat(s.threshold), V::splat(-s.threshold));
        let tiny = V::splat(1e-30);
        let mut change = V::splat(0.0);
        let mut x = 0;
        while x < stride {
            let over = [V::load(over[0].add(x)), V::load(over[1].add(x))];
            // Below the last row the flow is continued with its updated values.
            let flow = if PRIMAL { u } else { to_u };
            let mut now = [V::load(flow[0].add(x)), V::load(flow[1].add(x))];
            if PRIMAL {
                let g = [V::load(gradient[0].add(x)), V::load(gradient[1].add(x))];
                let residual = g[1].mul_add(now[1], g[0].mul_add(now[0], V::load(rho.add(x))));
                let shrink = residual.mul(V::load(slope.add(x))).min(high).max(low);
                for k in 0..2 {
                    let along = V::load(dual[2 * k].add(x)).sub(V::load(dual[2 * k].add(x).sub(1)));
                    let down = V::load(dual[2 * k + 1].add(x)).sub(over[k]);
                    let new = theta.mul_add(along.add(down), shrink.mul_add(g[k], now[k]));
                    new.store(to_u[k].add(x));
                    let moved = new.sub(now[k]);
                    change = moved.mul_add(moved, change);
                    now[k] = new;
                }
            }
            if DUAL {
                let inside = V::load(at.inside.add(x));
                for k in 0..2 {
                    let here = V::load(to_u_up[k].add(x));
                    let gx = V::load(to_u_up[k].add(x + 1)).sub(here).mul(inside);
                    let gy = now[k].sub(here);
                    let square = gx.mul_add(gx, gy.mul_add(gy, tiny));
                    let shrink = step.mul_add(square.mul(square.rsqrt()), one).recip();
                    let along = V::load(dual_up[2 * k].add(x));
                    step.mul_add(gx, along).mul(shrink).store(to_dual_up[2 * k].add(x));
                    step.mul_add(gy, over[k]).mul(shrink).store(to_dual_up[2 * k + 1].add(x));
                }
            }
            x += V::LANES;
        }
        if PRIMAL {
            *at.change.add(y) = change.sum();
        }
    }
}
