//! A linear layer on frozen features, trained by stochastic gradient descent as the papers do: cross-entropy, a cosine
//! from the full rate to 0 without warm-up, no weight decay (`docs/papers/maclr.md` section 6, `docs/papers/mcl.md`
//! section 5).
//!
//! Here features are computed once. A sample may have several rows, those of its views; each pass over the samples
//! takes one of them, at random, as pre-training takes a clip of each video. Weights start at 0. Momentum is 0.9, as
//! Nesterov's.
//!
//! ```
//! use tubelet::eval::{Features, sgd::{Sgd, sgd}};
//! let train = Features::new(2, vec![1.0, 0.1, 0.9, -0.1, -1.0, 0.1, -0.8, 0.0], vec![0, 0, 1, 1])?;
//! let layer = sgd(&train, 1, &Sgd { lr: 1.0, epochs: 20, batch: 2, seed: 0 })?;
//! assert!(layer.scores(&[0.5, 0.0])[0] > layer.scores(&[-0.5, 0.0])[0]);
//! # Ok::<(), tubelet::Error>(())
//! ```

use super::probe::{scores, softmax_minus_onehot};
use super::{Features, GoOn, own_classes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::matmul::product::{Matrix, product};
use crate::rng::{self, Purpose};
use rand::RngExt;
use rand::seq::SliceRandom;

const MOMENTUM: f64 = 0.9;

/// How the layer is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Rate of the first step.
    pub lr: f64,
    /// Passes over the samples.
    pub epochs: u64,
    /// Samples per step; the last step of a pass may have fewer.
    pub batch: usize,
    /// Seed of the order of samples and of the choice of their rows.
    pub seed: u64,
}

/// A linear layer from features to classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The labels of the classes, ascending.
    pub classes: Vec<usize>,
    /// A row of weights and the offset for each class, `[c d+1]`.
    pub weights: Vec<f64>,
    /// Mean loss over the last pass.
    pub loss: f64,
}

impl Layer {
    /// The score of each class for a row of features.
    #[must_use]
    pub fn scores(&self, features: &[f32]) -> Vec<f64> {
        let score = |row: &[f64]| row.iter().zip(features).map(|(w, v)| w * f64::from(*v)).sum::<f64>();
        self.weights.chunks_exact(features.len() + 1).map(|row| score(row) + row[features.len()]).collect()
    }

    /// The probability of each class: the softmax of its scores.
    #[must_use]
    pub fn probabilities(&self, features: &[f32]) -> Vec<f64> {
        let mut all = self.scores(features);
        let top = all.iter().fold(f64::NEG_INFINITY, |t, &v| t.max(v));
        all.iter_mut().for_each(|v| *v = (*v - top).exp());
        let sum: f64 = all.iter().sum();
        all.iter_mut().for_each(|v| *v /= sum);
        all
    }
}

/// Trains on samples of `rows` consecutive rows of `train` each, which have the sample's label.
///
/// # Errors
/// `Shape` when there is no sample, or a sample with fewer rows; `Param` when a number is out of range or there are fewer than
/// two classes; `NotFinite` when the loss is not, because the rate is too high for these features.
pub fn sgd(train: &Features, rows: usize, how: &Sgd) -> Result<Layer> {
    sgd_while(train, rows, how, &|| Ok(()))
}

/// As [`sgd`], as long as `go_on` says so, which is asked before every step.
///
/// # Errors
/// As [`sgd`]; that of `go_on`.
pub fn sgd_while(train: &Features, rows: usize, how: &Sgd, go_on: GoOn) -> Result<Layer> {
    let Sgd { lr, epochs, batch, seed } = *how;
    if rows == 0 || train.is_empty() || !train.len().is_multiple_of(rows) {
        let want = format!("{rows} rows for each sample");
        return Err(Error::shape("sgd", "train", want, format!("{} rows", train.len())));
    }
    for (name, fine) in [("lr", lr > 0.0 && lr.is_finite()), ("epochs", epochs > 0), ("batch", batch > 0)] {
        if !fine {
            return Err(Error::param("sgd", name, format!("{how:?}"), "it must be above 0"));
        }
    }
    let classes = own_classes(train);
    let (samples, d, c) = (train.len() / rows, train.d(), classes.len());
    if c < 2 {
        return Err(Error::param("sgd", "classes", c, "two are needed"));
    }
    let place = |label: &usize| classes.binary_search(label).ok();
    let labels: Vec<usize> = train.labels().iter().step_by(rows).filter_map(place).collect();
    let width = d + 1;
    let (mut w, mut velocity) = (vec![0.0f64; c * width], vec![0.0f64; c * width]);
    let mut gradient = vec![0.0f64; c * width];
    let (per_epoch, mut step, mut loss) = (samples.div_ceil(batch) as u64, 0u64, 0.0);
    let steps = per_epoch as f64 * epochs as f64;
    for epoch in 0..epochs {
        let mut rng = rng::stream(seed, epoch, 0, Purpose::Probe);
        let mut order: Vec<(usize, usize)> = (0..samples).map(|i| (i, rng.random_range(0..rows))).collect();
        order.shuffle(&mut rng);
        loss = 0.0;
        for some in order.chunks(batch) {
            go_on()?;
            let row = |i: usize, view: usize| &train.values()[(i * rows + view) * d..][..d];
            let one = |&(i, view): &(usize, usize)| row(i, view).iter().map(|v| f64::from(*v)).chain([1.0]);
            let x: Vec<f64> = some.iter().flat_map(one).collect();
            let own: Vec<usize> = some.iter().map(|(i, _)| labels[*i]).collect();
            let mut residual = scores(&x, &w, c, width);
            let sum = softmax_minus_onehot(&mut residual, &own, c);
            if !sum.is_finite() {
                return Err(ErrorKind::NotFinite { name: "loss", step, value: sum }.into());
            }
            loss += sum / samples as f64;
            gradient.fill(0.0);
            product(Matrix::rows(&residual, c).t(), Matrix::rows(&x, width), &mut gradient);
            let rate = lr * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps).cos());
            for ((w, v), g) in w.iter_mut().zip(&mut velocity).zip(&gradient) {
                let g = g / some.len() as f64;
                *v = MOMENTUM * *v + g;
                *w -= rate * (g + MOMENTUM * *v);
            }
            step += 1;
        }
    }
    if let Some(value) = w.iter().find(|v| !v.is_finite()) {
        return Err(ErrorKind::NotFinite { name: "weight", step, value: *value }.into());
    }
    Ok(Layer { classes, weights: w, loss })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const HOW: Sgd = Sgd { lr: 2.0, epochs: 60, batch: 7, seed: 1 };

    /// `n` samples of three classes, each with `rows` rows near the point of its class.
    fn samples(n: usize, rows: usize) -> Features {
        let points = [[1.0f32, 0.0, 0.2], [-0.5, 0.8, 0.1], [-0.5, -0.8, -0.3]];
        let mut rng = rng::stream(9, 0, 0, Purpose::Test);
        let labels: Vec<usize> = (0..n * rows).map(|i| 10 * (i / rows % 3)).collect();
        let value = |label: &usize| points[label / 10].map(|v| v + rng.random_range(-0.3f32..0.3));
        Features::new(3, labels.iter().flat_map(value).collect(), labels).unwrap()
    }

    #[test]
    fn separable_samples_are_told_apart_by_any_of_their_rows() {
        let train = samples(40, 3);
        let layer = sgd(&train, 3, &HOW).unwrap();
        assert_eq!(layer.classes, [0, 10, 20]);
        for (row, label) in train.values().chunks_exact(3).zip(train.labels()) {
            let (all, shares) = (layer.scores(row), layer.probabilities(row));
            assert!((0..3).all(|i| all[i] <= all[label / 10]), "{all:?} for {label}");
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && shares[label / 10] > 0.5, "{shares:?}");
        }
        assert!(layer.loss < 0.2, "{}", layer.loss);
        assert_eq!(sgd(&train, 3, &HOW).unwrap(), layer, "the same bits again");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        assert_eq!(pool.install(|| sgd(&train, 3, &HOW).unwrap()), layer);
        assert_ne!(sgd(&train, 3, &Sgd { seed: 2, ..HOW }).unwrap().weights, layer.weights);
    }

    /// One step of the whole set from weights of 0: residuals are 1/c minus one for the sample's own class. With
    /// Nesterov's momentum the first step is 1 + 0.9 times the rate.
    #[test]
    fn the_first_step_is_the_mean_gradient_times_the_rate() {
        let train = Features::new(1, vec![2.0, -4.0], vec![0, 1]).unwrap();
        let layer = sgd(&train, 1, &Sgd { lr: 0.1, epochs: 1, batch: 2, seed: 0 }).unwrap();
        // Class 0: mean of (1/2 - 1) · 2 and (1/2) · -4 is -1.5; of the offsets -1/2 and 1/2 it is 0.
        let want = [0.19 * 1.5, 0.0, -0.19 * 1.5, 0.0];
        assert!(layer.weights.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15), "{:?}", layer.weights);
        assert!((layer.loss - 2f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn training_ends_with_the_error_of_what_is_asked_before_each_step() {
        let asked = AtomicUsize::new(0);
        let go_on = || match asked.fetch_add(1, Ordering::Relaxed) {
            ..5 => Ok(()),
            _ => Err(Error::stopped("here", "at the sixth")),
        };
        let e = sgd_while(&samples(40, 3), 3, &Sgd { epochs: u64::MAX, ..HOW }, &go_on).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Stopped { .. }) && asked.into_inner() == 6, "{e}");
    }

    #[test]
    fn what_cannot_be_trained_on_is_refused() {
        let train = samples(6, 1);
        assert!(sgd(&train, 4, &HOW).unwrap_err().to_string().contains("4 rows for each sample"));
        assert!(sgd(&train, 1, &Sgd { lr: f64::NAN, ..HOW }).unwrap_err().to_string().contains("lr"));
        let one = Features::new(1, vec![1.0, 2.0], vec![3, 3]).unwrap();
        assert!(sgd(&one, 1, &HOW).unwrap_err().to_string().contains("two are needed"));
        let large = Features::new(1, vec![1e30, -1e30, 1e30], vec![0, 1, 1]).unwrap();
        let e = sgd(&large, 1, &Sgd { lr: 1e300, ..HOW }).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::NotFinite { .. }), "{e}");
    }
}
