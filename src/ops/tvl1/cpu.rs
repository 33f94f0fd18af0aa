//! The fast path: planes padded to whole vectors, at most one pass over memory per iteration, no allocation between
//! pairs of the same size.

use super::median::Median;
use super::plane::Plane;
use super::pyramid::resize;
use super::sweep::{Fields, Scalars, State};
use super::warp::{Packed, Warp};
use super::{Tvl1, coarser, levels};
use crate::cpu::{Isa, simd};
use crate::flow::{Flow, Gray};
use rayon::prelude::*;

/// Minimum number of pixels of a level whose rows are shared between threads: an iteration then takes ten times as long
/// as scheduling it.
pub(super) const SHARED: usize = 1 << 15;

/// The buffers of a flow computation.
pub(super) struct Memory {
    isa: Isa,
    /// Both images on each level, the finest first.
    images: Vec<[Plane; 2]>,
    packed: Packed,
    state: State,
    /// Output of the median filter and of resampling, swapped with the flow afterwards.
    spare: Plane,
}

impl Memory {
    pub fn new(isa: Isa) -> Memory {
        let mut nth = 0;
        let mut plane = || {
            nth += 1;
            Plane::new(nth - 1)
        };
        let state = State {
            now: Fields { u: [plane(), plane()], dual: [plane(), plane(), plane(), plane()] },
            next: Fields { u: [plane(), plane()], dual: [plane(), plane(), plane(), plane()] },
            gradient: [plane(), plane()],
            slope: plane(),
            rho: plane(),
            inside: plane(),
            zero: plane(),
            change: Vec::new(),
        };
        Memory { isa, images: Vec::new(), packed: Packed::default(), state, spare: plane() }
    }

    /// The flow of a checked pair; rows of large levels are shared between `threads` threads of the current pool.
    pub fn flow(&mut self, a: &Gray, b: &Gray, p: &Tvl1, threads: usize) -> Flow {
        let count = levels(a.h(), a.w(), p);
        while self.images.len() < count {
            self.images.push([Plane::new(0), Plane::new(1)]);
        }
        for (k, image) in [a, b].into_iter().enumerate() {
            self.images[0][k].fill(image.h(), image.w(), image.data());
            for level in 1..count {
                let (finer, rest) = self.images.split_at_mut(level);
                let finer = &finer[level - 1][k];
                let (h, w) = (coarser(finer.h, p), coarser(finer.w, p));
                resize(finer, &mut rest[0][k], h, w, [1.0 / p.scale_step; 2], 1.0);
            }
        }
        for level in (0..count).rev() {
            let (h, w) = (self.images[level][0].h, self.images[level][0].w);
            for u in &mut self.state.now.u {
                if level + 1 == count {
                    u.reset(h, w);
                } else {
                    let ratio = [u.h as f64 / h as f64, u.w as f64 / w as f64];
                    resize(u, &mut self.spare, h, w, ratio, (1.0 / p.scale_step) as f32);
                    std::mem::swap(u, &mut self.spare);
                }
            }
            self.one_scale(level, p, if h * w < SHARED { 1 } else { threads.clamp(1, h) });
        }
        let [u, v] = self.state.now.u.each_ref().map(Plane::image);
        Flow::new(a.h(), a.w(), u, v).expect("planes have the size of the images")
    }

    fn one_scale(&mut self, level: usize, p: &Tvl1, bands: usize) {
        let [a, b] = &self.images[level];
        let (h, w) = (a.h, a.w);
        self.packed.fill(b);
        self.state.reset(h, w);
        let scalars =
            Scalars { threshold: (p.lambda * p.theta) as f32, theta: p.theta as f32, step: (p.tau / p.theta) as f32 };
        let stop = p.epsilon * p.epsilon * (h * w) as f64;
        for _ in 0..p.warps {
            warp(self.isa, a, &self.packed, &mut self.state, bands);
            let mut change = f64::INFINITY;
            for _ in 0..p.outer_iterations {
                if change <= stop {
                    break;
                }
                if p.median > 1 {
                    for u in &mut self.state.now.u {
                        self.spare.reset(h, w);
                        median(self.isa, u, p.median, &mut self.spare, bands);
                        std::mem::swap(u, &mut self.spare);
                    }
                }
                change = self.state.iterate_until(self.isa, scalars, bands, stop, p.inner_iterations);
            }
        }
    }
}

impl State {
    /// Sets the dual variables to zero for a level of `h w` pixels, whose flow is already set.
    fn reset(&mut self, h: usize, w: usize) {
        let Fields { u, dual } = &mut self.next;
        let planes = self.now.dual.iter_mut().chain(u).chain(dual).chain(&mut self.gradient);
        planes.chain([&mut self.slope, &mut self.rho]).for_each(|plane| plane.reset(h, w));
        self.zero.reset(1, w);
        self.inside.reset(1, w);
        self.inside.row_mut(0)[..w - 1].fill(1.0);
        self.change.clear();
        self.change.resize(h, 0.0);
    }
}

fn warp(isa: Isa, a: &Plane, b: &Packed, state: &mut State, bands: usize) {
    let State { now: Fields { u, .. }, gradient: [gx, gy], slope, rho, .. } = state;
    let rows = a.h.div_ceil(bands);
    let chunk = rows * a.stride;
    let run = |first, gx, gy, slope, rho| simd::run(isa, Warp { a, b, u, first, gradient: [gx, gy], slope, rho });
    if bands == 1 {
        run(0, gx.body_mut(), gy.body_mut(), slope.body_mut(), rho.body_mut());
    } else {
        (gx.body_mut().par_chunks_mut(chunk), gy.body_mut().par_chunks_mut(chunk))
            .into_par_iter()
            .zip((slope.body_mut().par_chunks_mut(chunk), rho.body_mut().par_chunks_mut(chunk)))
            .enumerate()
            .for_each(|(i, ((gx, gy), (slope, rho)))| run(i * rows, gx, gy, slope, rho));
    }
}

fn median(isa: Isa, from: &Plane, size: usize, to: &mut Plane, bands: usize) {
    let rows = from.h.div_ceil(bands);
    let chunk = rows * from.stride;
    let run = |first, to| simd::run(isa, Median { from, size, first, to });
    if bands == 1 {
        run(0, to.body_mut());
    } else {
        to.body_mut().par_chunks_mut(chunk).enumerate().for_each(|(i, to)| run(i * rows, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tvl1::{cases::CASES, reference};

    /// Mean difference in pixels; the largest observed is 1e-5.
    const TOLERANCE: f64 = 1e-4;

    #[test]
    fn every_instruction_set_follows_the_definition() {
        let p = Tvl1 { warps: 2, inner_iterations: 8, outer_iterations: 2, epsilon: 0.0, ..Tvl1::default() };
        for case in CASES.iter().filter(|c| c.h < 70) {
            let (a, b) = case.pair();
            let wide = |x: &Gray| -> Vec<f64> { x.data().iter().map(|&v| v.into()).collect() };
            let (u, v) = reference::flow::<f64>(&wide(&a), &wide(&b), a.h(), a.w(), &p);
            for &isa in Isa::available() {
                let got = Memory::new(isa).flow(&a, &b, &p, 1);
                let error = |i: usize| (f64::from(got.u()[i]) - u[i]).hypot(f64::from(got.v()[i]) - v[i]);
                let mean = (0..u.len()).map(error).sum::<f64>() / u.len() as f64;
                assert!(mean <= TOLERANCE, "{isa:?}, {}: {mean:e} pixels", case.name);
            }
        }
    }

    /// With several threads, an iteration is a pass; with one thread, a pass has several iterations if the planes
    /// exceed the cache.
    #[test]
    fn iterations_that_share_a_pass_are_the_same_iterations() {
        let (h, w) = (200, 420);
        let image = |shift: f32| {
            let at = |i: usize| ((i % w) as f32 - shift, (i / w) as f32 - 0.5 * shift);
            let gray =
                |(x, y): (f32, f32)| 128.0 + 60.0 * (0.21 * x).sin() * (0.17 * y).cos() + 30.0 * (0.05 * x * y).sin();
            Gray::new(h, w, (0..h * w).map(|i| gray(at(i))).collect()).unwrap()
        };
        let (a, b) = (image(0.0), image(1.7));
        let until = Tvl1 { scales: 2, ..Tvl1::default() };
        let fixed = Tvl1 { epsilon: 0.0, warps: 2, inner_iterations: 7, outer_iterations: 2, ..until };
        for p in [until, fixed] {
            let mut memory = Memory::new(Isa::best());
            let one = memory.flow(&a, &b, &p, 1);
            assert!(memory.state.change.len() > h, "no pass had more than one iteration");
            let two = Memory::new(Isa::best()).flow(&a, &b, &p, 2);
            assert!(one == two, "epsilon {}", p.epsilon);
        }
    }
}
