//! The queue of negatives: the keys of recent batches, oldest replaced first (MoCo, algorithm 1).

use crate::error::{Error, Result};
use crate::ops::l2_norm;
use crate::rng::{Purpose, stream};
use crate::tensor::Tensor;
use rand::RngExt;

/// `K` keys of length `d` in a ring. It starts with random unit vectors, so that the loss has all its `K` negatives from
/// the first step on.
#[derive(Clone, Debug)]
pub struct Queue {
    keys: Tensor,
    at: usize,
    filled: usize,
}

impl Queue {
    /// A queue `[keys d]` of random unit vectors: normal numbers from `rng::stream(seed, 0, which, Purpose::Queue)`,
    /// normalised. `which` tells apart the queues of one run.
    ///
    /// # Errors
    /// `Param` when `keys` or `d` is 0.
    pub fn random(keys: usize, d: usize, seed: u64, which: u64) -> Result<Self> {
        if keys == 0 {
            return Err(Error::param("queue", "keys", keys, "a queue holds at least one key"));
        }
        if d == 0 {
            return Err(Error::param("queue", "d", d, "a key has at least one element"));
        }
        let mut rng = stream(seed, 0, which, Purpose::Queue);
        let normals = Tensor::build([keys, d], |out| {
            // Box and Muller's transform of two uniform numbers; 1 - u keeps the logarithm finite.
            for pair in out.chunks_mut(2) {
                let (u, v): (f64, f64) = (rng.random(), rng.random());
                let (r, angle) = ((-2.0 * (1.0 - u).ln()).sqrt(), std::f64::consts::TAU * v);
                for (o, part) in pair.iter_mut().zip([angle.cos(), angle.sin()]) {
                    *o = (r * part) as f32;
                }
            }
        });
        Ok(Queue { keys: l2_norm::forward(&normals)?, at: 0, filled: 0 })
    }

    /// A queue as a checkpoint holds it: its `keys [K d]`, the row the next key goes `at`, and how many rows were
    /// `filled` by [`Queue::push`].
    ///
    /// # Errors
    /// `Shape` when `keys` is not a matrix with rows; `DType` when it is not f32; `Param` when `at` is not a row or
    /// `filled` is more than there are.
    pub fn restore(keys: Tensor, at: usize, filled: usize) -> Result<Self> {
        let [rows, d] = keys.shape().matrix("queue", "keys")?;
        if rows == 0 || d == 0 {
            return Err(Error::shape("queue", "keys", "a matrix with elements", keys.shape()));
        }
        keys.f32()?;
        if at >= rows {
            return Err(Error::param("queue", "at", at, format!("the queue has {rows} rows, counted from 0")));
        }
        if filled > rows {
            return Err(Error::param("queue", "filled", filled, format!("the queue has {rows} rows")));
        }
        Ok(Queue { keys, at, filled })
    }

    /// All keys `[K d]`, in no particular order: the negatives of the loss.
    pub fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// How many keys it holds, `K`.
    pub fn len(&self) -> usize {
        self.keys.dims()[0]
    }

    /// Whether it holds no keys: never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row that the next key replaces.
    pub fn at(&self) -> usize {
        self.at
    }

    /// How many rows hold pushed keys; the others are still random.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Replaces the oldest keys by `keys [n d]`, row 0 first, going round at the end. Of more than `K` rows the last `K`
    /// stay. Nothing is copied but the rows, unless somebody else still holds the tensor of [`Queue::keys`].
    ///
    /// # Errors
    /// `Shape` when `keys` is not a matrix of rows of length `d`.
    pub fn push(&mut self, keys: &Tensor) -> Result<()> {
        let [rows, d] = self.keys.shape().matrix("queue", "keys")?;
        let [n, width] = keys.shape().matrix("queue", "keys")?;
        if width != d {
            return Err(Error::shape("queue", "keys", format!("[n {d}]"), keys.shape()));
        }
        let fresh = keys.load();
        let ring = self.keys.f32_mut()?;
        for (i, row) in fresh.chunks_exact(d).enumerate().skip(n.saturating_sub(rows)) {
            let to = (self.at + i) % rows * d;
            ring[to..to + d].copy_from_slice(row);
        }
        self.at = (self.at + n) % rows;
        self.filled = (self.filled + n).min(rows);
        Ok(())
    }
}
