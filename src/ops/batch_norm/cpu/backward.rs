//! The backward pass: two sums per channel, then the gradient of `x`.

use super::{Affine, Line, fold};
use crate::ops::batch_norm::Saved;
use crate::ops::widest::widest;
use crate::tensor::Element;
use rayon::prelude::*;

/// What the rectifier lets through.
pub(in crate::ops::batch_norm) enum Mask<'a, T> {
    /// Everything: there is none.
    None,
    /// Where the normalised value, computed again, is positive: cheaper than reading the result.
    Recomputed,
    /// Where this result is positive.
    Result(&'a [T]),
}

impl<T: Element> Mask<'_, T> {
    /// `dy` past the rectifier, written to `dz`, for a line that starts at element `at` of the whole.
    #[inline(always)]
    fn pass(&self, affine: Line, at: usize, x: &[f32], dy: &[f32], dz: &mut [f32], space: &mut [f32]) {
        match self {
            Mask::None => dz.copy_from_slice(dy),
            Mask::Recomputed => {
                affine.apply(x, dz);
                for (dz, dy) in dz.iter_mut().zip(dy) {
                    *dz = if *dz > 0.0 { *dy } else { 0.0 };
                }
            }
            Mask::Result(y) => {
                let y = T::read(&y[at..][..dz.len()], space);
                for ((dz, dy), y) in dz.iter_mut().zip(dy).zip(y) {
                    *dz = if *y > 0.0 { *dy } else { 0.0 };
                }
            }
        }
    }
}

/// Per group and channel: `Σ dz` and `Σ dz (x - mean)`, with `dz` the gradient past the rectifier.
#[derive(Clone, Copy, Default)]
pub(in crate::ops::batch_norm) struct GradSums {
    dz: f64,
    dz_dev: f64,
}

/// The sums of the backward pass; `dz` is written to `out`, shaped like `x`, where it is wanted.
pub(in crate::ops::batch_norm) fn grad_sums<T: Element>(
    a: &Affine,
    x: &[T],
    dy: &[T],
    mask: &Mask<T>,
    out: Option<&mut [T]>,
) -> Vec<GradSums> {
    let (p, c, chunks) = (&a.rows, a.rows.c, a.rows.chunks());
    let mut parts = vec![0.0; p.groups * chunks * 2 * c];
    let chunk = |i: usize, part: &mut [f32], out: Option<&mut [T]>| {
        widest(
            #[inline(always)]
            || chunk_grad_sums(a, [x, dy], mask, [i / chunks, i % chunks], part, out),
        );
    };
    match out {
        None => parts.par_chunks_mut(2 * c).enumerate().for_each(|(i, part)| chunk(i, part, None)),
        Some(out) => {
            let groups = out.par_chunks_mut(p.group()).zip(parts.par_chunks_mut(chunks * 2 * c));
            groups.enumerate().for_each(|(g, (out, parts))| {
                let pairs = out.par_chunks_mut(p.chunk()).zip(parts.par_chunks_mut(2 * c));
                pairs.enumerate().for_each(|(k, (out, part))| chunk(g * chunks + k, part, Some(out)));
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

/// `[Σ dz, Σ dz (x - mean)]` of chunk `k` of group `g`, each `[c]`.
#[inline(always)]
fn chunk_grad_sums<T: Element>(
    a: &Affine,
    [x, dy]: [&[T]; 2],
    mask: &Mask<T>,
    [g, k]: [usize; 2],
    part: &mut [f32],
    mut out: Option<&mut [T]>,
) {
    let (p, line, affine) = (&a.rows, a.rows.line(), a.group(g));
    let start = g * p.group() + k * p.chunk();
    let mut work = vec![0.0; 6 * line];
    let mut work = work.chunks_exact_mut(line);
    let [sum, dev, xs, dys, dzs, ys] = std::array::from_fn(|_| work.next().expect("six lines"));
    for (i, (x, dy)) in p.part(x, g, k).chunks(line).zip(p.part(dy, g, k).chunks(line)).enumerate() {
        let (x, dy) = (T::read(x, xs), T::read(dy, dys));
        let dz = &mut dzs[..dy.len()];
        mask.pass(affine, start + i * line, x, dy, dz, ys);
        for ((((s, d), z), x), m) in sum.iter_mut().zip(dev.iter_mut()).zip(dz.iter()).zip(x).zip(affine.mean) {
            *s += z;
            *d += z * (x - m);
        }
        if let Some(out) = out.as_deref_mut() {
            T::write(&mut out[i * line..][..dz.len()], ys, |out| out.copy_from_slice(dz));
        }
    }
    let (row_sum, row_dev) = part.split_at_mut(p.c);
    fold(sum, row_sum);
    fold(dev, row_dev);
}

/// `dx = dz · a + (x - mean) · b + d` per group and channel.
pub(in crate::ops::batch_norm) struct Slopes {
    a: Vec<f32>,
    b: Vec<f32>,
    d: Vec<f32>,
}

impl Slopes {
    pub fn new(saved: &Saved, gamma: &[f32], sums: &[GradSums]) -> Self {
        let p = &saved.rows;
        // Given statistics are constants: nothing flows through them.
        let share = if saved.of_batch { 1.0 / p.rows as f64 } else { 0.0 };
        let rstd = saved.rstd.host();
        let each = || {
            let scaled = rstd.iter().zip(gamma.iter().cycle()).zip(sums);
            scaled.map(|((r, g), s)| (f64::from(r * g), f64::from(*r), s))
        };
        Slopes {
            a: p.tiled(each().map(|(a, _, _)| a as f32)),
            b: p.tiled(each().map(|(a, r, s)| (-a * r * r * s.dz_dev * share) as f32)),
            d: p.tiled(each().map(|(a, _, s)| (-a * s.dz * share) as f32)),
        }
    }
}

pub(in crate::ops::batch_norm) fn grad_x<T: Element>(
    a: &Affine,
    slopes: &Slopes,
    x: &[T],
    dy: &[T],
    mask: &Mask<T>,
    dx: &mut [T],
) {
    let (p, line) = (&a.rows, a.rows.line());
    p.for_chunks(dx, |g, k, dx| {
        let (affine, x, dy) = (a.group(g), p.part(x, g, k), p.part(dy, g, k));
        let [sa, sb, sd] = [&slopes.a, &slopes.b, &slopes.d].map(|s| &s[g * line..(g + 1) * line]);
        let start = g * p.group() + k * p.chunk();
        widest(
            #[inline(always)]
            || {
                let mut work = vec![0.0; 4 * line];
                let mut work = work.chunks_exact_mut(line);
                let [xs, dys, out, ys] = std::array::from_fn(|_| work.next().expect("four lines"));
                for (i, ((x, dy), dx)) in x.chunks(line).zip(dy.chunks(line)).zip(dx.chunks_mut(line)).enumerate() {
                    let (x, dy) = (T::read(x, xs), T::read(dy, dys));
                    T::write(
                        dx,
                        out,
                        #[inline(always)]
                        |dx| {
                            mask.pass(affine, start + i * line, x, dy, dx, ys);
                            let slopes = sa.iter().zip(sb).zip(sd);
                            for (((dx, x), m), ((a, b), d)) in dx.iter_mut().zip(x).zip(affine.mean).zip(slopes) {
                                *dx = *dx * a + (x - m) * b + d;
                            }
                        },
                    );
                }
            },
        );
    });
}

/// The gradients of `gamma` and `beta`, summed over the groups.
pub(in crate::ops::batch_norm) fn grad_affine(saved: &Saved, sums: &[GradSums]) -> (Vec<f32>, Vec<f32>) {
    let (c, rstd) = (saved.rows.c, saved.rstd.host());
    let total = |ch: usize, of: &dyn Fn(usize) -> f64| (ch..sums.len()).step_by(c).map(of).sum::<f64>() as f32;
    let dgamma = (0..c).map(|ch| total(ch, &|i| sums[i].dz_dev * f64::from(rstd[i]))).collect();
    let dbeta = (0..c).map(|ch| total(ch, &|i| sums[i].dz)).collect();
    (dgamma, dbeta)
}
