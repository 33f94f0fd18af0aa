//! Evaluation of frozen features: a linear probe, a support vector machine, a layer trained by gradient descent,
//! nearest neighbours and retrieval; and where a network looks ([`saliency`]).
//!
//! Features come from a trunk in evaluation mode, one row per video (averaged over its clips). Both protocols train on
//! one set of videos and are scored on another; neither changes the features.
//!
//! ```
//! use tubelet::eval::{Features, knn::knn, probe::probe};
//! let train = Features::new(2, vec![1.0, 0.1, 0.9, -0.1, -1.0, 0.1, -0.8, 0.0], vec![0, 0, 1, 1])?;
//! let test = Features::new(2, vec![0.5, 0.0, -0.5, 0.1], vec![0, 1])?;
//! assert_eq!(probe(&train, &test, 1e-3)?.top1, 1.0);
//! assert_eq!(knn(&train, &test, 1)?.top1, 1.0);
//! # Ok::<(), tubelet::error::Error>(())
//! ```

pub mod features;
mod head;
pub mod knn;
mod lbfgs;
pub mod npy;
pub mod penalty;
mod pool;
pub mod probe;
pub mod retrieval;
pub mod saliency;
mod sampling;
pub mod scores;
pub mod sgd;
pub mod svm;
pub mod views;

pub use pool::Pool;

use crate::error::{Error, Result};

/// Asked again and again by work that may take long, whether it goes on: its error ends the work, and is returned.
pub type GoOn<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// Rows of features with their classes.
#[derive(Clone, Debug)]
pub struct Features {
    d: usize,
    values: Vec<f32>,
    labels: Vec<usize>,
}

impl Features {
    /// The features `values [n d]`, row after row, of samples with `labels [n]`.
    ///
    /// # Errors
    /// `Shape` when `values` is not `d` numbers for each label; `Param` when `d` is 0 or a value is not finite.
    pub fn new(d: usize, values: Vec<f32>, labels: Vec<usize>) -> Result<Self> {
        if d == 0 {
            return Err(Error::param("features", "d", d, "a feature has at least one element"));
        }
        if labels.len().checked_mul(d) != Some(values.len()) {
            let want = format!("{} rows of {d} numbers", labels.len());
            return Err(Error::shape("features", "values", want, format!("{} numbers", values.len())));
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let rule = format!("features must be finite; it stands in row {} at {}", at / d, at % d);
            return Err(Error::param("features", "value", values[at], rule));
        }
        Ok(Features { d, values, labels })
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Length of a feature.
    #[must_use]
    pub fn d(&self) -> usize {
        self.d
    }

    /// All rows `[n d]`.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The class of each row.
    #[must_use]
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }
}

/// Requirements of both protocols on the two sets: not empty, and of equal feature length.
fn check_pair(op: &'static str, train: &Features, test: &Features) -> Result<()> {
    if train.is_empty() {
        return Err(Error::shape(op, "train", "at least one sample", "empty"));
    }
    if test.is_empty() {
        return Err(Error::shape(op, "test", "at least one sample", "empty"));
    }
    if train.d != test.d {
        let want = format!("features of length {}, as for training", train.d);
        return Err(Error::shape(op, "test", want, format!("features of length {}", test.d)));
    }
    Ok(())
}

/// The classes of `train`, ascending.
fn own_classes(train: &Features) -> Vec<usize> {
    let mut classes = train.labels.clone();
    classes.sort_unstable();
    classes.dedup();
    classes
}

/// The classes of `train`, ascending, which are those of `test` too.
///
/// # Errors
/// `Param` when a label of `test` is not among them.
fn classes(op: &'static str, train: &Features, test: &Features) -> Result<Vec<usize>> {
    let classes = own_classes(train);
    match test.labels.iter().find(|l| classes.binary_search(l).is_err()) {
        Some(l) => Err(Error::param(op, "class", l, "a class to be tested needs a training sample, and it has none")),
        None => Ok(classes),
    }
}
