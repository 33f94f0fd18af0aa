//! Nearest neighbours by cosine similarity of features.
//!
//! ```
//! use tubelet::eval::{Features, knn::knn};
//! let train = Features::new(2, vec![1.0, 0.0, 0.0, 1.0], vec![0, 1])?; // two samples of two features
//! let test = Features::new(2, vec![0.9, 0.1, 0.3, 0.7], vec![0, 1])?;
//! assert_eq!(knn(&train, &test, 1)?.top1, 1.0);
//! # Ok::<(), tubelet::Error>(())
//! ```

use super::{Features, check_pair, classes};
use crate::error::{Error, Result};
use crate::ops::l2_norm;
use crate::ops::matmul::product::{Matrix, product};
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Test samples per task whose similarities are in memory at once.
const ROWS: usize = 64;

/// With several neighbours each votes `exp(cosine / TEMPERATURE)` for its class (Wu et al., *Unsupervised Feature
/// Learning via Non-Parametric Instance Discrimination*, section 3.4).
pub(crate) const TEMPERATURE: f64 = 0.07;

/// Result of nearest-neighbour classification.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnResult {
    /// Accuracy on the test samples.
    pub top1: f64,
    /// Predicted class of each test sample.
    pub predicted: Vec<usize>,
}

/// Classifies each sample of `test` by its `k` nearest of `train`; `k = 1` is top-1 retrieval. Among equal similarities
/// the earlier training sample wins, among equal votes the smaller class. Features are not standardised.
///
/// # Errors
/// `Shape` when a set is empty or their features differ in length; `Param` when `k` is 0 or more than there are training
/// samples, or a class to be tested has no training sample.
pub fn knn(train: &Features, test: &Features, k: usize) -> Result<KnnResult> {
    check_pair("knn", train, test)?;
    if k == 0 || k > train.len() {
        return Err(Error::param("knn", "k", k, format!("it lies in 1..={}, the training samples", train.len())));
    }
    let classes = classes("knn", train, test)?;
    let (keys, queries) = (unit(train)?, unit(test)?);
    let (keys, d) = (keys.f32()?, train.d());
    let predicted: Vec<usize> = queries
        .f32()?
        .par_chunks(ROWS * d)
        .flat_map_iter(|queries| {
            let mut cosines = vec![0.0f32; queries.len() / d * train.len()];
            product(Matrix::rows(queries, d), Matrix::rows(keys, d).t(), &mut cosines);
            let elected: Vec<usize> =
                cosines.chunks_exact(train.len()).map(|row| elect(row, train.labels(), &classes, k)).collect();
            elected
        })
        .collect();
    let right = predicted.iter().zip(test.labels()).filter(|(p, l)| p == l).count();
    Ok(KnnResult { top1: right as f64 / test.len() as f64, predicted })
}

/// Rows of unit length.
pub(super) fn unit(f: &Features) -> Result<Tensor> {
    l2_norm::forward(&Tensor::from_f32([f.len(), f.d()], f.values())?)
}

/// The places of the `k` largest of `cosines`, largest first; of equal ones the earlier first.
pub(super) fn nearest(cosines: &[f32], k: usize) -> Vec<usize> {
    let nearer = |a: &usize, b: &usize| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b));
    let mut order: Vec<usize> = (0..cosines.len()).collect();
    if k < order.len() {
        order.select_nth_unstable_by(k - 1, nearer);
        order.truncate(k);
    }
    order.sort_unstable_by(nearer);
    order
}

fn elect(cosines: &[f32], labels: &[usize], classes: &[usize], k: usize) -> usize {
    let mut votes = vec![0.0; classes.len()];
    for i in nearest(cosines, k) {
        if let Ok(class) = classes.binary_search(&labels[i]) {
            votes[class] += (f64::from(cosines[i]) / TEMPERATURE).exp();
        }
    }
    let best = (1..classes.len()).fold(0, |best, i| if votes[i] > votes[best] { i } else { best });
    classes[best]
}
