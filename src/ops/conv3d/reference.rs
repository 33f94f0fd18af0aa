//! The definition: plain loops. All three passes are one trilinear form, summed over different indices.

use super::Conv3d;
use crate::ops::reference::Bounded;
use num_traits::Float;

/// Calls `f(i, j, l)` for every product `x[i] · w[j]` that is a term of `y[l]`.
fn each_term(p: &Conv3d, mut f: impl FnMut(usize, usize, usize)) {
    if p.is_empty() {
        return; // without channels there are no terms, however many positions there are
    }
    let [to, ho, wo] = p.out;
    let [kt, kh, kw] = p.kernel;
    let [t, h, w] = p.input;
    let (cg, kg, win) = (p.c_group(), p.k_group(), &p.geometry.window);
    // Coordinate of the input at tap `a` of output `o`, unless it is in the padding.
    let at = |axis: usize, o: usize, a: usize| {
        let i = (o * win.stride[axis] + a * win.dilation[axis]).checked_sub(win.pad[axis])?;
        (i < p.input[axis]).then_some(i)
    };
    for (n, ot, oh, ow) in indices([p.n, to, ho, wo]) {
        for (_, a, b, d) in indices([1, kt, kh, kw]) {
            let (Some(it), Some(ih), Some(iw)) = (at(0, ot, a), at(1, oh, b), at(2, ow, d)) else { continue };
            for k in 0..p.k {
                for c in 0..cg {
                    let x = (((n * t + it) * h + ih) * w + iw) * p.c + k / kg * cg + c;
                    let f_at = (((k * kt + a) * kh + b) * kw + d) * cg + c;
                    let y = (((n * to + ot) * ho + oh) * wo + ow) * p.k + k;
                    f(x, f_at, y);
                }
            }
        }
    }
}

fn indices([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}

fn accumulate<F: Float>(len: usize, terms: usize, each: impl FnOnce(&mut dyn FnMut(usize, F))) -> Bounded<F> {
    let (mut value, mut magnitude) = (vec![F::zero(); len], vec![F::zero(); len]);
    each(&mut |i, v| {
        value[i] = value[i] + v;
        magnitude[i] = magnitude[i] + v.abs();
    });
    Bounded { value, magnitude, terms }
}

/// `y` (`n to ho wo k`) from `x` and `w`.
pub fn fprop<F: Float>(p: &Conv3d, x: &[F], w: &[F]) -> Bounded<F> {
    accumulate(p.y_shape().len(), p.taps() * p.c_group(), |add| each_term(p, |i, j, l| add(l, x[i] * w[j])))
}

/// `dx` (`n t h w c`) from `dy` and `w`.
pub fn dgrad<F: Float>(p: &Conv3d, dy: &[F], w: &[F]) -> Bounded<F> {
    accumulate(p.x_shape().len(), p.taps() * p.k_group(), |add| each_term(p, |i, j, l| add(i, dy[l] * w[j])))
}

/// `dw` (`k kt kh kw c/groups`) from `x` and `dy`.
pub fn wgrad<F: Float>(p: &Conv3d, x: &[F], dy: &[F]) -> Bounded<F> {
    let terms = p.n * p.out.iter().product::<usize>();
    accumulate(p.w_shape().len(), terms, |add| each_term(p, |i, j, l| add(j, x[i] * dy[l])))
}
