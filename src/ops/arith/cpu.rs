//! Adjacent axes along which both arguments advance in the same way are merged, which leaves long runs: over both
//! arguments, or over one with a single number of the other.

use super::Arith;
use crate::cpu::widest::widest;
use crate::ops::lanes::{Lanes, Map, Stored, map};
use crate::shape::Shape;
use rayon::prelude::*;

/// Elements per task: enough to hide the cost of scheduling it.
const CHUNK: usize = 1 << 15;

/// An axis of the result, and the stride along it in each argument: 0 where the argument is repeated.
pub(in crate::ops) struct Axis {
    pub extent: usize,
    pub a: usize,
    pub b: usize,
}

/// The merged axes, innermost first; there is at least one.
pub(in crate::ops) fn axes(a: Shape, b: Shape, out: Shape) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    let (mut stride_a, mut stride_b) = (1, 1);
    for ((&extent, &da), &db) in out.dims().iter().zip(a.dims()).zip(b.dims()).rev() {
        let (a, b) = (if da == 1 { 0 } else { stride_a }, if db == 1 { 0 } else { stride_b });
        (stride_a, stride_b) = (stride_a * da, stride_b * db);
        match axes.last_mut() {
            _ if extent == 1 => {}
            Some(inner) if a == inner.a * inner.extent && b == inner.b * inner.extent => inner.extent *= extent,
            _ => axes.push(Axis { extent, a, b }),
        }
    }
    if axes.is_empty() {
        axes.push(Axis { extent: 1, a: 0, b: 0 });
    }
    axes
}

pub(super) fn apply(op: Arith, a: &[f32], a_shape: Shape, b: &[f32], b_shape: Shape, out: Shape, y: &mut [f32]) {
    match op {
        Arith::Add => run(|p, q| p + q, a, a_shape, b, b_shape, out, y),
        Arith::Sub => run(|p, q| p - q, a, a_shape, b, b_shape, out, y),
        Arith::Mul => run(|p, q| p * q, a, a_shape, b, b_shape, out, y),
        Arith::Div => run(|p, q| p / q, a, a_shape, b, b_shape, out, y),
    }
}

/// `y = f(a, b)` with both broadcast to `out`.
pub(in crate::ops) fn run(
    f: impl Fn(f32, f32) -> f32 + Sync,
    a: &[f32],
    a_shape: Shape,
    b: &[f32],
    b_shape: Shape,
    out: Shape,
    y: &mut [f32],
) {
    let axes = axes(a_shape, b_shape, out);
    let inner = &axes[0];
    y.par_chunks_mut(CHUNK).enumerate().for_each(|(task, mut y)| {
        let mut at = task * CHUNK;
        while !y.is_empty() {
            let (mut row, column) = (at / inner.extent, at % inner.extent);
            let (mut ia, mut ib) = (column * inner.a, column * inner.b);
            for axis in &axes[1..] {
                ia += row % axis.extent * axis.a;
                ib += row % axis.extent * axis.b;
                row /= axis.extent;
            }
            let len = (inner.extent - column).min(y.len());
            let (now, rest) = y.split_at_mut(len);
            widest(
                #[inline(always)]
                || match (inner.a, inner.b) {
                    (0, 0) => now.fill(f(a[ia], b[ib])),
                    (0, _) => now.iter_mut().zip(&b[ib..]).for_each(|(y, q)| *y = f(a[ia], *q)),
                    (_, 0) => now.iter_mut().zip(&a[ia..]).for_each(|(y, p)| *y = f(*p, b[ib])),
                    _ => now.iter_mut().zip(&a[ia..]).zip(&b[ib..]).for_each(|((y, p), q)| *y = f(*p, *q)),
                },
            );
            (y, at) = (rest, at + len);
        }
    });
}

/// The same for arrays of the same shape and type.
pub(super) fn alike<T: Stored>(op: Arith, a: &[T], b: &[T], y: &mut [T]) {
    match op {
        Arith::Add => map([a, b], y, Add),
        Arith::Sub => map([a, b], y, Sub),
        Arith::Mul => map([a, b], y, Mul),
        Arith::Div => map([a, b], y, Div),
    }
}

/// The four operations as functions of vectors.
macro_rules! of_vectors {
    ($($name:ident $f:ident),*) => {$(
        struct $name;

        impl Map<2> for $name {
            #[inline(always)]
            unsafe fn at<V: Lanes>(&self, [a, b]: [V; 2]) -> V {
                // SAFETY: the caller's promise.
                unsafe { a.$f(b) }
            }
        }
    )*};
}

of_vectors!(Add add, Sub sub, Mul mul, Div div);

struct Scale(f32);

impl Map<1> for Scale {
    #[inline(always)]
    unsafe fn at<V: Lanes>(&self, [a]: [V; 1]) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::splat(self.0).mul(a) }
    }
}

pub(super) fn scale<T: Stored>(a: &[T], factor: f32, y: &mut [T]) {
    map([a], y, Scale(factor));
}
