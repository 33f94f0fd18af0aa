//! One task per row of an output (`w c`), channels innermost. Backward passes gather: each row of the input looks up
//! the windows that cover it, so nothing is written twice and the order of additions is fixed.

use super::Pool;
use crate::ops::widest::widest;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of one task are joined until they hold about this many elements.
const TASK: usize = 1 << 13;

/// Calls `f(n, t, h, row)` for every row `w c` of `out` with extents `t h w`.
fn for_rows<T: Send>(out: &mut [T], [t, h, w]: [usize; 3], c: usize, f: impl Fn(usize, usize, usize, &mut [T]) + Sync) {
    let row = w * c;
    if out.is_empty() {
        return;
    }
    let rows = (TASK / row).max(1);
    out.par_chunks_mut(rows * row).enumerate().for_each(|(task, chunk)| {
        for (i, line) in chunk.chunks_exact_mut(row).enumerate() {
            let r = task * rows + i;
            widest(
                #[inline(always)]
                || f(r / (t * h), r / h % t, r % h, line),
            );
        }
    });
}

impl Pool {
    /// The taps of output `o` on an axis that fall inside the input.
    pub(super) fn taps(&self, axis: usize, o: usize) -> Range<usize> {
        let (s, p, d) = (self.window.stride[axis], self.window.pad[axis], self.window.dilation[axis]);
        let first = p.saturating_sub(o * s).div_ceil(d);
        let end = (self.input[axis] + p).saturating_sub(o * s).div_ceil(d).min(self.kernel[axis]);
        first.min(end)..end
    }

    /// The input coordinate under `tap` of output `o`; the tap must be one of [`Pool::taps`].
    pub(super) fn under(&self, axis: usize, o: usize, tap: usize) -> usize {
        o * self.window.stride[axis] + tap * self.window.dilation[axis] - self.window.pad[axis]
    }

    /// The outputs whose windows touch input coordinate `i`, in order.
    fn over(&self, axis: usize, i: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let (s, p, d) = (self.window.stride[axis], self.window.pad[axis], self.window.dilation[axis]);
        let (k, out, at) = (self.kernel[axis], self.out[axis], i + p);
        let reach = d * (k - 1);
        let first = at.saturating_sub(reach).div_ceil(s);
        let end = (at / s + 1).min(out);
        (first..end.max(first)).filter(move |o| (at - o * s).is_multiple_of(d))
    }

    /// Index of the first channel of `(n, t, h, w)` in a tensor of extents `t h w c`.
    fn base(&self, [et, eh, ew]: [usize; 3], n: usize, t: usize, h: usize, w: usize) -> usize {
        (((n * et + t) * eh + h) * ew + w) * self.c
    }
}

pub(super) fn max(p: &Pool, x: &[f32], y: &mut [f32], at: &mut [u32]) {
    let row = p.out[2] * p.c;
    if y.is_empty() {
        return;
    }
    let rows = (TASK / row).max(1);
    y.par_chunks_mut(rows * row).zip(at.par_chunks_mut(rows * row)).enumerate().for_each(|(task, (y, at))| {
        for (i, (y, at)) in y.chunks_exact_mut(row).zip(at.chunks_exact_mut(row)).enumerate() {
            let r = task * rows + i;
            let (n, to, ho) = (r / (p.out[0] * p.out[1]), r / p.out[1] % p.out[0], r % p.out[1]);
            widest(
                #[inline(always)]
                || max_row(p, x, [n, to, ho], y, at),
            );
        }
    });
}

/// One row `w c` of the maxima and of their places.
#[inline(always)]
fn max_row(p: &Pool, x: &[f32], [n, to, ho]: [usize; 3], y: &mut [f32], at: &mut [u32]) {
    let (c, [_, h, w]) = (p.c, p.input);
    for (wo, (y, at)) in y.chunks_exact_mut(c).zip(at.chunks_exact_mut(c)).enumerate() {
        let mut first = true;
        for a in p.taps(0, to) {
            for b in p.taps(1, ho) {
                for d in p.taps(2, wo) {
                    let (ti, hi, wi) = (p.under(0, to, a), p.under(1, ho, b), p.under(2, wo, d));
                    let place = ((ti * h + hi) * w + wi) as u32;
                    let x = &x[p.base(p.input, n, ti, hi, wi)..][..c];
                    if first {
                        y.copy_from_slice(x);
                        at.fill(place);
                        first = false;
                        continue;
                    }
                    for ((y, at), &x) in y.iter_mut().zip(at.iter_mut()).zip(x) {
                        // A NaN wins once and then stays: nothing compares greater than it.
                        let wins = (x > *y) | (x.is_nan() & !y.is_nan());
                        *y = if wins { x } else { *y };
                        *at = if wins { place } else { *at };
                    }
                }
            }
        }
    }
}

pub(super) fn unpool(p: &Pool, dy: &[f32], at: &[u32], dx: &mut [f32]) {
    let (c, [_, h, w]) = (p.c, p.input);
    for_rows(
        dx,
        p.input,
        c,
        #[inline(always)]
        |n, ti, hi, row| {
            row.fill(0.0);
            for to in p.over(0, ti) {
                for ho in p.over(1, hi) {
                    for (wi, dx) in row.chunks_exact_mut(c).enumerate() {
                        let place = ((ti * h + hi) * w + wi) as u32;
                        for wo in p.over(2, wi) {
                            let o = p.base(p.out, n, to, ho, wo);
                            for ((dx, &dy), &at) in dx.iter_mut().zip(&dy[o..][..c]).zip(&at[o..][..c]) {
                                *dx += if at == place { dy } else { 0.0 };
                            }
                        }
                    }
                }
            }
        },
    );
}

pub(super) fn gather(p: &Pool, x: &[f32], at: &[u32], y: &mut [f32]) {
    let (c, sample) = (p.c, p.input.iter().product::<usize>() * p.c);
    for_rows(
        y,
        p.out,
        c,
        #[inline(always)]
        |n, to, ho, row| {
            let o = p.base(p.out, n, to, ho, 0);
            for (wo, y) in row.chunks_exact_mut(c).enumerate() {
                for (ch, (y, &at)) in y.iter_mut().zip(&at[o + wo * c..][..c]).enumerate() {
                    *y = x[n * sample + at as usize * c + ch];
                }
            }
        },
    );
}

pub(super) fn avg(p: &Pool, x: &[f32], y: &mut [f32]) {
    let c = p.c;
    let factor = 1.0 / p.kernel.iter().product::<usize>() as f32;
    for_rows(
        y,
        p.out,
        c,
        #[inline(always)]
        |n, to, ho, row| {
            row.fill(0.0);
            for a in p.taps(0, to) {
                for b in p.taps(1, ho) {
                    let line = p.base(p.input, n, p.under(0, to, a), p.under(1, ho, b), 0);
                    for (wo, y) in row.chunks_exact_mut(c).enumerate() {
                        for d in p.taps(2, wo) {
                            let x = &x[line + p.under(2, wo, d) * c..][..c];
                            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
                        }
                    }
                }
            }
            row.iter_mut().for_each(|y| *y *= factor);
        },
    );
}

pub(super) fn avg_back(p: &Pool, dy: &[f32], dx: &mut [f32]) {
    let c = p.c;
    let factor = 1.0 / p.kernel.iter().product::<usize>() as f32;
    for_rows(
        dx,
        p.input,
        c,
        #[inline(always)]
        |n, ti, hi, row| {
            row.fill(0.0);
            for to in p.over(0, ti) {
                for ho in p.over(1, hi) {
                    for (wi, dx) in row.chunks_exact_mut(c).enumerate() {
                        for wo in p.over(2, wi) {
                            let dy = &dy[p.base(p.out, n, to, ho, wo)..][..c];
                            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
                        }
                    }
                }
            }
            row.iter_mut().for_each(|dx| *dx *= factor);
        },
    );
}

/// Places summed at once before their sum joins the total: bounds the error of long means.
const BLOCK: usize = 64;

pub(super) fn global(x: &[f32], places: usize, c: usize, y: &mut [f32]) {
    if y.is_empty() {
        return;
    }
    y.par_chunks_mut(c).zip(x.par_chunks(places * c)).for_each(|(y, x)| {
        y.fill(0.0);
        let mut part = vec![0.0; c];
        for block in x.chunks(BLOCK * c) {
            part.fill(0.0);
            for row in block.chunks_exact(c) {
                part.iter_mut().zip(row).for_each(|(p, x)| *p += x);
            }
            y.iter_mut().zip(&part).for_each(|(y, p)| *y += p);
        }
        y.iter_mut().for_each(|y| *y /= places as f32);
    });
}

pub(super) fn global_back(dy: &[f32], places: usize, c: usize, dx: &mut [f32]) {
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_mut(places * c).zip(dy.par_chunks(c)).for_each(|(dx, dy)| {
        let share: Vec<f32> = dy.iter().map(|dy| dy / places as f32).collect();
        dx.chunks_exact_mut(c).for_each(|dx| dx.copy_from_slice(&share));
    });
}
