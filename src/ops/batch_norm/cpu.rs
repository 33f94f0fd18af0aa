//! Memory-bound, so: each tensor is read once per pass, in chunks of rows that stay in the cache, four rows at a time
//! with the channels innermost. Chunks are fixed by the shape and their sums are merged in order, in f64: the same bits
//! for any number of threads.

use super::{Moments, Rows, Saved};
use crate::tensor::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a chunk (128 KiB of f32).
const CHUNK: usize = 1 << 15;

/// Rows worked on at once.
const STEP: usize = 4;

impl Rows {
    /// Rows of a chunk: a multiple of [`STEP`].
    fn chunk(&self) -> usize {
        (CHUNK / self.c).clamp(16, 512) / STEP * STEP
    }

    fn len(&self) -> usize {
        self.rows * self.c
    }

    /// The ranges of elements that are worked on at once, of chunk `k` of group `g`.
    fn steps(&self, g: usize, k: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (c, start) = (self.c, g * self.len());
        let (from, to) = (k * self.chunk(), ((k + 1) * self.chunk()).min(self.rows));
        (from..to).step_by(STEP).map(move |r| start + r * c..start + (r + STEP).min(to) * c)
    }

    /// Calls `f(g, k, part)` for every chunk `k` of every group `g`, with `per` elements of `parts` to each.
    fn for_chunks(&self, parts: &mut [f32], per: usize, f: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let chunks = self.rows.div_ceil(self.chunk());
        parts.par_chunks_mut(per).enumerate().for_each(|(i, part)| f(i / chunks, i % chunks, part));
    }

    /// Calls `f(g, k, out)` for every chunk with its elements of `out`, which is shaped like `x`.
    fn for_chunks_of(&self, out: &mut [f32], f: impl Fn(usize, usize, &mut [f32]) + Sync) {
        out.par_chunks_mut(self.len()).enumerate().for_each(|(g, out)| {
            out.par_chunks_mut(self.chunk() * self.c).enumerate().for_each(|(k, out)| f(g, k, out));
        });
    }
}

/// Elements as they are stored; a few at a time are handed out as f32.
pub(super) enum Stored<'a> {
    F32(&'a [f32]),
    BF16(&'a [bf16]),
}

impl<'a> Stored<'a> {
    pub fn new(t: &'a Tensor) -> Self {
        match t.dtype() {
            DType::F32 => Stored::F32(t.f32().expect("of that type")),
            DType::BF16 => Stored::BF16(t.bf16().expect("of that type")),
        }
    }

    /// Elements `at`, where they are or converted into `space`.
    fn get<'s>(&'s self, at: Range<usize>, space: &'s mut Vec<f32>) -> &'s [f32] {
        match self {
            Stored::F32(v) => &v[at],
            Stored::BF16(v) => {
                space.clear();
                space.extend(v[at].iter().map(|v| v.to_f32()));
                space
            }
        }
    }
}

/// Mean and sum of squared deviations of one channel of one group.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    pub mean: f64,
    pub m2: f64,
}

/// The statistics per group and channel.
///
/// Within a chunk, sums of `d = x - s` and of `d²` are formed in f32, where the shift `s` is the mean of the chunk's
/// first rows; across chunks they are merged in f64 by `M2 = Σ_k [m2_k + n_k (mean_k - mean)²]`, in which nothing
/// cancels.
pub(super) fn stats(p: &Rows, x: &Stored) -> Vec<Sums> {
    let (c, chunks) = (p.c, p.rows.div_ceil(p.chunk()));
    let mut parts = vec![0.0; p.groups * chunks * 3 * c];
    p.for_chunks(&mut parts, 3 * c, |g, k, part| {
        let (shift, sums) = part.split_at_mut(c);
        let (sum, square) = sums.split_at_mut(c);
        let mut space = Vec::new();
        let mut steps = p.steps(g, k).peekable();
        let first = x.get(steps.peek().expect("a chunk has rows").clone(), &mut space);
        for row in first.chunks_exact(c) {
            shift.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
        let share = (c as f32) / first.len() as f32;
        shift.iter_mut().for_each(|s| *s *= share);
        for at in steps {
            add_deviations(x.get(at, &mut space), shift, sum, square);
        }
    });
    let mut all = vec![Sums::default(); p.groups * c];
    for (g, all) in all.chunks_exact_mut(c).enumerate() {
        let count = |k: usize| (p.rows - k * p.chunk()).min(p.chunk()) as f64;
        let parts = || parts[g * chunks * 3 * c..].chunks_exact(3 * c).take(chunks).enumerate();
        let mean_of = |part: &[f32], ch: usize, n: f64| f64::from(part[ch]) + f64::from(part[c + ch]) / n;
        for (k, part) in parts() {
            let n = count(k);
            for (ch, s) in all.iter_mut().enumerate() {
                s.mean += mean_of(part, ch, n) * (n / p.rows as f64);
            }
        }
        for (k, part) in parts() {
            let n = count(k);
            for (ch, s) in all.iter_mut().enumerate() {
                let (sum, off) = (f64::from(part[c + ch]), mean_of(part, ch, n) - s.mean);
                s.m2 += (f64::from(part[2 * c + ch]) - sum * sum / n).max(0.0) + n * off * off;
            }
        }
    }
    all
}

/// `sum += Σ d`, `square += Σ d²` over up to [`STEP`] rows, `d = x - shift`.
fn add_deviations(x: &[f32], shift: &[f32], sum: &mut [f32], square: &mut [f32]) {
    let c = shift.len();
    if x.len() == STEP * c {
        let (a, rest) = x.split_at(c);
        let (b, rest) = rest.split_at(c);
        let (d, e) = rest.split_at(c);
        for i in 0..c {
            let s = shift[i];
            let (a, b, d, e) = (a[i] - s, b[i] - s, d[i] - s, e[i] - s);
            sum[i] += (a + b) + (d + e);
            square[i] += (a * a + b * b) + (d * d + e * e);
        }
    } else {
        for row in x.chunks_exact(c) {
            for i in 0..c {
                let d = row[i] - shift[i];
                sum[i] += d;
                square[i] += d * d;
            }
        }
    }
}

/// The statistics of all groups together.
pub(super) fn moments(p: &Rows, sums: &[Sums]) -> Moments {
    let total = (p.groups * p.rows) as f64;
    let (mut mean, mut var) = (Vec::with_capacity(p.c), Vec::with_capacity(p.c));
    for ch in 0..p.c {
        let of_groups = || sums.iter().skip(ch).step_by(p.c);
        let m = of_groups().map(|s| s.mean).sum::<f64>() / p.groups as f64;
        let m2: f64 = of_groups().map(|s| s.m2 + p.rows as f64 * (s.mean - m).powi(2)).sum();
        mean.push(m as f32);
        var.push((m2 / (total - 1.0)) as f32);
    }
    Moments { mean, var }
}

/// `z = (x - mean) · scale + shift` per group and channel. Subtracting first keeps the digits where the mean is large.
pub(super) struct Affine {
    rows: Rows,
    mean: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Affine {
    pub fn new(saved: &Saved, gamma: &[f32], beta: &[f32]) -> Self {
        let scale = saved.rstd.iter().zip(gamma.iter().cycle()).map(|(r, g)| r * g).collect();
        let shift = beta.iter().cycle().take(saved.mean.len()).copied().collect();
        Affine { rows: saved.rows, mean: saved.mean.clone(), scale, shift }
    }

    fn group(&self, g: usize) -> (&[f32], &[f32], &[f32]) {
        let at = g * self.rows.c..(g + 1) * self.rows.c;
        (&self.mean[at.clone()], &self.scale[at.clone()], &self.shift[at])
    }
}

pub(super) fn normalise(a: &Affine, x: &Stored, residual: Option<&Stored>, relu: bool, y: &mut [f32]) {
    let (p, c) = (&a.rows, a.rows.c);
    p.for_chunks_of(y, |g, k, y| {
        let (mean, scale, shift) = a.group(g);
        let (mut xs, mut rs) = (Vec::new(), Vec::new());
        for (at, y) in p.steps(g, k).zip(y.chunks_mut(STEP * c)) {
            let x = x.get(at.clone(), &mut xs);
            for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                for i in 0..c {
                    y[i] = (x[i] - mean[i]) * scale[i] + shift[i];
                }
            }
            if let Some(r) = residual {
                y.iter_mut().zip(r.get(at, &mut rs)).for_each(|(y, r)| *y += r);
            }
            if relu {
                y.iter_mut().for_each(|y| *y = if *y <= 0.0 { 0.0 } else { *y });
            }
        }
    });
}

/// What the rectifier lets through.
pub(super) enum Mask<'a> {
    /// Everything: there is none.
    None,
    /// Where the normalised value, computed again, is positive: cheaper than reading the result.
    Recomputed,
    /// Where this result is positive.
    Result(&'a Stored<'a>),
}

impl Mask<'_> {
    /// `dy` past the rectifier, for the elements `at` of group `g`: where it is, or masked into `space`.
    fn pass<'s>(
        &self,
        a: &Affine,
        g: usize,
        at: Range<usize>,
        x: &[f32],
        dy: &'s [f32],
        space: &'s mut Space,
    ) -> &'s [f32] {
        let c = a.rows.c;
        let dz = &mut space.dz;
        match self {
            Mask::None => return dy,
            Mask::Recomputed => {
                dz.resize(dy.len(), 0.0);
                let (mean, scale, shift) = a.group(g);
                for ((dz, dy), x) in dz.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(x.chunks_exact(c)) {
                    for i in 0..c {
                        let z = (x[i] - mean[i]) * scale[i] + shift[i];
                        dz[i] = if z > 0.0 { dy[i] } else { 0.0 };
                    }
                }
            }
            Mask::Result(y) => {
                dz.resize(dy.len(), 0.0);
                let y = y.get(at, &mut space.y);
                for ((dz, dy), y) in dz.iter_mut().zip(dy).zip(y) {
                    *dz = if *y > 0.0 { *dy } else { 0.0 };
                }
            }
        }
        dz
    }
}

/// Where a task keeps converted and masked rows.
#[derive(Default)]
struct Space {
    y: Vec<f32>,
    dz: Vec<f32>,
}

/// Per group and channel: `Σ dz` and `Σ dz (x - mean)`, with `dz` the gradient past the rectifier.
#[derive(Clone, Copy, Default)]
pub(super) struct GradSums {
    dz: f64,
    dz_dev: f64,
}

/// The sums of the backward pass; `dz` is written to `out`, shaped like `x`, where it is wanted.
pub(super) fn grad_sums(a: &Affine, x: &Stored, dy: &Stored, mask: &Mask, out: Option<&mut [f32]>) -> Vec<GradSums> {
    let (p, c, chunks) = (&a.rows, a.rows.c, a.rows.rows.div_ceil(a.rows.chunk()));
    let mut parts = vec![0.0; p.groups * chunks * 2 * c];
    let chunk = |g: usize, k: usize, part: &mut [f32], out: Option<&mut [f32]>| {
        let (sum, dev) = part.split_at_mut(c);
        let (mut xs, mut dys, mut space) = (Vec::new(), Vec::new(), Space::default());
        let mut out = out.map(|out| out.chunks_mut(STEP * c));
        for at in p.steps(g, k) {
            let x = x.get(at.clone(), &mut xs);
            let dz = mask.pass(a, g, at.clone(), x, dy.get(at, &mut dys), &mut space);
            add_products(x, dz, a.group(g).0, sum, dev);
            if let Some(out) = &mut out {
                out.next().expect("as many steps as x has").copy_from_slice(dz);
            }
        }
    };
    match out {
        None => p.for_chunks(&mut parts, 2 * c, |g, k, part| chunk(g, k, part, None)),
        Some(out) => {
            let groups = out.par_chunks_mut(p.len()).zip(parts.par_chunks_mut(chunks * 2 * c));
            groups.enumerate().for_each(|(g, (out, parts))| {
                let pairs = out.par_chunks_mut(p.chunk() * c).zip(parts.par_chunks_mut(2 * c));
                pairs.enumerate().for_each(|(k, (out, part))| chunk(g, k, part, Some(out)));
            });
        }
    }
    let mut all = vec![GradSums::default(); p.groups * c];
    for (all, parts) in all.chunks_exact_mut(c).zip(parts.chunks_exact(chunks * 2 * c)) {
        for part in parts.chunks_exact(2 * c) {
            for (ch, s) in all.iter_mut().enumerate() {
                s.dz += f64::from(part[ch]);
                s.dz_dev += f64::from(part[c + ch]);
            }
        }
    }
    all
}

/// `sum += Σ dz`, `dev += Σ dz (x - mean)` over up to [`STEP`] rows.
fn add_products(x: &[f32], dz: &[f32], mean: &[f32], sum: &mut [f32], dev: &mut [f32]) {
    let c = mean.len();
    for (x, dz) in x.chunks_exact(c).zip(dz.chunks_exact(c)) {
        for i in 0..c {
            sum[i] += dz[i];
            dev[i] += dz[i] * (x[i] - mean[i]);
        }
    }
}

/// `dx = dz · a + (x - mean) · b + d` per group and channel.
pub(super) struct Slopes {
    a: Vec<f32>,
    b: Vec<f32>,
    d: Vec<f32>,
}

impl Slopes {
    pub fn new(saved: &Saved, gamma: &[f32], sums: &[GradSums]) -> Self {
        let a: Vec<f32> = saved.rstd.iter().zip(gamma.iter().cycle()).map(|(r, g)| r * g).collect();
        if !saved.of_batch {
            return Slopes { b: vec![0.0; a.len()], d: vec![0.0; a.len()], a };
        }
        let count = saved.rows.rows as f64;
        let each = || a.iter().zip(&saved.rstd).zip(sums).map(|((a, r), s)| (f64::from(*a), f64::from(*r), s));
        let b = each().map(|(a, r, s)| (-a * r * r * s.dz_dev / count) as f32).collect();
        let d = each().map(|(a, _, s)| (-a * s.dz / count) as f32).collect();
        Slopes { a, b, d }
    }
}

pub(super) fn grad_x(a: &Affine, s: &Slopes, x: &Stored, dy: &Stored, mask: &Mask, dx: &mut [f32]) {
    let (p, c) = (&a.rows, a.rows.c);
    p.for_chunks_of(dx, |g, k, dx| {
        let mean = a.group(g).0;
        let (sa, sb, sd) = (&s.a[g * c..][..c], &s.b[g * c..][..c], &s.d[g * c..][..c]);
        let (mut xs, mut dys, mut space) = (Vec::new(), Vec::new(), Space::default());
        for (at, dx) in p.steps(g, k).zip(dx.chunks_mut(STEP * c)) {
            let x = x.get(at.clone(), &mut xs);
            let dz = mask.pass(a, g, at.clone(), x, dy.get(at, &mut dys), &mut space);
            for ((dx, dz), x) in dx.chunks_exact_mut(c).zip(dz.chunks_exact(c)).zip(x.chunks_exact(c)) {
                for i in 0..c {
                    dx[i] = dz[i] * sa[i] + (x[i] - mean[i]) * sb[i] + sd[i];
                }
            }
        }
    });
}

/// The gradients of `gamma` and `beta`, summed over the groups.
pub(super) fn grad_affine(saved: &Saved, sums: &[GradSums]) -> (Vec<f32>, Vec<f32>) {
    let c = saved.rows.c;
    let total = |ch: usize, of: &dyn Fn(usize) -> f64| (ch..sums.len()).step_by(c).map(of).sum::<f64>() as f32;
    let dgamma = (0..c).map(|ch| total(ch, &|i| sums[i].dz_dev * f64::from(saved.rstd[i]))).collect();
    let dbeta = (0..c).map(|ch| total(ch, &|i| sums[i].dz)).collect();
    (dgamma, dbeta)
}
