//! Retrieval: for each query the nearest videos of a gallery, by the cosine of their features.
//!
//! ```
//! use tubelet::eval::{Features, retrieval::retrieve};
//! let gallery = Features::new(2, vec![1.0, 0.0, 0.0, 1.0, 0.9, 0.2], vec![0, 1, 1])?;
//! let queries = Features::new(2, vec![1.0, 0.1, 0.1, 1.0], vec![1, 1])?;
//! let found = retrieve(&gallery, &queries, 2)?;
//! assert_eq!(found.nearest, [[0, 2], [1, 2]]); // the first query's nearest is of another class
//! assert_eq!([found.recall(1), found.recall(2)], [0.5, 1.0]);
//! # Ok::<(), tubelet::error::Error>(())
//! ```

use super::{Features, check_pair, knn};
use crate::error::{Error, Result};
use crate::ops::matmul::product::{Matrix, product};
use rayon::prelude::*;

/// The nearest of a gallery.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieved {
    /// For each query the samples of the gallery, nearest first. Of equally near ones the earlier comes first.
    pub nearest: Vec<Vec<usize>>,
    /// For each query the place of the first of its class among them; `None` if there is none.
    pub first: Vec<Option<usize>>,
}

impl Retrieved {
    /// R@k: the share of queries with at least one of their class among the `k` nearest, as papers on video retrieval
    /// count it.
    #[must_use]
    pub fn recall(&self, k: usize) -> f64 {
        let right = self.first.iter().filter(|first| first.is_some_and(|place| place < k)).count();
        right as f64 / self.first.len() as f64
    }
}

/// Finds the `k` nearest of `gallery` for each of `queries`; all of them if there are fewer. Their memory is that of one
/// query's similarities at a time for each thread.
///
/// # Errors
/// `Shape` when a set is empty or their features differ in length; `Param` when `k` is 0.
pub fn retrieve(gallery: &Features, queries: &Features, k: usize) -> Result<Retrieved> {
    check_pair("retrieval", gallery, queries)?;
    if k == 0 {
        return Err(Error::param("retrieval", "k", k, "at least one is to be found"));
    }
    let (keys, d) = (knn::unit(gallery)?, gallery.d());
    let (keys, asked) = (keys.f32()?, knn::unit(queries)?);
    let nearest: Vec<Vec<usize>> = asked
        .f32()?
        .par_chunks(d)
        .map(|query| {
            let mut cosines = vec![0.0f32; gallery.len()];
            product(Matrix::rows(query, d), Matrix::rows(keys, d).t(), &mut cosines);
            knn::nearest(&cosines, k)
        })
        .collect();
    let first = nearest.iter().zip(queries.labels());
    let first = first.map(|(near, label)| near.iter().position(|&i| gallery.labels()[i] == *label)).collect();
    Ok(Retrieved { nearest, first })
}
