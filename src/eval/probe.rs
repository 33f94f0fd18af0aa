//! The linear probe: multinomial logistic regression on frozen features.
//!
//! Features are standardised by the mean and the standard deviation of the training set, and
//!
//! ```text
//! 1/n Σᵢ (-ln softmax(W xᵢ + b)[labelᵢ]) + l2/2 · ‖W‖²
//! ```
//! is minimised by L-BFGS in f64 until no element of the gradient is above 1e-7. The minimum is unique, so the result
//! does not depend on a learning rate, a seed or the order of samples. The offsets `b` are not penalised.
//!
//! It equals scikit-learn's `LogisticRegression(C)` on the output of `StandardScaler` with `C = 1 / (n·l2)`, where `n`
//! is the number of training samples: scikit-learn minimises `C·Σᵢ lossᵢ + ½‖W‖²`, which is the above times `1 / l2`.
//!
//! **Two classes.** scikit-learn uses one row `w` of weights with the penalty `l2/2 · ‖w‖²`. With two rows, the softmax
//! depends only on their difference `w = W₁ - W₀`, and among all rows with that difference `W₁ = -W₀ = w/2` have the
//! smallest norm, `‖W‖² = ‖w‖²/2`. Two rows with the penalty `l2` therefore correspond to one row with half of it. To
//! agree with scikit-learn, the penalty for two classes is `l2 · ‖W‖²` here: its single row is `W₁ - W₀`, its offset
//! `b₁ - b₀`, and both give the same predictions.

use super::lbfgs::minimise;
use super::scores::Scores;
use super::{Features, GoOn, check_pair, classes};
use crate::error::{Error, Result};
use crate::ops::matmul::product::{Matrix, product};
use rayon::prelude::*;

/// Convergence: no element of the gradient is above this.
const TOLERANCE: f64 = 1e-7;
/// Maximum number of iterations.
const LIMIT: usize = 2000;
/// Maximum number of tasks, for any number of threads.
const PARTS: usize = 16;

/// Result of the linear probe.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    /// Accuracy on the test samples.
    pub top1: f64,
    /// Accuracy on the training samples.
    pub train_top1: f64,
    /// Iterations of the optimiser.
    pub iterations: usize,
    /// Whether the minimum was reached to 1e-7.
    pub converged: bool,
    /// The objective at the end.
    pub objective: f64,
    /// The labels of the classes, ascending.
    pub classes: Vec<usize>,
    /// Figures on the test samples; classes are their places in `classes`.
    pub scores: Scores,
    /// Weights on standardised features followed by the offset, `[c d+1]`. For two classes, one row is the negative of
    /// the other.
    pub weights: Vec<f64>,
}

/// Trains on `train`, scores on `test`. `l2` is the weight of the penalty in scikit-learn's convention
/// (`C = 1 / (n·l2)`), above 0: without it a separable problem has no minimum.
///
/// # Errors
/// `Shape` when a set is empty or their features differ in length; `Param` when `l2` is not a positive number, there are
/// fewer than two classes, or a class to be tested has no training sample.
pub fn probe(train: &Features, test: &Features, l2: f64) -> Result<ProbeResult> {
    probe_while(train, test, l2, &|| Ok(()))
}

/// As [`probe`], as long as `go_on` says so.
///
/// # Errors
/// As [`probe`]; that of `go_on`.
pub fn probe_while(train: &Features, test: &Features, l2: f64, go_on: GoOn) -> Result<ProbeResult> {
    check_pair("probe", train, test)?;
    if !(l2 > 0.0 && l2.is_finite()) {
        return Err(Error::param("probe", "l2", l2, "the penalty is finite and above 0"));
    }
    let classes = classes("probe", train, test)?;
    if classes.len() < 2 {
        let only = format!("the only class of the training samples is {}", classes[0]);
        return Err(Error::param("probe", "classes", classes.len(), format!("two are needed, and {only}")));
    }
    let scaler = Scaler::fit(train);
    let (x, test_x) = (scaler.rows(train), scaler.rows(test));
    let index =
        |f: &Features| -> Vec<usize> { f.labels().iter().filter_map(|l| classes.binary_search(l).ok()).collect() };
    let (labels, test_labels) = (index(train), index(test));

    let (c, width) = (classes.len(), train.d() + 1);
    let l2 = if c == 2 { 2.0 * l2 } else { l2 }; // one row's penalty, see above
    let problem = Problem { x: &x, labels: &labels, c, width, l2 };
    let end = minimise(vec![0.0; c * width], TOLERANCE, LIMIT, |w, g| {
        go_on()?;
        Ok(problem.objective(w, g))
    })?;

    let figures = Scores::new(&scores(&test_x, &end.x, c, width), &test_labels, c)?;
    let train_right = labels.iter().zip(predict(&x, &end.x, c, width)).filter(|(l, p)| *l == p).count();
    Ok(ProbeResult {
        top1: figures.top(1),
        train_top1: train_right as f64 / train.len() as f64,
        iterations: end.iterations,
        converged: end.gradient <= TOLERANCE,
        objective: end.value,
        classes,
        scores: figures,
        weights: end.x,
    })
}

/// Mean and standard deviation (divided by `n`) of each feature.
struct Scaler {
    mean: Vec<f64>,
    factor: Vec<f64>,
}

impl Scaler {
    fn fit(f: &Features) -> Scaler {
        let (n, d) = (f.len() as f64, f.d());
        let (mut mean, mut square) = (vec![0.0; d], vec![0.0; d]);
        for row in f.values().chunks_exact(d) {
            mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v) / n);
        }
        for row in f.values().chunks_exact(d) {
            for ((s, m), &v) in square.iter_mut().zip(&mean).zip(row) {
                *s += (f64::from(v) - m).powi(2) / n;
            }
        }
        // A feature that varies by no more than the rounding of its mean is constant: it becomes 0 and is not
        // amplified.
        let factor = |(s, m): (&f64, &f64)| if s.sqrt() > 1e-9 * m.abs() { 1.0 / s.sqrt() } else { 0.0 };
        Scaler { factor: square.iter().zip(&mean).map(factor).collect(), mean }
    }

    /// Standardised rows, each followed by a 1 for the offset.
    fn rows(&self, f: &Features) -> Vec<f64> {
        let mut rows = Vec::with_capacity(f.len() * (f.d() + 1));
        for row in f.values().chunks_exact(f.d()) {
            rows.extend(row.iter().zip(&self.mean).zip(&self.factor).map(|((&v, m), s)| (f64::from(v) - m) * s));
            rows.push(1.0);
        }
        rows
    }
}

struct Problem<'a> {
    /// `[n width]`
    x: &'a [f64],
    labels: &'a [usize],
    c: usize,
    width: usize,
    l2: f64,
}

impl Problem<'_> {
    /// The objective at `w [c width]`; its gradient goes to `g`.
    fn objective(&self, w: &[f64], g: &mut [f64]) -> f64 {
        let (c, width, n) = (self.c, self.width, self.labels.len());
        let rows = n.div_ceil(PARTS);
        let parts: Vec<(f64, Vec<f64>)> = self
            .x
            .par_chunks(rows * width)
            .zip(self.labels.par_chunks(rows))
            .map(|(x, labels)| {
                let mut residual = scores(x, w, c, width);
                let loss = softmax_minus_onehot(&mut residual, labels, c);
                let mut g = vec![0.0; c * width];
                product(Matrix::rows(&residual, c).t(), Matrix::rows(x, width), &mut g);
                (loss, g)
            })
            .collect();
        g.fill(0.0);
        let mut loss = 0.0;
        for (part, part_g) in &parts {
            loss += part;
            g.iter_mut().zip(part_g).for_each(|(g, p)| *g += p);
        }
        let mut penalty = 0.0;
        for (w, g) in w.chunks_exact(width).zip(g.chunks_exact_mut(width)) {
            g.iter_mut().for_each(|g| *g /= n as f64);
            for (w, g) in w[..width - 1].iter().zip(g) {
                penalty += w * w;
                *g += self.l2 * w;
            }
        }
        loss / n as f64 + 0.5 * self.l2 * penalty
    }
}

/// `[n c]` scores of rows `x [n width]` under weights `w [c width]`.
pub(super) fn scores(x: &[f64], w: &[f64], c: usize, width: usize) -> Vec<f64> {
    let mut out = vec![0.0; x.len() / width * c];
    product(Matrix::rows(x, width), Matrix::rows(w, width).t(), &mut out);
    out
}

/// Turns scores into `softmax - onehot` and returns the sum of the cross-entropies.
pub(super) fn softmax_minus_onehot(scores: &mut [f64], labels: &[usize], c: usize) -> f64 {
    let mut loss = 0.0;
    for (row, &label) in scores.chunks_exact_mut(c).zip(labels) {
        let top = row.iter().fold(f64::NEG_INFINITY, |t, &v| t.max(v));
        let own = row[label] - top;
        row.iter_mut().for_each(|v| *v = (*v - top).exp());
        let sum: f64 = row.iter().sum();
        loss += sum.ln() - own;
        row.iter_mut().for_each(|v| *v /= sum);
        row[label] -= 1.0;
    }
    loss
}

/// The class of the highest score, the first of equals.
fn predict(x: &[f64], w: &[f64], c: usize, width: usize) -> Vec<usize> {
    let best = |row: &[f64]| (1..c).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    scores(x, w, c, width).chunks_exact(c).map(best).collect()
}
