//! One task per frame: the features of a frame are a few hundred kilobytes, so they are still in the cache when the map
//! is formed from the weights.

use super::super::Map;
use crate::cpu::widest::widest;
use rayon::prelude::*;

/// Partial sums of a dot product.
const LANES: usize = 16;

/// `to += factor · x`
#[inline(always)]
fn add_scaled(to: &mut [f32], factor: f32, x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += factor * x;
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in whole_a.zip(whole_b) {
        for ((l, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *l += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The mean over the positions of a frame, `[c]`.
#[inline(always)]
fn weights(frame: &[f32], c: usize) -> Vec<f32> {
    let mut w = vec![0.0; c];
    for x in frame.chunks_exact(c) {
        for (w, x) in w.iter_mut().zip(x) {
            *w += x;
        }
    }
    let share = 1.0 / (frame.len() / c) as f32;
    w.iter_mut().for_each(|w| *w *= share);
    w
}

pub(in super::super) fn forward(p: &Map, g: &[f32], f: &[f32], m: &mut [f32]) {
    let (area, c) = (p.area(), p.c);
    m.par_chunks_mut(area).zip(g.par_chunks(area * c)).zip(f.par_chunks(area * c)).for_each(|((m, g), f)| {
        widest(
            #[inline(always)]
            || {
                let w = weights(g, c);
                m.iter_mut().zip(f.chunks_exact(c)).for_each(|(m, f)| *m = dot(&w, f));
            },
        );
    });
}

pub(in super::super) fn backward_f(p: &Map, g: &[f32], d: &[f32], df: &mut [f32]) {
    let (area, c) = (p.area(), p.c);
    df.par_chunks_mut(area * c).zip(g.par_chunks(area * c)).zip(d.par_chunks(area)).for_each(|((df, g), d)| {
        widest(
            #[inline(always)]
            || {
                let w = weights(g, c);
                for (df, d) in df.chunks_exact_mut(c).zip(d) {
                    df.iter_mut().zip(&w).for_each(|(df, w)| *df = w * d);
                }
            },
        );
    });
}

pub(in super::super) fn backward_g(p: &Map, d: &[f32], f: &[f32], dg: &mut [f32]) {
    let (area, c) = (p.area(), p.c);
    dg.par_chunks_mut(area * c).zip(f.par_chunks(area * c)).zip(d.par_chunks(area)).for_each(|((dg, f), d)| {
        widest(
            #[inline(always)]
            || {
                let (first, rest) = dg.split_at_mut(c);
                first.fill(0.0);
                f.chunks_exact(c).zip(d).for_each(|(f, d)| add_scaled(first, *d, f));
                let share = 1.0 / area as f32;
                first.iter_mut().for_each(|v| *v *= share);
                rest.chunks_exact_mut(c).for_each(|to| to.copy_from_slice(first));
            },
        );
    });
}
