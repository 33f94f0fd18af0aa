//! How a batch norm divides its input.

use crate::error::{Error, Result};
use crate::shape::Shape;

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
