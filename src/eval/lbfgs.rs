//! L-BFGS for smooth convex functions: the two-loop recursion (Nocedal, Wright, *Numerical Optimization*, algorithm 7.4)
//! with a bisecting line search for the weak Wolfe conditions.

use crate::error::Result;
use std::collections::VecDeque;

/// Number of stored pairs of steps and gradient changes.
const MEMORY: usize = 12;
/// Required fraction of the predicted decrease (sufficient decrease condition).
const DECREASE: f64 = 1e-4;
/// Largest fraction of the slope that may remain after a step (curvature condition).
const SLOPE: f64 = 0.9;

/// Result of the minimisation.
pub(super) struct Minimum {
    pub x: Vec<f64>,
    pub value: f64,
    /// Largest absolute element of the gradient.
    pub gradient: f64,
    pub iterations: usize,
}

/// A step `s`, the gradient change `y`, and `1 / s·y`.
struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    rho: f64,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(p, q)| p * q).sum()
}

fn largest(g: &[f64]) -> f64 {
    g.iter().fold(0.0, |m: f64, v| m.max(v.abs()))
}

/// Minimises from `x` until no element of the gradient is above `tolerance`, for at most `limit` iterations or until
/// rounding prevents any further decrease. `f(x, g)` writes the gradient to `g` and returns the value; its error ends the
/// search.
pub(super) fn minimise(
    mut x: Vec<f64>,
    tolerance: f64,
    limit: usize,
    mut f: impl FnMut(&[f64], &mut [f64]) -> Result<f64>,
) -> Result<Minimum> {
    let mut g = vec![0.0; x.len()];
    let mut value = f(&x, &mut g)?;
    let mut memory: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    let (mut next, mut next_g) = (x.clone(), g.clone());
    let mut iterations = 0;
    while iterations < limit && largest(&g) > tolerance {
        let direction = descent(&memory, &g);
        let slope = dot(&direction, &g);
        // The first direction is the negative gradient, whose length is unrelated to a good step length.
        let first = if memory.is_empty() { 1.0 / dot(&g, &g).sqrt().max(1.0) } else { 1.0 };
        let (mut low, mut high, mut step) = (0.0, f64::INFINITY, first);
        let mut found = false;
        for _ in 0..60 {
            next.iter_mut().zip(&x).zip(&direction).for_each(|((n, x), d)| *n = x + step * d);
            let at = f(&next, &mut next_g)?;
            let falls = at <= value + DECREASE * step * slope;
            if !falls {
                high = step;
            } else if dot(&direction, &next_g) < SLOPE * slope {
                low = step;
            } else {
                (value, found) = (at, true);
                break;
            }
            step = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * step };
        }
        if !found {
            break;
        }
        iterations += 1;
        let s: Vec<f64> = next.iter().zip(&x).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = next_g.iter().zip(&g).map(|(a, b)| a - b).collect();
        let curvature = dot(&s, &y);
        if curvature > 0.0 {
            if memory.len() == MEMORY {
                memory.pop_front();
            }
            memory.push_back(Pair { s, y, rho: 1.0 / curvature });
        }
        std::mem::swap(&mut x, &mut next);
        std::mem::swap(&mut g, &mut next_g);
    }
    Ok(Minimum { x, value, gradient: largest(&g), iterations })
}

/// Minus the gradient, times the approximate inverse Hessian of the stored pairs.
fn descent(memory: &VecDeque<Pair>, g: &[f64]) -> Vec<f64> {
    let mut d: Vec<f64> = g.iter().map(|v| -v).collect();
    let mut along = Vec::with_capacity(memory.len());
    for p in memory.iter().rev() {
        let a = p.rho * dot(&p.s, &d);
        d.iter_mut().zip(&p.y).for_each(|(d, y)| *d -= a * y);
        along.push(a);
    }
    if let Some(p) = memory.back() {
        let scale = 1.0 / (p.rho * dot(&p.y, &p.y));
        d.iter_mut().for_each(|d| *d *= scale);
    }
    for (p, a) in memory.iter().zip(along.iter().rev()) {
        let b = p.rho * dot(&p.y, &d);
        d.iter_mut().zip(&p.s).for_each(|(d, s)| *d += (a - b) * s);
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_minimum_of_a_stretched_bowl() {
        let n = 30;
        let m = minimise(vec![1.0; n], 1e-10, 500, |x, g| {
            let mut value = 0.0;
            for i in 0..n {
                let (k, e) = (10f64.powf(i as f64 / 10.0), x[i] - i as f64);
                value += 0.5 * k * e * e;
                g[i] = k * e;
            }
            Ok(value)
        })
        .unwrap();
        assert!(m.gradient <= 1e-10 && m.iterations < 500, "{} after {}", m.gradient, m.iterations);
        assert!(m.x.iter().enumerate().all(|(i, x)| (x - i as f64).abs() <= 1e-9));
    }
}
