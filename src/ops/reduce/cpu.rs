//! Sums over one run of adjacent axes (leading, middle, trailing or all) are blocked; other patterns use index
//! arithmetic.

use crate::cpu::widest::widest;
use crate::ops::arith::{cpu::run, offset};
use crate::ops::lanes::{self, Lanes, Stored, Vectorized, each};
use crate::shape::Shape;
use rayon::prelude::*;

/// Elements summed by one task, approximately. Fixed, so that the order of the additions does not depend on the number
/// of threads.
const CHUNK: usize = 1 << 15;

/// Partial sums of a contiguous run.
const LANES: usize = 16;

pub(super) fn sum_to(a: &[f32], from: Shape, to: Shape, y: &mut [f32]) {
    y.fill(0.0);
    if a.is_empty() || y.is_empty() {
        return;
    }
    let reduced = |axis: usize| to.dims()[axis] != from.dims()[axis];
    let (first, last) = ((0..from.rank()).find(|a| reduced(*a)), (0..from.rank()).rfind(|a| reduced(*a)));
    let (Some(first), Some(last)) = (first, last) else { return y.copy_from_slice(a) };
    if to.dims()[first..=last].iter().any(|d| *d != 1) {
        for (i, v) in a.iter().enumerate() {
            y[offset(i, from, to)] += v;
        }
        return;
    }
    let c: usize = from.dims()[last + 1..].iter().product();
    let rows: usize = from.dims()[first..=last].iter().product();
    y.par_chunks_mut(c).zip(a.par_chunks(rows * c)).for_each(|(y, a)| {
        let parts: Vec<Vec<f32>> = a
            .par_chunks((CHUNK / c).max(LANES) * c)
            .map(|chunk| {
                let mut part = vec![0.0; c];
                widest(
                    #[inline(always)]
                    || if c == 1 { part[0] = sum(chunk) } else { add_rows(chunk, &mut part) },
                );
                part
            })
            .collect();
        parts.iter().for_each(|part| add_rows(part, y));
    });
}

/// `y += ` each row of `a`.
#[inline(always)]
fn add_rows(a: &[f32], y: &mut [f32]) {
    for row in a.chunks_exact(y.len()) {
        for (y, v) in y.iter_mut().zip(row) {
            *y += v;
        }
    }
}

#[inline(always)]
fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let blocks = a.chunks_exact(LANES);
    let rest: f32 = blocks.remainder().iter().sum();
    for block in blocks {
        for (l, v) in lanes.iter_mut().zip(block) {
            *l += v;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The `rows` rows of `x`, each as long as `y`, added one after another.
pub(super) fn in_order<T: Stored, U: Stored>(x: &[T], rows: usize, y: &mut [U]) {
    let n = y.len();
    y.par_chunks_mut(CHUNK).enumerate().for_each(|(task, y)| lanes::run(InOrder { x, rows, n, at: task * CHUNK, y }));
}

struct InOrder<'a, T, U> {
    x: &'a [T],
    rows: usize,
    /// Length of a row, and where in it `y` begins.
    n: usize,
    at: usize,
    y: &'a mut [U],
}

impl<T: Stored, U: Stored> Vectorized for InOrder<'_, T, U> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let from = self.x[self.at..].as_ptr();
        // SAFETY: each of the rows has `n` numbers, of which this range is a part; the instruction set is the caller's
        // promise.
        each(
            self.y.len(),
            #[inline(always)]
            |at, n| unsafe {
                let mut sum: V = T::get(from.add(at), n);
                for row in 1..self.rows {
                    sum = sum.add(T::get(from.add(row * self.n + at), n));
                }
                U::put(self.y.as_mut_ptr().add(at), sum, n);
            },
        );
    }
}

pub(super) fn broadcast_to(a: &[f32], from: Shape, to: Shape, y: &mut [f32]) {
    run(|p, _| p, a, from, a, from, to, y);
}
