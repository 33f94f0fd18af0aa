//! The linear support vector machine of MCL's evaluation: squared hinge, one class against the others
//! (`docs/papers/mcl.md` section 5).
//!
//! For each class with `yᵢ = 1` for its samples and `-1` for the others
//!
//! ```text
//! ½ (‖w‖² + b²) + C Σᵢ max(0, 1 - yᵢ (w·xᵢ + b))²
//! ```
//! is minimised. That is what scikit-learn's `LinearSVC(C)` (liblinear) minimises, which treats the offset as the weight
//! of one more feature and penalises it too. The minimum is unique, so the result does not depend on a seed or the order
//! of samples. With two classes there is one row, for the second class, as there.
//!
//! ```
//! use tubelet::eval::{Features, svm::svm};
//! let train = Features::new(2, vec![1.0, 0.1, 0.9, -0.1, -1.0, 0.1, -0.8, 0.0], vec![0, 0, 1, 1])?;
//! let test = Features::new(2, vec![0.5, 0.0, -0.5, 0.1], vec![0, 1])?;
//! assert_eq!(svm(&train, &test, 1.0)?.scores.top(1), 1.0);
//! # Ok::<(), tubelet::error::Error>(())
//! ```

use super::lbfgs::minimise;
use super::scores::Scores;
use super::{Features, GoOn, check_pair, classes};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// Convergence: no element of the gradient is above this times `C n r`, with the root mean square `r` of the rows'
/// lengths. The objective is at most `C n`, so f64 knows it to `1e-16 C n`. Its curvature is about `2 C n r²`, so a step
/// along a gradient `g` lowers it by `g² / (4 C n r²)`, and no search sees steps of gradients below `2e-8 C n r`.
const TOLERANCE: f64 = 1e-7;
/// Maximum number of iterations.
const LIMIT: usize = 5000;

/// Result of [`svm`].
#[derive(Clone, Debug, PartialEq)]
pub struct SvmResult {
    /// The labels of the classes, ascending.
    pub classes: Vec<usize>,
    /// Figures on the test samples; classes are their places in `classes`.
    pub scores: Scores,
    /// A row of weights and the offset for each class, `[c d+1]`. For two classes the first row is the negative of the
    /// second.
    pub weights: Vec<f64>,
    /// Whether every row reached the minimum.
    pub converged: bool,
}

/// Trains on `train`, scores on `test`, with the penalty `c` of errors. Features are not standardised.
///
/// # Errors
/// `Shape` when a set is empty or their features differ in length; `Param` when `c` is not a positive number, there are
/// fewer than two classes, or a class to be tested has no training sample.
pub fn svm(train: &Features, test: &Features, c: f64) -> Result<SvmResult> {
    svm_while(train, test, c, &|| Ok(()))
}

/// As [`svm`], as long as `go_on` says so.
///
/// # Errors
/// As [`svm`]; that of `go_on`.
pub fn svm_while(train: &Features, test: &Features, c: f64, go_on: GoOn) -> Result<SvmResult> {
    check_pair("svm", train, test)?;
    if !(c > 0.0 && c.is_finite()) {
        return Err(Error::param("svm", "c", c, "the penalty of errors is finite and above 0"));
    }
    let classes = classes("svm", train, test)?;
    if classes.len() < 2 {
        let only = format!("two are needed, and the only class of the training samples is {}", classes[0]);
        return Err(Error::param("svm", "classes", classes.len(), only));
    }
    let rows: Vec<(Vec<f64>, bool)> = if classes.len() == 2 {
        let (row, done) = one_against_others(train, classes[1], c, go_on)?;
        vec![(row.iter().map(|w| -w).collect(), done), (row, done)]
    } else {
        classes.par_iter().map(|&class| one_against_others(train, class, c, go_on)).collect::<Result<_>>()?
    };
    let mut values = Vec::with_capacity(test.len() * classes.len());
    for x in test.values().chunks_exact(test.d()) {
        values.extend(rows.iter().map(|(row, _)| response(row, x)));
    }
    let place = |label: &usize| classes.binary_search(label).ok();
    let labels: Vec<usize> = test.labels().iter().filter_map(place).collect();
    Ok(SvmResult {
        scores: Scores::new(&values, &labels, classes.len())?,
        converged: rows.iter().all(|(_, done)| *done),
        weights: rows.into_iter().flat_map(|(row, _)| row).collect(),
        classes,
    })
}

/// `w·x + b`.
fn response(row: &[f64], x: &[f32]) -> f64 {
    row.iter().zip(x).map(|(w, v)| w * f64::from(*v)).sum::<f64>() + row[x.len()]
}

/// The weights and offset `[d+1]` for one class, and whether they are the minimum's.
fn one_against_others(train: &Features, class: usize, c: f64, go_on: GoOn) -> Result<(Vec<f64>, bool)> {
    let d = train.d();
    let n = train.len() as f64;
    let square = train.values().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n + 1.0; // the offset's feature is 1
    let tolerance = TOLERANCE * c * n * square.sqrt();
    let end = minimise(vec![0.0; d + 1], tolerance, LIMIT, |w, g| {
        go_on()?;
        g.copy_from_slice(w);
        let mut value = 0.5 * w.iter().map(|v| v * v).sum::<f64>();
        for (x, label) in train.values().chunks_exact(d).zip(train.labels()) {
            let y = if *label == class { 1.0 } else { -1.0 };
            let short = 1.0 - y * response(w, x);
            if short > 0.0 {
                value += c * short * short;
                let slope = -2.0 * c * short * y;
                g.iter_mut().zip(x).for_each(|(g, v)| *g += slope * f64::from(*v));
                g[d] += slope;
            }
        }
        Ok(value)
    })?;
    Ok((end.x, end.gradient <= tolerance))
}
