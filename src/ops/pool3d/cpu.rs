//! One task per row (`w c`) of an output, channels innermost. Backward passes gather: each row of the input looks up
//! the windows that cover it, so nothing is written twice and the order of additions is fixed. Numbers are widened as
//! they are read; sums over several windows accumulate in a row of f32.

use super::Pool;
use crate::ops::lanes::{self, Lanes, Stored, Vectorized, each};
use rayon::prelude::*;
use std::ops::Range;

/// Rows are combined into tasks of about this many elements.
const TASK: usize = 1 << 13;

/// Rows of so many elements in a task.
pub(super) fn rows_per_task(row: usize) -> usize {
    (TASK / row.max(1)).max(1)
}

/// The computation of one row `w c` of an output.
trait Rows<T>: Sync {
    /// # Safety
    /// The instruction set of `V` must be available. Must be `#[inline(always)]`.
    unsafe fn row<V: Lanes>(&self, at: [usize; 3], row: &mut [T]);
}

/// Calls `f` for every row `w c` of `out`, which has extents `t h w`, with its `n`, `t` and `h`.
fn for_rows<T: Stored>(out: &mut [T], [t, h, w]: [usize; 3], c: usize, f: impl Rows<T>) {
    struct Task<'a, T, F> {
        rows: std::slice::ChunksExactMut<'a, T>,
        first: usize,
        extents: [usize; 2],
        f: &'a F,
    }

    impl<T: Stored, F: Rows<T>> Vectorized for Task<'_, T, F> {
        #[inline(always)]
        unsafe fn run<V: Lanes>(self) {
            let [t, h] = self.extents;
            for (r, row) in (self.first..).zip(self.rows) {
                // SAFETY: the caller's promise.
                unsafe { self.f.row::<V>([r / (t * h), r / h % t, r % h], row) };
            }
        }
    }

    let row = w * c;
    if out.is_empty() {
        return;
    }
    let rows = rows_per_task(row);
    out.par_chunks_mut(rows * row).enumerate().for_each(|(task, chunk)| {
        lanes::run(Task { rows: chunk.chunks_exact_mut(row), first: task * rows, extents: [t, h], f: &f });
    });
}

impl Pool {
    /// The taps of output `o` on an axis that are inside the input.
    pub(super) fn taps(&self, axis: usize, o: usize) -> Range<usize> {
        let (s, p, d) = (self.window.stride[axis], self.window.pad[axis], self.window.dilation[axis]);
        let first = p.saturating_sub(o * s).div_ceil(d);
        let end = (self.input[axis] + p).saturating_sub(o * s).div_ceil(d).min(self.kernel[axis]);
        first.min(end)..end
    }

    /// The input coordinate of `tap` for output `o`; the tap must be one of [`Pool::taps`].
    pub(super) fn under(&self, axis: usize, o: usize, tap: usize) -> usize {
        o * self.window.stride[axis] + tap * self.window.dilation[axis] - self.window.pad[axis]
    }

    /// The outputs whose windows cover input coordinate `i`, in order.
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

/// Maxima and their positions.
struct Max<'a, T> {
    p: &'a Pool,
    x: &'a [T],
    /// The positions, written by the tasks; each task writes those of its own rows.
    at: Places,
}

#[derive(Clone, Copy)]
struct Places(*mut u32);

// SAFETY: tasks write the positions of different rows.
unsafe impl Send for Places {}
// SAFETY: as above.
unsafe impl Sync for Places {}

pub(super) fn max<T: Stored>(p: &Pool, x: &[T], y: &mut [T], at: &mut [u32]) {
    assert_eq!(y.len(), at.len());
    for_rows(y, p.out, p.c, Max { p, x, at: Places(at.as_mut_ptr()) });
}

impl<T: Stored> Rows<T> for Max<'_, T> {
    #[inline(always)]
    unsafe fn row<V: Lanes>(&self, [n, to, ho]: [usize; 3], row: &mut [T]) {
        let (p, (c, [_, h, w])) = (self.p, (self.p.c, self.p.input));
        let first = p.base(p.out, n, to, ho, 0);
        // SAFETY: the positions of this row, which no other task accesses.
        let at = unsafe { std::slice::from_raw_parts_mut(self.at.0.add(first), row.len()) };
        // Where the taps of a window read, and their positions.
        let mut taps: Vec<(*const T, u32)> = Vec::new();
        for (wo, (y, at)) in row.chunks_exact_mut(c).zip(at.chunks_exact_mut(c)).enumerate() {
            taps.clear();
            for a in p.taps(0, to) {
                for b in p.taps(1, ho) {
                    for d in p.taps(2, wo) {
                        let (ti, hi, wi) = (p.under(0, to, a), p.under(1, ho, b), p.under(2, wo, d));
                        let x = &self.x[p.base(p.input, n, ti, hi, wi)..][..c];
                        taps.push((x.as_ptr(), ((ti * h + hi) * w + wi) as u32));
                    }
                }
            }
            let Some((&(x, place), rest)) = taps.split_first() else { unreachable!("every window touches the input") };
            each(
                c,
                #[inline(always)]
                |i, n| {
                    // SAFETY: all have `c` numbers, and `each` stays within them; the instruction set is the caller's
                    // promise.
                    unsafe {
                        let (mut best, mut from) = (T::get::<V>(x.add(i), n), V::places(place));
                        for &(x, place) in rest {
                            (best, from) = best.greater(from, T::get::<V>(x.add(i), n), place);
                        }
                        T::put(y.as_mut_ptr().add(i), best, n);
                        V::store_places(from, at.as_mut_ptr().add(i), n);
                    }
                },
            );
        }
    }
}

/// `to = from`
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn widen<V: Lanes, T: Stored>(from: &[T], to: &mut [f32]) {
    assert!(to.len() >= from.len());
    // SAFETY: `each` stays inside of both.
    each(
        from.len(),
        #[inline(always)]
        |at, n| unsafe { T::get::<V>(from.as_ptr().add(at), n).store(to.as_mut_ptr().add(at), n) },
    );
}

/// `to += from`
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn add<V: Lanes, T: Stored>(from: &[T], to: &mut [f32]) {
    assert!(to.len() >= from.len());
    // SAFETY: `each` stays inside of both.
    each(
        from.len(),
        #[inline(always)]
        |at, n| unsafe {
            let to = to.as_mut_ptr().add(at);
            V::load(to, n).add(T::get(from.as_ptr().add(at), n)).store(to, n);
        },
    );
}

/// `to = factor · from`, rounded.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn narrow<V: Lanes, T: Stored>(from: &[f32], factor: f32, to: &mut [T]) {
    assert!(from.len() >= to.len());
    // SAFETY: `each` stays inside of both.
    each(
        to.len(),
        #[inline(always)]
        |at, n| unsafe {
            T::put::<V>(to.as_mut_ptr().add(at), V::load(from.as_ptr().add(at), n).mul(V::splat(factor)), n);
        },
    );
}

struct Unpool<'a, T> {
    p: &'a Pool,
    dy: &'a [T],
    at: &'a [u32],
}

pub(super) fn unpool<T: Stored>(p: &Pool, dy: &[T], at: &[u32], dx: &mut [T]) {
    for_rows(dx, p.input, p.c, Unpool { p, dy, at });
}

impl<T: Stored> Rows<T> for Unpool<'_, T> {
    #[inline(always)]
    unsafe fn row<V: Lanes>(&self, [n, ti, hi]: [usize; 3], row: &mut [T]) {
        let (p, (c, [_, h, w])) = (self.p, (self.p.c, self.p.input));
        // The results whose windows cover a position.
        let mut covers: Vec<usize> = Vec::new();
        for (wi, dx) in row.chunks_exact_mut(c).enumerate() {
            covers.clear();
            for to in p.over(0, ti) {
                for ho in p.over(1, hi) {
                    covers.extend(p.over(2, wi).map(|wo| p.base(p.out, n, to, ho, wo)));
                }
            }
            let place = ((ti * h + hi) * w + wi) as u32;
            assert!(covers.iter().all(|o| o + c <= self.dy.len().min(self.at.len())));
            each(
                c,
                #[inline(always)]
                |i, n| {
                    // SAFETY: all have `c` numbers, and `each` stays within them; the instruction set is the caller's
                    // promise.
                    unsafe {
                        let mut sum = V::splat(0.0);
                        for o in &covers {
                            let dy = T::get::<V>(self.dy.as_ptr().add(o + i), n);
                            sum = sum.add(dy.where_from(self.at.as_ptr().add(o + i), place, n));
                        }
                        T::put(dx.as_mut_ptr().add(i), sum, n);
                    }
                },
            );
        }
    }
}

struct Gather<'a, T> {
    p: &'a Pool,
    x: &'a [T],
    at: &'a [u32],
}

pub(super) fn gather<T: Stored>(p: &Pool, x: &[T], at: &[u32], y: &mut [T]) {
    for_rows(y, p.out, p.c, Gather { p, x, at });
}

impl<T: Stored> Rows<T> for Gather<'_, T> {
    #[inline(always)]
    unsafe fn row<V: Lanes>(&self, [n, to, ho]: [usize; 3], row: &mut [T]) {
        let (p, c) = (self.p, self.p.c);
        let (o, sample) = (p.base(p.out, n, to, ho, 0), p.input.iter().product::<usize>() * c);
        for (wo, y) in row.chunks_exact_mut(c).enumerate() {
            for (ch, (y, &at)) in y.iter_mut().zip(&self.at[o + wo * c..][..c]).enumerate() {
                *y = self.x[n * sample + at as usize * c + ch];
            }
        }
    }
}

struct Avg<'a, T> {
    p: &'a Pool,
    x: &'a [T],
}

/// The weight of each element in a window's mean.
fn share(p: &Pool) -> f32 {
    1.0 / p.kernel.iter().product::<usize>() as f32
}

pub(super) fn avg<T: Stored>(p: &Pool, x: &[T], y: &mut [T]) {
    for_rows(y, p.out, p.c, Avg { p, x });
}

impl<T: Stored> Rows<T> for Avg<'_, T> {
    #[inline(always)]
    unsafe fn row<V: Lanes>(&self, [n, to, ho]: [usize; 3], row: &mut [T]) {
        let (p, c) = (self.p, self.p.c);
        let mut sums = vec![0.0; row.len()];
        for a in p.taps(0, to) {
            for b in p.taps(1, ho) {
                let line = p.base(p.input, n, p.under(0, to, a), p.under(1, ho, b), 0);
                for (wo, y) in sums.chunks_exact_mut(c).enumerate() {
                    for d in p.taps(2, wo) {
                        // SAFETY: the instruction set is the caller's promise.
                        unsafe { add::<V, T>(&self.x[line + p.under(2, wo, d) * c..][..c], y) };
                    }
                }
            }
        }
        // SAFETY: as above.
        unsafe { narrow::<V, T>(&sums, share(p), row) };
    }
}

struct AvgBack<'a, T> {
    p: &'a Pool,
    dy: &'a [T],
}

pub(super) fn avg_back<T: Stored>(p: &Pool, dy: &[T], dx: &mut [T]) {
    for_rows(dx, p.input, p.c, AvgBack { p, dy });
}

impl<T: Stored> Rows<T> for AvgBack<'_, T> {
    #[inline(always)]
    unsafe fn row<V: Lanes>(&self, [n, ti, hi]: [usize; 3], row: &mut [T]) {
        let (p, c) = (self.p, self.p.c);
        let mut sums = vec![0.0; row.len()];
        for to in p.over(0, ti) {
            for ho in p.over(1, hi) {
                for (wi, dx) in sums.chunks_exact_mut(c).enumerate() {
                    for wo in p.over(2, wi) {
                        // SAFETY: the instruction set is the caller's promise.
                        unsafe { add::<V, T>(&self.dy[p.base(p.out, n, to, ho, wo)..][..c], dx) };
                    }
                }
            }
        }
        // SAFETY: as above.
        unsafe { narrow::<V, T>(&sums, share(p), row) };
    }
}

/// Number of positions that are added up before their sum is added to the total, which bounds the error of long means.
const BLOCK: usize = 64;

pub(super) fn global<T: Stored>(x: &[T], places: usize, c: usize, y: &mut [T]) {
    struct Sample<'a, T> {
        x: &'a [T],
        y: &'a mut [T],
        places: usize,
    }

    impl<T: Stored> Vectorized for Sample<'_, T> {
        #[inline(always)]
        unsafe fn run<V: Lanes>(self) {
            let c = self.y.len();
            let mut space = vec![0.0; 2 * c];
            let (total, part) = space.split_at_mut(c);
            for block in self.x.chunks(BLOCK * c) {
                part.fill(0.0);
                for row in block.chunks_exact(c) {
                    // SAFETY: the instruction set is the caller's promise.
                    unsafe { add::<V, T>(row, part) };
                }
                total.iter_mut().zip(part.iter()).for_each(|(t, p)| *t += p);
            }
            total.iter_mut().for_each(|t| *t /= self.places as f32);
            // SAFETY: as above.
            unsafe { narrow::<V, T>(total, 1.0, self.y) };
        }
    }

    if y.is_empty() {
        return;
    }
    y.par_chunks_mut(c).zip(x.par_chunks(places * c)).for_each(|(y, x)| lanes::run(Sample { x, y, places }));
}

pub(super) fn global_back<T: Stored>(dy: &[T], places: usize, c: usize, dx: &mut [T]) {
    struct Share<'a, T> {
        dy: &'a [T],
        share: &'a mut [T],
        places: usize,
    }

    impl<T: Stored> Vectorized for Share<'_, T> {
        #[inline(always)]
        unsafe fn run<V: Lanes>(self) {
            let mut wide = vec![0.0; self.dy.len()];
            // SAFETY: the instruction set is the caller's promise.
            unsafe { widen::<V, T>(self.dy, &mut wide) };
            wide.iter_mut().for_each(|v| *v /= self.places as f32);
            // SAFETY: as above.
            unsafe { narrow::<V, T>(&wide, 1.0, self.share) };
        }
    }

    if dx.is_empty() {
        return;
    }
    let mut shares = dy.to_vec();
    lanes::run(Share { dy, share: &mut shares, places });
    // Rows per task, which may belong to two samples.
    let rows = rows_per_task(c);
    dx.par_chunks_mut(rows * c).enumerate().for_each(|(task, dx)| {
        for (i, dx) in dx.chunks_exact_mut(c).enumerate() {
            dx.copy_from_slice(&shares[(task * rows + i) / places * c..][..c]);
        }
    });
}
