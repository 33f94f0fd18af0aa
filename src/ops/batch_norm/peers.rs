//! Statistics of a batch that several processes share.

use crate::error::Result;
use crate::tensor::Tensor;
use std::fmt;

/// Processes that share a batch: each has as many rows of it, and normalises them with the statistics of all of them. They
/// make the same calls in the same order.
pub trait Peers: Send + Sync {
    /// How many they are, this one included.
    fn count(&self) -> usize;

    /// The numbers of all of them, `[count n]`, in the same order everywhere, from those of this one: `[n]`, f32, on the device of
    /// the batch. On a GPU this need not wait for the device.
    ///
    /// # Errors
    /// `Peer` when one of them has ended.
    fn gather(&self, own: &Tensor) -> Result<Tensor>;
}

impl fmt::Debug for dyn Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} peers", self.count())
    }
}
