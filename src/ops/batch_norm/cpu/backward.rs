//! The backward pass: two sums per channel, then the gradient of `x`.

use super::{Lines, fold};
use crate::error::Result;
use crate::ops::batch_norm::lines::{Accumulators, Line, Mask};
use crate::ops::batch_norm::{Norm, Peers, Rows};
use crate::ops::lanes::{self, Lanes, Stored, Vectorized, whole};
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Per part and channel: `Σ dz` and `Σ dz (x - mean)`, where `dz` is the gradient after ReLU's mask.
#[derive(Clone, Copy, Default)]
pub(in crate::ops::batch_norm) struct GradSums {
    dz: f64,
    dz_dev: f64,
}

/// The same from `Σ dz` and `Σ dz` times the normalised input, `[parts 2 c]`.
pub(in crate::ops::batch_norm) fn past_sums(norm: &Norm, sums: &[f32]) -> Result<Vec<GradSums>> {
    let c = norm.channels();
    let one = |(i, inv_std): (usize, &f32)| {
        let at = i / c * 2 * c + i % c;
        GradSums { dz: f64::from(sums[at]), dz_dev: f64::from(sums[at + c]) / f64::from(*inv_std) }
    };
    Ok(norm.inv_std().host()?.iter().enumerate().map(one).collect())
}

/// The sums of all peers, from those of this one.
pub(in crate::ops::batch_norm) fn sums_over(peers: &dyn Peers, own: &[GradSums]) -> Result<Vec<GradSums>> {
    let sums: Vec<f32> = own.iter().flat_map(|s| [s.dz as f32, s.dz_dev as f32]).collect();
    let all = peers.gather(&Tensor::from_f32([sums.len()], &sums)?)?;
    let all = all.host()?;
    let sum = |i: usize| all.iter().skip(i).step_by(sums.len()).map(|v| f64::from(*v)).sum();
    Ok((0..own.len()).map(|ch| GradSums { dz: sum(2 * ch), dz_dev: sum(2 * ch + 1) }).collect())
}

/// The sums of the backward pass; `dz` is written to `out`, shaped like `x`, if that is given.
pub(in crate::ops::batch_norm) fn grad_sums<T: Stored>(
    lines: &Lines,
    x: &[T],
    dy: &[T],
    mask: Mask<T>,
    out: Option<&mut [T]>,
) -> Vec<GradSums> {
    let (p, c, chunks) = (&lines.rows, lines.rows.c, lines.rows.chunks());
    let mut parts = vec![0.0; p.parts * chunks * 2 * c];
    let chunk = |i: usize, part: &mut [f32], out: Option<&mut [T]>| {
        let (g, k) = (i / chunks, i % chunks);
        let mask = mask.from(g * p.part() + k * p.chunk());
        let (of, x, dy) = (lines.of_part(g), p.piece(x, g, k), p.piece(dy, g, k));
        lanes::run(ChunkSums { of, line: p.line(), x, dy, mask, part, out });
    };
    match out {
        None => parts.par_chunks_mut(2 * c).enumerate().for_each(|(i, part)| chunk(i, part, None)),
        Some(out) => {
            let both = out.par_chunks_mut(p.part()).zip(parts.par_chunks_mut(chunks * 2 * c));
            both.enumerate().for_each(|(g, (out, parts))| {
                let pairs = out.par_chunks_mut(p.chunk()).zip(parts.par_chunks_mut(2 * c));
                pairs.enumerate().for_each(|(k, (out, part))| chunk(g * chunks + k, part, Some(out)));
            });
        }
    }
    let mut all = vec![GradSums::default(); p.parts * c];
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

/// `[Σ dz, Σ dz (x - mean)]` of one chunk, each `[c]`.
struct ChunkSums<'a, T> {
    of: Line<'a>,
    line: usize,
    x: &'a [T],
    dy: &'a [T],
    mask: Mask<'a, T>,
    part: &'a mut [f32],
    out: Option<&'a mut [T]>,
}

impl<T: Stored> Vectorized for ChunkSums<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let ChunkSums { of, line, x, dy, mask, part, mut out } = self;
        let mut work = vec![0.0; 2 * whole(line)];
        let (one, two) = work.split_at_mut(whole(line));
        let mut sums = Accumulators { one, two };
        for (i, (x, dy)) in x.chunks(line).zip(dy.chunks(line)).enumerate() {
            let out = out.as_deref_mut().map_or(std::ptr::null_mut(), |out| out[i * line..][..x.len()].as_mut_ptr());
            let dy = [dy[..x.len()].as_ptr(), std::ptr::null()];
            // SAFETY: both have the elements of `x`, as was just checked; the instruction set is the caller's promise.
            unsafe { of.grad_sums::<V, T>(x, dy, mask.from(i * line), out, &mut sums) };
        }
        let (row_sum, row_dev) = part.split_at_mut(part.len() / 2);
        fold(&sums.one[..line], row_sum);
        fold(&sums.two[..line], row_dev);
    }
}

/// `dx = dz · a + (x - mean) · b + d` per part and channel.
pub(in crate::ops::batch_norm) struct Slopes {
    a: Vec<f32>,
    b: Vec<f32>,
    d: Vec<f32>,
}

impl Slopes {
    pub fn new(p: &Rows, norm: &Norm, sums: &[GradSums]) -> Result<Self> {
        // Given statistics are constants: no gradient passes through them.
        let count = norm.peers().map_or(1, Peers::count);
        let share = if norm.of_batch() { 1.0 / (p.rows * count) as f64 } else { 0.0 };
        let (inv_std, gamma) = (norm.inv_std().host()?, norm.gamma().host()?);
        let each = || {
            let scaled = inv_std.iter().zip(gamma.iter().cycle()).zip(sums);
            scaled.map(|((r, g), s)| (f64::from(r * g), f64::from(*r), s))
        };
        Ok(Slopes {
            a: p.tiled(each().map(|(a, _, _)| a as f32)),
            b: p.tiled(each().map(|(a, r, s)| (-a * r * r * s.dz_dev * share) as f32)),
            d: p.tiled(each().map(|(a, _, s)| (-a * s.dz * share) as f32)),
        })
    }
}

pub(in crate::ops::batch_norm) fn grad_x<T: Stored>(
    lines: &Lines,
    slopes: &Slopes,
    x: &[T],
    dy: &[T],
    mask: Mask<T>,
    dx: &mut [T],
) {
    let (p, line) = (&lines.rows, lines.rows.line());
    p.for_chunks(dx, |g, k, dx| {
        let slopes = [&slopes.a, &slopes.b, &slopes.d].map(|s| &s[g * line..(g + 1) * line]);
        let mask = mask.from(g * p.part() + k * p.chunk());
        lanes::run(Chunk { of: lines.of_part(g), slopes, x: p.piece(x, g, k), dy: p.piece(dy, g, k), mask, dx });
    });
}

/// One chunk of the gradient of `x`.
struct Chunk<'a, T> {
    of: Line<'a>,
    slopes: [&'a [f32]; 3],
    x: &'a [T],
    dy: &'a [T],
    mask: Mask<'a, T>,
    dx: &'a mut [T],
}

impl<T: Stored> Vectorized for Chunk<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let line = self.slopes[0].len();
        let lines = self.x.chunks(line).zip(self.dy.chunks(line)).zip(self.dx.chunks_mut(line));
        for (i, ((x, dy), dx)) in lines.enumerate() {
            // SAFETY: the instruction set is the caller's promise.
            unsafe { self.of.grad_x::<V, T>(self.slopes, x, dy, self.mask.from(i * line), dx) };
        }
    }
}

/// The gradients of `gamma` and `beta`, summed over the parts.
pub(in crate::ops::batch_norm) fn grad_affine(norm: &Norm, sums: &[GradSums]) -> Result<(Vec<f32>, Vec<f32>)> {
    let (c, inv_std) = (norm.channels(), norm.inv_std().host()?);
    let total = |ch: usize, of: &dyn Fn(usize) -> f64| (ch..sums.len()).step_by(c).map(of).sum::<f64>() as f32;
    let dgamma = (0..c).map(|ch| total(ch, &|i| sums[i].dz_dev * f64::from(inv_std[i]))).collect();
    let dbeta = (0..c).map(|ch| total(ch, &|i| sums[i].dz)).collect();
    Ok((dgamma, dbeta))
}
