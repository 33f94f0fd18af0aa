//! The definition: plain loops.

use super::Pool;
use crate::ops::reference::Bounded;
use num_traits::Float;

/// Calls `f(output index, input index, input position)` for every tap that is inside the input, in window order;
/// indices are of channel 0.
fn for_taps(p: &Pool, mut f: impl FnMut(usize, usize, usize)) {
    if p.c == 0 {
        return; // without channels there is nothing to do, however many positions there are
    }
    let ([t, h, w], [to, ho, wo], [kt, kh, kw]) = (p.input, p.out, p.kernel);
    let (s, pad, d) = (p.window.stride, p.window.pad, p.window.dilation);
    let place = |axis: usize, o: usize, k: usize| (o * s[axis] + k * d[axis]).checked_sub(pad[axis]);
    for (o, n) in (0..p.n * to * ho * wo).map(|o| (o, o / (to * ho * wo))) {
        let (ot, oh, ow) = (o / (ho * wo) % to, o / wo % ho, o % wo);
        for (a, b, e) in (0..kt * kh * kw).map(|k| (k / (kh * kw), k / kw % kh, k % kw)) {
            let (Some(it), Some(ih), Some(iw)) = (place(0, ot, a), place(1, oh, b), place(2, ow, e)) else { continue };
            if it < t && ih < h && iw < w {
                let position = (it * h + ih) * w + iw;
                f(o * p.c, (n * t * h * w + position) * p.c, position);
            }
        }
    }
}

/// The maxima and their positions `(t·H + h)·W + w`; of equal values the first, with NaN greater than every number.
pub fn max<F: Float>(p: &Pool, x: &[F]) -> (Vec<F>, Vec<u32>) {
    let mut y = vec![F::neg_infinity(); p.out_shape().len()];
    let mut at = vec![u32::MAX; y.len()];
    for_taps(p, |o, i, position| {
        for ch in 0..p.c {
            let v = x[i + ch];
            if at[o + ch] == u32::MAX || v > y[o + ch] || (v.is_nan() && !y[o + ch].is_nan()) {
                (y[o + ch], at[o + ch]) = (v, position as u32);
            }
        }
    });
    (y, at)
}

/// The gradient of [`max`]: `dx[at] += dy`.
pub fn unpool<F: Float>(p: &Pool, dy: &[F], at: &[u32]) -> Bounded<F> {
    let mut dx = vec![F::zero(); p.in_shape().len()];
    let mut magnitude = dx.clone();
    let (places, outs) = (p.input.iter().product::<usize>(), p.out.iter().product::<usize>());
    for (o, (&dy, &at)) in dy.iter().zip(at).enumerate() {
        let i = ((o / p.c / outs) * places + at as usize) * p.c + o % p.c;
        dx[i] = dx[i] + dy;
        magnitude[i] = magnitude[i] + dy.abs();
    }
    Bounded { value: dx, magnitude, terms: p.kernel.iter().product() }
}

/// The elements at the chosen positions.
pub fn gather<F: Float>(p: &Pool, x: &[F], at: &[u32]) -> Vec<F> {
    let (places, outs) = (p.input.iter().product::<usize>(), p.out.iter().product::<usize>());
    at.iter().enumerate().map(|(o, &at)| x[((o / p.c / outs) * places + at as usize) * p.c + o % p.c]).collect()
}

/// The means, padding counted as zeros.
pub fn avg<F: Float>(p: &Pool, x: &[F]) -> Bounded<F> {
    mean(p, p.out_shape().len(), x, |f| for_taps(p, |o, i, _| f(o, i)))
}

/// The gradient of [`avg`].
pub fn avg_back<F: Float>(p: &Pool, dy: &[F]) -> Bounded<F> {
    mean(p, p.in_shape().len(), dy, |f| for_taps(p, |o, i, _| f(i, o)))
}

/// Sums `from` over the (to, from) pairs that `pairs` lists, divided by the kernel's size.
fn mean<F: Float>(p: &Pool, len: usize, from: &[F], pairs: impl Fn(&mut dyn FnMut(usize, usize))) -> Bounded<F> {
    let taps = p.kernel.iter().product::<usize>();
    let factor = F::from(taps).expect("a count").recip();
    let (mut value, mut magnitude) = (vec![F::zero(); len], vec![F::zero(); len]);
    pairs(&mut |to, at| {
        for ch in 0..p.c {
            let v = from[at + ch] * factor;
            value[to + ch] = value[to + ch] + v;
            magnitude[to + ch] = magnitude[to + ch] + v.abs();
        }
    });
    Bounded { value, magnitude, terms: taps + 2 }
}

/// The means over all `places`: `x[n places c]` to `[n c]`.
pub fn global<F: Float>(n: usize, places: usize, c: usize, x: &[F]) -> Bounded<F> {
    let count = F::from(places).expect("a count");
    let (mut value, mut magnitude) = (vec![F::zero(); n * c], vec![F::zero(); n * c]);
    for (i, &v) in x.iter().enumerate() {
        let o = i / (places * c) * c + i % c;
        value[o] = value[o] + v / count;
        magnitude[o] = magnitude[o] + (v / count).abs();
    }
    Bounded { value, magnitude, terms: places + 1 }
}

/// The gradient of [`global`].
pub fn global_back<F: Float>(places: usize, c: usize, dy: &[F]) -> Vec<F> {
    let count = F::from(places).expect("a count");
    (0..dy.len() * places).map(|i| dy[i / (places * c) * c + i % c] / count).collect()
}
