//! The error of a convolution relative to the exact result, at some of its outputs.

use tubelet::ops::conv3d::Conv3d;

/// Number of outputs to compare: enough for a norm.
const SAMPLES: usize = 64;

/// `‖got - exact‖ / ‖exact‖` over outputs distributed over `got`, the result of `pass` on the arrays `a` and `b`: `x w`
/// for fprop, `dy w` for dgrad, `x dy` for wgrad. The exact result is a sum in f64.
pub fn relative_error(p: &Conv3d, pass: &str, [a, b]: [&[f32]; 2], got: &[f32]) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for sample in 0..SAMPLES.min(got.len()) {
        // A stride that is not a multiple of any extent.
        let index = (sample * 7_368_787 + 12_345) % got.len();
        let exact = match pass {
            "fprop" => fprop(p, a, b, index),
            "dgrad" => dgrad(p, a, b, index),
            _ => wgrad(p, a, b, index),
        };
        off += (f64::from(got[index]) - exact).powi(2);
        all += exact * exact;
    }
    (off / all).sqrt()
}

/// Coordinates of `index` in an array of `extents`.
fn coordinates<const N: usize>(mut index: usize, extents: [usize; N]) -> [usize; N] {
    let mut at = extents;
    for (place, extent) in at.iter_mut().zip(extents).rev() {
        *place = index % extent;
        index /= extent;
    }
    at
}

/// The index of coordinates in an array of `extents`.
fn offset<const N: usize>(at: [usize; N], extents: [usize; N]) -> usize {
    at.iter().zip(extents).fold(0, |sum, (i, extent)| sum * extent + i)
}

struct Arrays {
    x: [usize; 5],
    w: [usize; 5],
    y: [usize; 5],
}

fn arrays(p: &Conv3d) -> Arrays {
    let ([t, h, w], [kt, kh, kw], [to, ho, wo]) = (p.input(), p.kernel(), p.out());
    Arrays { x: [p.n(), t, h, w, p.c()], w: [p.k(), kt, kh, kw, p.c_group()], y: [p.n(), to, ho, wo, p.k()] }
}

/// The input coordinates of tap `tap` for output `out`; `None` in the padding.
fn input(p: &Conv3d, out: [usize; 3], tap: [usize; 3]) -> Option<[usize; 3]> {
    let window = p.geometry().window;
    let mut at = [0; 3];
    for axis in 0..3 {
        let padded = out[axis] * window.stride[axis] + tap[axis] * window.dilation[axis];
        at[axis] = padded.checked_sub(window.pad[axis]).filter(|&i| i < p.input()[axis])?;
    }
    Some(at)
}

fn every(extents: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..extents.iter().product()).map(move |i| coordinates(i, extents))
}

fn fprop(p: &Conv3d, x: &[f32], w: &[f32], index: usize) -> f64 {
    let s = arrays(p);
    let [n, to, ho, wo, k] = coordinates(index, s.y);
    let first = k / p.k_group() * p.c_group();
    let tap = |tap| {
        let [t, h, u] = input(p, [to, ho, wo], tap)?;
        let (x, w) = (&x[offset([n, t, h, u, first], s.x)..], &w[offset([k, tap[0], tap[1], tap[2], 0], s.w)..]);
        Some(dot(x, w, p.c_group()))
    };
    every(p.kernel()).filter_map(tap).sum()
}

fn dot(a: &[f32], b: &[f32], len: usize) -> f64 {
    a.iter().zip(b).take(len).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn dgrad(p: &Conv3d, dy: &[f32], w: &[f32], index: usize) -> f64 {
    let (s, window) = (arrays(p), p.geometry().window);
    let [n, t, h, u, c] = coordinates(index, s.x);
    let group = c / p.c_group();
    let tap = |tap: [usize; 3]| {
        let mut out = [0; 3];
        for (axis, at) in [t, h, u].into_iter().enumerate() {
            let steps = (at + window.pad[axis]).checked_sub(tap[axis] * window.dilation[axis])?;
            out[axis] = steps / window.stride[axis];
            if steps % window.stride[axis] != 0 || out[axis] >= p.out()[axis] {
                return None;
            }
        }
        let channels = group * p.k_group()..(group + 1) * p.k_group();
        let term = |k: usize| {
            let (g, f) = ([n, out[0], out[1], out[2], k], [k, tap[0], tap[1], tap[2], c % p.c_group()]);
            f64::from(dy[offset(g, s.y)]) * f64::from(w[offset(f, s.w)])
        };
        Some(channels.map(term).sum::<f64>())
    };
    every(p.kernel()).filter_map(tap).sum()
}

fn wgrad(p: &Conv3d, x: &[f32], dy: &[f32], index: usize) -> f64 {
    let s = arrays(p);
    let [k, kt, kh, kw, c] = coordinates(index, s.w);
    let c = k / p.k_group() * p.c_group() + c;
    let term = |n: usize, out: [usize; 3]| {
        let [t, h, u] = input(p, out, [kt, kh, kw])?;
        let (from, g) = ([n, t, h, u, c], [n, out[0], out[1], out[2], k]);
        Some(f64::from(x[offset(from, s.x)]) * f64::from(dy[offset(g, s.y)]))
    };
    (0..p.n()).flat_map(|n| every(p.out()).filter_map(move |out| term(n, out))).sum()
}
