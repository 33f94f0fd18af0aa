//! A run of one process.

use super::Collective;
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// One process, which has nobody to exchange anything with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn name(&self) -> &'static str {
        "none"
    }

    fn share(&self, note: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![note.to_vec()])
    }

    fn all_to_all(&self, rows: &Tensor) -> Result<Tensor> {
        rows_for(1, rows)?;
        Ok(rows.clone())
    }

    fn all_gather(&self, part: &Tensor) -> Result<Tensor> {
        part.reshape(gathered(1, part.shape()))
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn sent(&self) -> u64 {
        0
    }

    fn fail(&self, _: &str) {}

    fn finish(&self) {}
}

/// Checks that `rows` has one row for each of `size` ranks; returns the elements of a row.
pub(super) fn rows_for(size: usize, rows: &Tensor) -> Result<usize> {
    match rows.dims() {
        [n, row @ ..] if *n == size => Ok(row.iter().product()),
        _ => Err(Error::shape("all_to_all", "rows", format!("{size} rows, one for each rank"), rows.shape())),
    }
}

/// The shape of `size` tensors of shape `part`.
pub(super) fn gathered(size: usize, part: Shape) -> Shape {
    let dims: Vec<usize> = [size].into_iter().chain(part.dims().iter().copied()).collect();
    Shape::new(&dims)
}
