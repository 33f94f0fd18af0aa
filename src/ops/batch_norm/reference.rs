//! The definition: plain loops.

pub use super::rows::Rows;
use crate::ops::reference::Bounded;
use num_traits::Float;

/// The result and the statistics it was made with.
#[derive(Clone, Debug)]
pub struct Forward<F> {
    /// `y`, in the shape of `x`.
    pub y: Bounded<F>,
    /// Mean per part and channel.
    pub mean: Vec<F>,
    /// Biased variance per part and channel.
    pub var: Vec<F>,
}

/// The gradients of the inputs.
#[derive(Clone, Debug)]
pub struct Backward<F> {
    /// Of `x`.
    pub dx: Bounded<F>,
    /// Of `gamma`.
    pub dgamma: Bounded<F>,
    /// Of `beta`.
    pub dbeta: Bounded<F>,
    /// Of the residual.
    pub dresidual: Vec<F>,
}

/// Roundings on the path of one value that are not part of a sum over rows.
const STEPS: usize = 32;

/// Index of element `i` into per-part statistics.
fn stat(p: &Rows, i: usize) -> usize {
    i / (p.rows * p.c) * p.c + i % p.c
}

fn count<F: Float>(p: &Rows) -> F {
    F::from(p.rows).expect("a count")
}

/// Means over the rows of each part and channel.
fn means<F: Float>(p: &Rows, of: impl Fn(usize) -> F) -> Vec<F> {
    let mut sums = vec![F::zero(); p.parts * p.c];
    for i in 0..p.parts * p.rows * p.c {
        sums[stat(p, i)] = sums[stat(p, i)] + of(i);
    }
    sums.iter().map(|s| *s / count(p)).collect()
}

/// The statistics `(mean, var)` of the batch per part and channel, or the given ones.
fn statistics<F: Float>(p: &Rows, x: &[F], fixed: Option<(&[F], &[F])>) -> (Vec<F>, Vec<F>) {
    if let Some((mean, var)) = fixed {
        return (mean.to_vec(), var.to_vec());
    }
    let mean = means(p, |i| x[i]);
    let var = means(p, |i| (x[i] - mean[stat(p, i)]).powi(2));
    (mean, var)
}

/// A batch norm's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a, F> {
    /// How the elements divide.
    pub rows: Rows,
    /// Scale per channel.
    pub gamma: &'a [F],
    /// Shift per channel.
    pub beta: &'a [F],
    /// Given `(mean, var)`; those of the batch where `None`.
    pub fixed: Option<(&'a [F], &'a [F])>,
    /// Added to the variance.
    pub eps: F,
}

/// `y = relu((x - mean)/√(var + eps) · gamma + beta + residual)`, ReLU where `relu`.
pub fn forward<F: Float>(layer: &Layer<F>, x: &[F], residual: Option<&[F]>, relu: bool) -> Forward<F> {
    let Layer { rows: p, gamma, beta, fixed, eps } = *layer;
    let (mean, var) = statistics(&p, x, fixed);
    let size = sizes(&p, x, &mean);
    let (mut value, mut magnitude) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
    for (i, &x) in x.iter().enumerate() {
        let (s, ch) = (stat(&p, i), i % p.c);
        let scale = gamma[ch] / (var[s] + eps).sqrt();
        let r = residual.map_or(F::zero(), |r| r[i]);
        let z = (x - mean[s]) * scale + beta[ch] + r;
        value.push(if relu && z <= F::zero() { F::zero() } else { z });
        magnitude.push(scale.abs() * (x.abs() + size[s]) + beta[ch].abs() + r.abs());
    }
    Forward { y: Bounded { value, magnitude, terms: p.rows + STEPS }, mean, var }
}

/// The gradients for `dy`; `y`, where given, is the result after ReLU, whose positive elements let the gradient pass.
pub fn backward<F: Float>(layer: &Layer<F>, x: &[F], y: Option<&[F]>, dy: &[F]) -> Backward<F> {
    let Layer { rows: p, gamma, fixed, eps, .. } = *layer;
    let (mean, var) = statistics(&p, x, fixed);
    let size = sizes(&p, x, &mean);
    let inv_std: Vec<F> = var.iter().map(|v| (*v + eps).sqrt().recip()).collect();
    let dz: Vec<F> =
        dy.iter().enumerate().map(|(i, d)| if y.is_some_and(|y| y[i] <= F::zero()) { F::zero() } else { *d }).collect();
    let hat = |i: usize| (x[i] - mean[stat(&p, i)]) * inv_std[stat(&p, i)];
    let reach = |i: usize| (x[i].abs() + size[stat(&p, i)]) * inv_std[stat(&p, i)]; // bounds |hat| and its rounding
    let (m_dz, m_dz_hat) = (means(&p, |i| dz[i]), means(&p, |i| dz[i] * hat(i)));
    let (s_dz, s_dz_hat) = (means(&p, |i| dz[i].abs()), means(&p, |i| dz[i].abs() * reach(i)));

    let mut dx = Bounded { value: Vec::new(), magnitude: Vec::new(), terms: p.rows + STEPS };
    for (i, &d) in dz.iter().enumerate() {
        let s = stat(&p, i);
        let slope = gamma[i % p.c] * inv_std[s];
        let (along, size) = match fixed {
            Some(_) => (F::zero(), F::zero()),
            None => (m_dz[s] + hat(i) * m_dz_hat[s], s_dz[s] + reach(i) * s_dz_hat[s]),
        };
        dx.value.push(slope * (d - along));
        dx.magnitude.push(slope.abs() * (d.abs() + size));
    }
    let total = |means: &[F]| -> Vec<F> {
        let of_channel = |ch: usize| means.iter().skip(ch).step_by(p.c).fold(F::zero(), |a, &b| a + b);
        (0..p.c).map(|ch| of_channel(ch) * count::<F>(&p)).collect()
    };
    let sum = |value: &[F], size: &[F]| Bounded {
        value: total(value),
        magnitude: total(size),
        terms: p.parts * p.rows + STEPS,
    };
    Backward { dx, dgamma: sum(&m_dz_hat, &s_dz_hat), dbeta: sum(&m_dz, &s_dz), dresidual: dz }
}

/// Per part and channel, a bound on `|mean|` and on the roundings of the sum it came from.
fn sizes<F: Float>(p: &Rows, x: &[F], mean: &[F]) -> Vec<F> {
    means(p, |i| x[i].abs()).iter().enumerate().map(|(s, a)| a.max(mean[s % mean.len()].abs())).collect()
}
