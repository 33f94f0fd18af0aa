//! Batch norm on the CPU. It is memory-bound, so each pass reads each tensor once, in chunks that stay in the cache.
//!
//! Rows are processed in *lines* of several rows: the parameters of a row are repeated for each row of a line, so that
//! every inner loop has a few hundred iterations, however few the channels. Chunks depend on the shape alone, and their
//! sums are merged in order, in f64: the same bits for any number of threads.

mod backward;

pub(super) use backward::{Slopes, grad_affine, grad_sums, grad_x, past_sums, sums_over};

use super::lines::{Accumulators, Line, moments};
use super::{BatchStatistics, Norm, Peers, Rows, vector};
use crate::error::Result;
use crate::ops::lanes::{self, Lanes, Stored, Vectorized, whole};
use crate::tensor::{Element, Tensor};
use rayon::prelude::*;

/// Minimum number of elements of a line, where there are enough rows.
const LINE: usize = 512;

/// Lines per chunk (128 KiB of f32 where a row is no longer than a line).
const LINES: usize = 64;

impl Rows {
    /// Rows per line.
    fn step(&self) -> usize {
        (LINE / self.c).clamp(1, self.rows)
    }

    /// Elements per line.
    fn line(&self) -> usize {
        self.step() * self.c
    }

    /// Elements per chunk. Rows much longer than [`LINE`] make chunks of fewer lines.
    fn chunk(&self) -> usize {
        self.line() * (LINES * LINE / self.line()).clamp(16, LINES)
    }

    /// Elements per part.
    fn part(&self) -> usize {
        self.rows * self.c
    }

    /// Chunks per part.
    fn chunks(&self) -> usize {
        self.part().div_ceil(self.chunk())
    }

    /// The elements of chunk `k` of part `g`.
    fn piece<'a, T>(&self, of: &'a [T], g: usize, k: usize) -> &'a [T] {
        let of = &of[g * self.part()..][..self.part()];
        &of[k * self.chunk()..((k + 1) * self.chunk()).min(of.len())]
    }

    /// Calls `f(g, k, out)` for each chunk `k` of each part `g` with its elements of `out`, which is shaped like `x`.
    fn for_chunks<T: Element>(&self, out: &mut [T], f: impl Fn(usize, usize, &mut [T]) + Sync) {
        out.par_chunks_mut(self.part()).enumerate().for_each(|(g, out)| {
            out.par_chunks_mut(self.chunk()).enumerate().for_each(|(k, out)| f(g, k, out));
        });
    }

    /// `v[parts c]` repeated for each row of a line: `[parts line]`.
    fn tiled(&self, v: impl Iterator<Item = f32>) -> Vec<f32> {
        let v: Vec<f32> = v.collect();
        v.chunks_exact(self.c).flat_map(|v| v.iter().cycle().take(self.line())).copied().collect()
    }
}

/// Sums the rows of a line into `to`, one row.
fn fold(line: &[f32], to: &mut [f32]) {
    to.fill(0.0);
    for row in line.chunks_exact(to.len()) {
        to.iter_mut().zip(row).for_each(|(t, v)| *t += v);
    }
}

/// Mean and sum of squared deviations of one channel of one part.
#[derive(Clone, Copy, Default)]
pub(super) struct Merged {
    pub mean: f64,
    pub m2: f64,
}

/// Mean and squared deviations per part and channel, from the sums `[parts 2 c]` relative to `shift [c]`.
pub(super) fn from_sums(p: &Rows, shift: &[f32], sums: &[f32]) -> Vec<Merged> {
    let merged = |(i, near): (usize, &f32)| {
        let at = i / p.c * 2 * p.c + i % p.c;
        let (sum, square) = (f64::from(sums[at]), f64::from(sums[at + p.c]));
        let per = sum / p.rows as f64;
        Merged { mean: f64::from(*near) + per, m2: (square - sum * per).max(0.0) }
    };
    shift.iter().cycle().take(p.parts * p.c).enumerate().map(merged).collect()
}

/// How many tasks a pass over an array is divided into.
pub(super) fn tasks(p: &Rows) -> usize {
    p.parts * p.chunks()
}

/// How many numbers [`chunk_sums`] writes.
pub(super) fn chunk_sums_len(p: &Rows) -> usize {
    tasks(p) * 3 * p.c
}

/// Rows per chunk, and for each chunk the sums of `d = x - s` and of `d²`, in f32, where the shift `s` is the mean of
/// the chunk's first line: `[parts chunks 3 c]`.
pub(super) fn chunk_sums<T: Stored>(p: &Rows, x: &[T]) -> Result<(usize, Tensor)> {
    let (c, chunks) = (p.c, p.chunks());
    let sums = Tensor::build([p.parts, chunks, 3, c], |sums| {
        sums.par_chunks_mut(3 * c).enumerate().for_each(|(i, sums)| {
            lanes::run(ChunkSums { p, x: p.piece(x, i / chunks, i % chunks), sums });
        });
    })?;
    Ok((p.chunk() / c, sums))
}

/// Mean and squared deviations per part and channel, from [`chunk_sums`]. Chunks are merged in f64 by `M2 = Σ_k [m2_k +
/// n_k (mean_k - mean)²]`, which has no cancellation.
pub(super) fn merge_chunks(p: &Rows, sums: &[f32]) -> Vec<Merged> {
    let (c, chunks) = (p.c, p.chunks());
    let mut all = vec![Merged::default(); p.parts * c];
    for (all, parts) in all.chunks_exact_mut(c).zip(sums.chunks_exact(chunks * 3 * c)) {
        // For each chunk: its sums and its number of rows.
        let each = || {
            let count = |k: usize| (p.part() - k * p.chunk()).min(p.chunk()) / c;
            parts.chunks_exact(3 * c).enumerate().map(move |(k, part)| (part, count(k) as f64))
        };
        for (part, n) in each() {
            let (per_row, share) = (1.0 / n, n / p.rows as f64);
            for ((s, shift), sum) in all.iter_mut().zip(&part[..c]).zip(&part[c..2 * c]) {
                s.mean += (f64::from(*shift) + f64::from(*sum) * per_row) * share;
            }
        }
        for (part, n) in each() {
            let per_row = 1.0 / n;
            let parts = part[..c].iter().zip(&part[c..2 * c]).zip(&part[2 * c..]);
            for (s, ((shift, sum), square)) in all.iter_mut().zip(parts) {
                let (shift, sum, square) = (f64::from(*shift), f64::from(*sum), f64::from(*square));
                let off = shift + sum * per_row - s.mean;
                s.m2 += (square - sum * sum * per_row).max(0.0) + n * off * off;
            }
        }
    }
    all
}

/// Mean and squared deviations of all peers, each of which has as many rows, from those of this one: each sends its own as the
/// sums of one chunk about its mean, rounded, and they are merged as chunks are, in the order of the peers.
pub(super) fn merge_peers(peers: &dyn Peers, p: &Rows, own: &[Merged]) -> Result<Vec<Merged>> {
    let (c, n) = (p.c, p.rows as f64);
    let chunk = Tensor::build([3 * c], |chunk| {
        for (ch, s) in own.iter().enumerate() {
            let left = s.mean - f64::from(s.mean as f32);
            let sums = [s.mean as f32, (n * left) as f32, (s.m2 + n * left * left) as f32];
            sums.into_iter().enumerate().for_each(|(i, v)| chunk[i * c + ch] = v);
        }
    })?;
    let all = peers.gather(&chunk)?;
    let all = all.host()?;
    let merged = |ch: usize| {
        let each = || all.chunks_exact(3 * c).map(move |of| [0, 1, 2].map(|i| f64::from(of[i * c + ch])));
        let mean = each().map(|[shift, sum, _]| shift + sum / n).sum::<f64>() / peers.count() as f64;
        let apart =
            |[shift, sum, square]: [f64; 3]| (square - sum * sum / n).max(0.0) + n * (shift + sum / n - mean).powi(2);
        Merged { mean, m2: each().map(apart).sum() }
    };
    Ok((0..c).map(merged).collect())
}

/// `[shift, Σ d, Σ d²]` of one chunk, each `[c]`.
struct ChunkSums<'a, T> {
    p: &'a Rows,
    x: &'a [T],
    sums: &'a mut [f32],
}

impl<T: Stored> Vectorized for ChunkSums<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let ChunkSums { p, x, sums: out } = self;
        let (c, line) = (p.c, p.line());
        let (row_shift, row_sums) = out.split_at_mut(c);
        let mut work = vec![0.0; 3 * whole(line)];
        let (shift, rest) = work.split_at_mut(whole(line));
        let (one, two) = rest.split_at_mut(whole(line));

        let first = &x[..line.min(x.len())];
        lanes::each(
            first.len(),
            #[inline(always)]
            |at, n| {
                // SAFETY: `each` stays inside of both; the instruction set is the caller's promise.
                unsafe { T::get::<V>(first.as_ptr().add(at), n).store(one.as_mut_ptr().add(at), n) }
            },
        );
        fold(&one[..first.len()], row_shift);
        one.fill(0.0);
        let rows = (first.len() / c) as f32;
        row_shift.iter_mut().for_each(|s| *s /= rows);
        shift[..line].chunks_exact_mut(c).for_each(|s| s.copy_from_slice(row_shift));

        let mut sums = Accumulators { one, two };
        for x in x.chunks(line) {
            // SAFETY: as above.
            unsafe { moments::<V, T>(x, shift, &mut sums) };
        }
        let (row_sum, row_square) = row_sums.split_at_mut(c);
        fold(&sums.one[..line], row_sum);
        fold(&sums.two[..line], row_square);
    }
}

/// The statistics of the whole batch, all parts together.
pub(super) fn whole_batch(p: &Rows, merged: &[Merged]) -> Result<BatchStatistics> {
    let total = (p.parts * p.rows) as f64;
    let (mut mean, mut var) = (Vec::with_capacity(p.c), Vec::with_capacity(p.c));
    for ch in 0..p.c {
        let of_parts = || merged.iter().skip(ch).step_by(p.c);
        let m = of_parts().map(|s| s.mean).sum::<f64>() / p.parts as f64;
        let m2: f64 = of_parts().map(|s| s.m2 + p.rows as f64 * (s.mean - m).powi(2)).sum();
        mean.push(m as f32);
        var.push((m2 / (total - 1.0)) as f32);
    }
    Ok(BatchStatistics { mean: vector(mean.into_iter())?, var: vector(var.into_iter())? })
}

/// The numbers of a [`Norm`] as vector code reads them: for each part, repeated for each row of a line.
pub(in crate::ops) struct Lines {
    rows: Rows,
    mean: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Lines {
    /// The numbers of `norm`, for an `x` that divides into `rows`.
    pub fn new(rows: &Rows, norm: &Norm) -> Result<Self> {
        let [mean, inv_std, gamma, beta] = [norm.mean(), norm.inv_std(), norm.gamma(), norm.beta()].map(Tensor::host);
        let (mean, inv_std, gamma, beta) = (mean?, inv_std?, gamma?, beta?);
        let scale = inv_std.iter().zip(gamma.iter().cycle()).map(|(r, g)| r * g);
        let shift = beta.iter().cycle().take(rows.parts * rows.c).copied();
        Ok(Lines {
            rows: *rows,
            mean: rows.tiled(mean.iter().copied()),
            scale: rows.tiled(scale),
            shift: rows.tiled(shift),
        })
    }

    /// The parameters for the part that contains element `at`: a line of them.
    #[cfg(target_arch = "x86_64")] // used by the AMX engine only
    pub fn line(&self, at: usize) -> Line<'_> {
        self.of_part(at / self.rows.part())
    }

    fn of_part(&self, g: usize) -> Line<'_> {
        let at = g * self.rows.line()..(g + 1) * self.rows.line();
        Line { mean: &self.mean[at.clone()], scale: &self.scale[at.clone()], shift: &self.shift[at] }
    }

    /// Normalises `x`, with `residual` added and ReLU applied where requested.
    pub(super) fn normalise<T: Stored>(&self, x: &[T], residual: Option<&[T]>, relu: bool, y: &mut [T]) {
        let p = &self.rows;
        p.for_chunks(y, |g, k, y| {
            let residual = residual.map(|r| p.piece(r, g, k));
            lanes::run(Normalise { of: self.of_part(g), line: p.line(), x: p.piece(x, g, k), residual, relu, y });
        });
    }
}

/// One chunk of the result.
struct Normalise<'a, T> {
    of: Line<'a>,
    line: usize,
    x: &'a [T],
    residual: Option<&'a [T]>,
    relu: bool,
    y: &'a mut [T],
}

impl<T: Stored> Vectorized for Normalise<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        for (i, (x, y)) in self.x.chunks(self.line).zip(self.y.chunks_mut(self.line)).enumerate() {
            let residual = self.residual.map(|r| &r[i * self.line..][..x.len()]);
            // SAFETY: the instruction set is the caller's promise.
            unsafe { self.of.normalise::<V, T>(x, residual, self.relu, y) };
        }
    }
}
