//! How a batch norm divides its input.

use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// How the elements of `x` are divided: `parts` parts of `rows` rows of `c` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Parts with statistics of their own.
    pub parts: usize,
    /// Rows in each part: the number of values from which a channel's statistics are computed.
    pub rows: usize,
    /// Channels.
    pub c: usize,
}

impl Rows {
    /// The division of `x` into `parts`.
    ///
    /// # Errors
    /// `Shape` when the rank is not 2 to 5 or there are no elements; `Param` when `parts` is 0 or does not divide `n`.
    pub fn new(x: Shape, parts: usize) -> Result<Self> {
        if x.rank() < 2 || x.is_empty() {
            return Err(Error::shape("batch_norm", "x", "[n .. c] of two to five extents, none of them 0", x));
        }
        let n = x.dims()[0];
        if parts == 0 || !n.is_multiple_of(parts) {
            return Err(Error::param("batch_norm", "parts", parts, format!("it must divide the batch of {n}")));
        }
        let c = x.last();
        Ok(Rows { parts, rows: x.len() / c / parts, c })
    }
}

/// Number of tiles of each part that `sums [parts 2 c]` or `[parts tiles 2 c]` are of.
pub(super) fn tiles(sums: &Tensor) -> usize {
    if let [_, tiles, 2, _] = *sums.dims() { tiles } else { 1 }
}

/// Such sums added up over the tiles, on the host: `[parts 2 c]`.
pub(super) fn over_tiles(sums: &Tensor) -> Result<Vec<f32>> {
    let (columns, tiles, all) = (2 * sums.shape().last(), tiles(sums), sums.host()?);
    let total = |part: &[f32], j: usize| part.iter().skip(j).step_by(columns).sum();
    Ok(all.chunks(tiles * columns).flat_map(|part| (0..columns).map(move |j| total(part, j))).collect())
}
