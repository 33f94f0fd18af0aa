//! Statistics of a batch that several processes share.

use crate::error::Result;
use crate::tensor::Tensor;
use std::fmt;

/// Processes that share a batch: each has as many rows of it, and normalises them with the statistics of all of them. They
/// make the same calls in the same order.
pub trait Peers: Send + Sync {
    /// How many they are, this one included.
    fn count(&self) -> usize;

    /// The numbers of all of them, `[count n]`, in the same order everywhere, from those of this one: `[n]`, f32, in main
    /// memory.
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

/// What each of them has in the place of `own`. A number travels as an f32 and the rest, another one: 48 bits.
pub(super) fn gather(peers: &dyn Peers, own: &[f64]) -> Result<Vec<Vec<f64>>> {
    let halves = own.iter().flat_map(|&number| [number as f32, (number - f64::from(number as f32)) as f32]);
    let halves: Vec<f32> = halves.collect();
    let all = peers.gather(&Tensor::from_f32([halves.len()], &halves)?)?;
    let all = all.load()?;
    let numbers = |of_one: &[f32]| of_one.chunks_exact(2).map(|pair| f64::from(pair[0]) + f64::from(pair[1])).collect();
    Ok(all.chunks_exact(halves.len().max(1)).map(numbers).collect())
}
