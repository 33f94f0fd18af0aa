//! The alignment loss in f64, one sample at a time. The three terms of a sample are cosines between a linear function
//! of the map (its frames, its mean frame, the sums of its frames) and the same function of the target, which is
//! constant. [`Cosine`] is one of them.

use super::super::{Cosines, EPS, FLAT, Grid, TargetNorm};
use rayon::prelude::*;

/// The cosine of a vector `a` with a constant vector `b`, and what its derivatives need. `a` and `b` have their means
/// subtracted where centred, and `^` denotes unit length: `∂cos = (b^ - cos·a^) / ‖a‖`, and `∂²cos·v = -(a^·(∂cos·v) +
/// ∂cos·(a^·v) + cos·(v - a^·(a^·v)) / ‖a‖) / ‖a‖`.
struct Cosine {
    /// What is subtracted from `a` and `b`: their means, or 0.
    shift: [f64; 2],
    /// Reciprocals of the lengths, at most `1/ε`; 0 for flat vectors.
    scale: [f64; 2],
    cos: f64,
    /// Whether `a` is divided by its own length; shorter than ε, it is divided by ε and the cosine is linear.
    curved: bool,
    centred: bool,
}

/// What [`Cosine::curvature`] needs of the full direction vector: its mean, its component along `a^`, and the
/// directional derivative of the cosine.
struct Along {
    mean: f64,
    a: f64,
    slope: f64,
}

impl Cosine {
    fn new(pairs: impl Iterator<Item = [f64; 2]> + Clone, centred: bool) -> Cosine {
        let count = pairs.clone().count() as f64;
        let sums = pairs.clone().fold([0.0; 2], |s, v| [s[0] + v[0], s[1] + v[1]]);
        let shift = if centred { sums.map(|s| s / count) } else { [0.0; 2] };
        let (mut product, mut squares, mut whole) = (0.0, [0.0; 2], [0.0; 2]);
        for v in pairs {
            let d = [v[0] - shift[0], v[1] - shift[1]];
            product += d[0] * d[1];
            for i in 0..2 {
                squares[i] += d[i] * d[i];
                whole[i] += v[i] * v[i];
            }
        }
        let length = squares.map(f64::sqrt);
        let scale = [0, 1].map(|i| {
            let flat = centred && length[i] <= FLAT * whole[i].sqrt();
            if flat { 0.0 } else { 1.0 / length[i].max(f64::from(EPS)) }
        });
        let curved = length[0] > f64::from(EPS);
        Cosine { shift, scale, cos: product * scale[0] * scale[1], curved, centred }
    }

    /// An element of both vectors after normalisation to unit length.
    fn unit(&self, v: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|i| (v[i] - self.shift[i]) * self.scale[i])
    }

    /// The derivative of the cosine by an element of `a`.
    fn slope(&self, v: [f64; 2]) -> f64 {
        let [a, b] = self.unit(v);
        (b - if self.curved { self.cos * a } else { 0.0 }) * self.scale[0]
    }

    /// The reductions over all elements `(v, u)`, where `u` is the direction.
    fn along(&self, of: impl Iterator<Item = ([f64; 2], f64)> + Clone) -> Along {
        let count = of.clone().count() as f64;
        let mean = if self.centred { of.clone().map(|(_, u)| u).sum::<f64>() / count } else { 0.0 };
        let sum = |f: &dyn Fn([f64; 2]) -> f64| of.clone().map(|(v, u)| f(v) * (u - mean)).sum::<f64>();
        Along { mean, a: sum(&|v| self.unit(v)[0]), slope: sum(&|v| self.slope(v)) }
    }

    /// The derivative of [`Cosine::slope`] along a direction whose element here is `u`.
    fn curvature(&self, v: [f64; 2], u: f64, along: &Along) -> f64 {
        if !self.curved {
            return 0.0;
        }
        let a = self.unit(v)[0];
        let across = self.cos * (u - along.mean - a * along.a) * self.scale[0];
        -(a * along.slope + self.slope(v) * along.a + across) * self.scale[0]
    }
}

/// A sample: its map and its target, `t` frames of `area`.
#[derive(Clone, Copy)]
struct Sample<'a> {
    t: usize,
    area: usize,
    p: &'a [f32],
    y: &'a [f32],
}

impl<'a> Sample<'a> {
    fn frame(self, t: usize) -> impl Iterator<Item = [f64; 2]> + Clone + 'a {
        let of = t * self.area..(t + 1) * self.area;
        self.p[of.clone()].iter().zip(&self.y[of]).map(|(p, y)| [f64::from(*p), f64::from(*y)])
    }

    fn all(self) -> impl Iterator<Item = [f64; 2]> + Clone + 'a {
        self.p.iter().zip(self.y).map(|(p, y)| [f64::from(*p), f64::from(*y)])
    }

    /// The sum of each frame.
    fn sums(self) -> Vec<[f64; 2]> {
        (0..self.t).map(|t| self.frame(t).fold([0.0; 2], |s, v| [s[0] + v[0], s[1] + v[1]])).collect()
    }

    /// The mean over time of each position.
    fn means(self) -> Vec<[f64; 2]> {
        let [p, y] = [self.p, self.y].map(|x| means(x, self.t, self.area));
        p.into_iter().zip(y).map(|(p, y)| [p, y]).collect()
    }
}

/// The mean over `t` frames of each of `area` positions.
fn means(x: &[f32], t: usize, area: usize) -> Vec<f64> {
    (0..area).map(|i| (0..t).map(|t| f64::from(x[t * area + i])).sum::<f64>() / t as f64).collect()
}

/// The weights of the frames: a softmax of their sums, or of the sums divided by the mean of all positions where that
/// is above 0.
pub(in super::super) fn attention(sums: &[f64], area: usize, norm: TargetNorm) -> Vec<f64> {
    let mean = sums.iter().sum::<f64>() / (sums.len() * area) as f64;
    let scale = if norm == TargetNorm::Mean && mean > 0.0 { 1.0 / mean } else { 1.0 };
    let top = sums.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let parts: Vec<f64> = sums.iter().map(|s| ((s - top) * scale).exp()).collect();
    let sum: f64 = parts.iter().sum();
    parts.iter().map(|p| p / sum).collect()
}

/// All cosines of a sample.
struct Terms {
    attention: Vec<f64>,
    frames: Vec<Cosine>,
    means: Vec<[f64; 2]>,
    spatial: Cosine,
    sums: Vec<[f64; 2]>,
    temporal: Cosine,
}

impl Terms {
    fn new(s: Sample, how: &Cosines) -> Terms {
        let (sums, means) = (s.sums(), s.means());
        let targets: Vec<f64> = sums.iter().map(|s| s[1]).collect();
        Terms {
            attention: attention(&targets, s.area, how.target_norm),
            frames: (0..s.t).map(|t| Cosine::new(s.frame(t), how.centred)).collect(),
            spatial: Cosine::new(means.iter().copied(), how.centred),
            temporal: Cosine::new(sums.iter().copied(), how.centred),
            means,
            sums,
        }
    }

    /// `S_st`, `S_s`, `S_t`.
    fn cosines(&self) -> [f64; 3] {
        let frames = self.attention.iter().zip(&self.frames).map(|(a, f)| a * f.cos).sum();
        [frames, self.spatial.cos, self.temporal.cos]
    }
}

fn weights(how: &Cosines) -> [f64; 3] {
    [how.terms.spatio_temporal, how.terms.spatial, how.terms.temporal].map(f64::from)
}

fn sample<'a>(g: &Grid, p: &'a [f32], y: &'a [f32]) -> Sample<'a> {
    Sample { t: g.t, area: g.area, p, y }
}

/// The loss, and the four statistics reported beside it.
pub(in super::super) fn forward(g: &Grid, p: &[f32], y: &[f32], how: &Cosines) -> [f32; 5] {
    let size = g.t * g.area;
    let each: Vec<[f64; 5]> = p
        .par_chunks(size)
        .zip(y.par_chunks(size))
        .map(|(p, y)| {
            let s = sample(g, p, y);
            let [frames, spatial, temporal] = Terms::new(s, how).cosines().map(|s| 1.0 - s);
            let [a, b, c] = weights(how);
            let plain = Cosine::new(s.all(), false).cos;
            [a * frames + b * spatial + c * temporal, frames, spatial, temporal, plain]
        })
        .collect();
    [0, 1, 2, 3, 4].map(|i| (each.iter().map(|e| e[i]).sum::<f64>() / g.n as f64) as f32)
}

pub(in super::super) fn backward(g: &Grid, p: &[f32], y: &[f32], how: &Cosines, dy: f32, dp: &mut [f32]) {
    let (size, [a, b, c]) = (g.t * g.area, weights(how));
    let scale = -f64::from(dy) / g.n as f64;
    dp.par_chunks_mut(size).zip(p.par_chunks(size)).zip(y.par_chunks(size)).for_each(|((dp, p), y)| {
        let s = sample(g, p, y);
        let k = Terms::new(s, how);
        for (t, dp) in dp.chunks_exact_mut(g.area).enumerate() {
            let whole = c * k.temporal.slope(k.sums[t]);
            for ((dp, v), mean) in dp.iter_mut().zip(s.frame(t)).zip(&k.means) {
                let frame = a * k.attention[t] * k.frames[t].slope(v);
                let cell = b * k.spatial.slope(*mean) / g.t as f64;
                *dp = (scale * (frame + cell + whole)) as f32;
            }
        }
    });
}

pub(in super::super) fn bwd2(g: &Grid, p: &[f32], y: &[f32], how: &Cosines, dy: f32, u: &[f32], out: &mut [f32]) {
    let (size, [a, b, c]) = (g.t * g.area, weights(how));
    let scale = -f64::from(dy) / g.n as f64;
    let maps = p.par_chunks(size).zip(y.par_chunks(size)).zip(u.par_chunks(size));
    out.par_chunks_mut(size).zip(maps).for_each(|(out, ((p, y), u))| {
        let s = sample(g, p, y);
        let k = Terms::new(s, how);
        let frame = |t: usize| u[t * g.area..(t + 1) * g.area].iter().map(|u| f64::from(*u));
        let (cells, totals) = (means(u, g.t, g.area), (0..g.t).map(|t| frame(t).sum()).collect::<Vec<f64>>());
        let spatial = k.spatial.along(k.means.iter().copied().zip(cells.iter().copied()));
        let temporal = k.temporal.along(k.sums.iter().copied().zip(totals.iter().copied()));
        for (t, out) in out.chunks_exact_mut(g.area).enumerate() {
            let along = k.frames[t].along(s.frame(t).zip(frame(t)));
            let whole = c * k.temporal.curvature(k.sums[t], totals[t], &temporal);
            for (i, (out, (v, u))) in out.iter_mut().zip(s.frame(t).zip(frame(t))).enumerate() {
                let frame = a * k.attention[t] * k.frames[t].curvature(v, u, &along);
                let cell = b * k.spatial.curvature(k.means[i], cells[i], &spatial) / g.t as f64;
                *out = (scale * (frame + cell + whole)) as f32;
            }
        }
    });
}
