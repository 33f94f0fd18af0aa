//! The definition: plain loops, one plane at a time. `docs/math/tvl1.md` derives the formulae.
//!
//! Because the method iterates until a stopping criterion is met, no error bound is carried: the fast path is compared
//! with this one at equal iteration counts (`epsilon = 0`), with a tolerance in pixels.

use super::{Tvl1, coarser, levels};
use num_traits::Float;

/// A constant in the working precision.
fn c<F: Float>(x: f64) -> F {
    F::from(x).unwrap_or_else(F::nan)
}

/// One plane, `h w`.
#[derive(Clone)]
struct Plane<F> {
    h: usize,
    w: usize,
    data: Vec<F>,
}

impl<F: Float> Plane<F> {
    fn from_fn(h: usize, w: usize, f: impl Fn(usize, usize) -> F) -> Self {
        Plane { h, w, data: (0..h * w).map(|i| f(i / w, i % w)).collect() }
    }

    fn at(&self, y: usize, x: usize) -> F {
        self.data[y * self.w + x]
    }

    /// Zero outside the image.
    fn or_zero(&self, y: isize, x: isize) -> F {
        let inside = (0..self.h as isize).contains(&y) && (0..self.w as isize).contains(&x);
        if inside { self.at(y as usize, x as usize) } else { F::zero() }
    }

    /// The nearest pixel of the image.
    fn nearest(&self, y: isize, x: isize) -> F {
        self.at(y.clamp(0, self.h as isize - 1) as usize, x.clamp(0, self.w as isize - 1) as usize)
    }
}

/// The flow from `a` to `b`, both `h w` with values 0 to 255, as `(u, v)`. Arguments must have been checked
/// ([`super::flow`] does it).
pub fn flow<F: Float>(a: &[F], b: &[F], h: usize, w: usize, p: &Tvl1) -> (Vec<F>, Vec<F>) {
    let mut pyramid = vec![[a, b].map(|x| Plane { h, w, data: x.to_vec() })];
    for level in 1..levels(h, w, p) {
        let [a, b] = &pyramid[level - 1];
        let (h, w) = (coarser(a.h, p), coarser(a.w, p));
        let ratio = 1.0 / p.scale_step;
        pyramid.push([resize(a, h, w, ratio, ratio), resize(b, h, w, ratio, ratio)]);
    }
    let mut coarse: Option<[Plane<F>; 2]> = None;
    for [a, b] in pyramid.iter().rev() {
        let start = match coarse {
            None => [0, 1].map(|_| Plane::from_fn(a.h, a.w, |_, _| F::zero())),
            Some(u) => u.map(|u| {
                let mut u = resize(&u, a.h, a.w, u.h as f64 / a.h as f64, u.w as f64 / a.w as f64);
                u.data.iter_mut().for_each(|x| *x = *x * c(1.0 / p.scale_step));
                u
            }),
        };
        coarse = Some(one_scale(a, b, start, p));
    }
    match coarse {
        Some([u, v]) => (u.data, v.data),
        None => (Vec::new(), Vec::new()),
    }
}

/// Bilinear resampling between pixel centres; `ratio` = source pixels per target pixel.
fn resize<F: Float>(x: &Plane<F>, h: usize, w: usize, ratio_y: f64, ratio_x: f64) -> Plane<F> {
    let tap = |i: usize, n: usize, ratio: f64| -> (usize, usize, F) {
        let at = ((i as f64 + 0.5) * ratio - 0.5).clamp(0.0, n as f64 - 1.0);
        let lo = at.floor() as usize;
        (lo, (lo + 1).min(n - 1), c(at - at.floor()))
    };
    Plane::from_fn(h, w, |i, j| {
        let ((y0, y1, ty), (x0, x1, tx)) = (tap(i, x.h, ratio_y), tap(j, x.w, ratio_x));
        let mix = |a: F, b: F, t: F| a + (b - a) * t;
        mix(mix(x.at(y0, x0), x.at(y0, x1), tx), mix(x.at(y1, x0), x.at(y1, x1), tx), ty)
    })
}

/// On one level of the pyramid: warps, and for each the alternation of thresholding and projection.
fn one_scale<F: Float>(a: &Plane<F>, b: &Plane<F>, start: [Plane<F>; 2], p: &Tvl1) -> [Plane<F>; 2] {
    let (h, w) = (a.h, a.w);
    let half = c::<F>(0.5);
    let bx = Plane::from_fn(h, w, |y, x| half * (b.at(y, (x + 1).min(w - 1)) - b.at(y, x.saturating_sub(1))));
    let by = Plane::from_fn(h, w, |y, x| half * (b.at((y + 1).min(h - 1), x) - b.at(y.saturating_sub(1), x)));
    let stop = c::<F>(p.epsilon * p.epsilon) * c((h * w) as f64);
    let mut u = start;
    let mut dual = [0; 4].map(|_| vec![F::zero(); h * w]);
    for _ in 0..p.warps {
        let [wb, wx, wy] = [b, &bx, &by].map(|plane| warp(plane, &u));
        let rho: Vec<F> = (0..h * w)
            .map(|i| wb.data[i] - wx.data[i] * u[0].data[i] - wy.data[i] * u[1].data[i] - a.data[i])
            .collect();
        let mut change = F::infinity();
        for _ in 0..p.outer_iterations {
            if change <= stop {
                break;
            }
            u = u.map(|u| median(&u, p.median));
            for _ in 0..p.inner_iterations {
                if change <= stop {
                    break;
                }
                change = primal(&mut u, &dual, &wx, &wy, &rho, p);
                for (u, p12) in u.iter().zip(dual.chunks_exact_mut(2)) {
                    project(u, p12, c(p.tau / p.theta));
                }
            }
        }
    }
    u
}

/// `x` at `(x + u, y + v)` by cubic convolution with slope -0.75, zero outside the image.
fn warp<F: Float>(x: &Plane<F>, u: &[Plane<F>; 2]) -> Plane<F> {
    let a = c::<F>(-0.75);
    let weights = |t: F| -> [F; 4] {
        let one = F::one();
        let inner = |d: F| ((a + c(2.0)) * d - (a + c(3.0))) * d * d + one;
        let outer = |d: F| ((a * d - c::<F>(5.0) * a) * d + c::<F>(8.0) * a) * d - c::<F>(4.0) * a;
        [outer(one + t), inner(t), inner(one - t), outer(c::<F>(2.0) - t)]
    };
    // More than four pixels outside, every tap is zero anyway; the clamp keeps the conversion to an index defined.
    let split = |at: F, n: usize| -> (isize, [F; 4]) {
        let at = at.max(c(-4.0)).min(c(n as f64 + 4.0));
        (at.floor().to_isize().unwrap_or(-4), weights(at - at.floor()))
    };
    Plane::from_fn(x.h, x.w, |i, j| {
        let (y0, wy) = split(c::<F>(i as f64) + u[1].at(i, j), x.h);
        let (x0, wx) = split(c::<F>(j as f64) + u[0].at(i, j), x.w);
        let row =
            |dy: isize| (0..4).fold(F::zero(), |s, k| s + wx[k as usize] * x.or_zero(y0 + dy - 1, x0 + k as isize - 1));
        (0..4).fold(F::zero(), |s, k| s + wy[k as usize] * row(k as isize))
    })
}

/// The median over `size × size` pixels, the border replicated; `size` 1 leaves the plane unchanged.
fn median<F: Float>(x: &Plane<F>, size: usize) -> Plane<F> {
    let r = size as isize / 2;
    Plane::from_fn(x.h, x.w, |i, j| {
        let (y, x0) = (i as isize, j as isize);
        let mut window: Vec<F> = (-r..=r)
            .flat_map(|dy| (-r..=r).map(move |dx| (dy, dx)))
            .map(|(dy, dx)| x.nearest(y + dy, x0 + dx))
            .collect();
        window.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        window[window.len() / 2]
    })
}

/// Thresholding step, then `u = v + θ div p`; returns the sum of squared changes.
fn primal<F: Float>(u: &mut [Plane<F>; 2], dual: &[Vec<F>; 4], wx: &Plane<F>, wy: &Plane<F>, rho: &[F], p: &Tvl1) -> F {
    let (h, w) = (wx.h, wx.w);
    let (threshold, theta) = (c::<F>(p.lambda * p.theta), c::<F>(p.theta));
    let mut change = F::zero();
    for i in 0..h * w {
        let (gx, gy) = (wx.data[i], wy.data[i]);
        let residual = rho[i] + gx * u[0].data[i] + gy * u[1].data[i];
        let slope = (gx * gx + gy * gy).max(c(f64::from(f32::EPSILON)));
        let step = (-residual / slope).max(-threshold).min(threshold);
        for (k, g) in [gx, gy].into_iter().enumerate() {
            let left = if i % w > 0 { dual[2 * k][i - 1] } else { F::zero() };
            let above = if i >= w { dual[2 * k + 1][i - w] } else { F::zero() };
            let divergence = dual[2 * k][i] - left + (dual[2 * k + 1][i] - above);
            let old = u[k].data[i];
            let new = old + step * g + theta * divergence;
            u[k].data[i] = new;
            change = change + (new - old) * (new - old);
        }
    }
    change
}

/// `p = (p + τ/θ ∇u) / (1 + τ/θ |∇u|)` with forward differences, zero across the last row and column.
fn project<F: Float>(u: &Plane<F>, p: &mut [Vec<F>], step: F) {
    for y in 0..u.h {
        for x in 0..u.w {
            let i = y * u.w + x;
            let gx = if x + 1 < u.w { u.data[i + 1] - u.data[i] } else { F::zero() };
            let gy = if y + 1 < u.h { u.data[i + u.w] - u.data[i] } else { F::zero() };
            let scale = F::one() / (F::one() + step * (gx * gx + gy * gy).sqrt());
            p[0][i] = (p[0][i] + step * gx) * scale;
            p[1][i] = (p[1][i] + step * gy) * scale;
        }
    }
}
