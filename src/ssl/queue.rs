//! The queue of negatives: keys of recent batches, the oldest replaced first (MoCo, algorithm 1).
//!
//! ```
//! use tubelet::{Tensor, ssl::queue::Queue};
//! let mut queue = Queue::new(4, 2)?; // four keys of two numbers
//! queue.push(&Tensor::full([3, 2], 1.0), &[7, 8, 9].into())?; // and the videos they are of
//! queue.push(&Tensor::full([3, 2], 2.0), &[1, 2, 3].into())?; // the oldest are overwritten
//! assert_eq!((queue.filled(), queue.at(), queue.owners()), (4, 2, &[2, 3, 9, 1][..]));
//! # Ok::<(), tubelet::Error>(())
//! ```

use crate::driver::Memory;
use crate::error::{Error, Result};
use crate::ops::infonce::Mask;
use crate::tensor::{DType, Device, Integers, Place, Ring, Tensor};
use std::sync::Arc;

/// A ring buffer of `K` keys of length `d`, each with the number of the video it came from.
///
/// It starts empty: slots without a key belong to [`Mask::NOBODY`] and are masked for every query. MoCo fills it with
/// random unit vectors instead, which rewards a network that gives every clip the same code, since no random vector is
/// near that code.
#[derive(Clone, Debug)]
pub struct Queue {
    keys: Tensor,
    owners: Vec<u32>,
    at: usize,
    /// GPU state of the queue; created when first needed, and again for a cloned queue.
    ring: Option<Arc<Ring>>,
}

impl Queue {
    /// An empty queue for `keys` keys of length `d`.
    ///
    /// # Errors
    /// `Param` when `keys` or `d` is 0; `Shape` or `OutOfMemory` when there are too many.
    pub fn new(keys: usize, d: usize) -> Result<Self> {
        if keys == 0 {
            return Err(Error::param("queue", "keys", keys, "a queue holds at least one key"));
        }
        if d == 0 {
            return Err(Error::param("queue", "d", d, "a key has at least one element"));
        }
        let rows = Tensor::zeros_on(&Device::Cpu, [keys, d])?; // as many owners are no more bytes
        Ok(Queue { keys: rows, owners: vec![Mask::NOBODY; keys], at: 0, ring: None })
    }

    /// A queue from a checkpoint: its `keys [K d]`, their owners, and the row `at` of the next key.
    ///
    /// # Errors
    /// `Shape` when `keys` is not a matrix with rows or does not have one owner each; `DType` when it is not f32;
    /// `Param` when `at` is not a row.
    pub fn restore(keys: Tensor, owners: Vec<u32>, at: usize) -> Result<Self> {
        let [rows, d] = keys.shape().matrix("queue", "keys")?;
        if rows == 0 || d == 0 {
            return Err(Error::shape("queue", "keys", "a matrix with elements", keys.shape()));
        }
        keys.expect("queue", "keys", DType::F32)?;
        if owners.len() != rows {
            return Err(Error::shape("queue", "owners", format!("{rows} numbers"), owners.len()));
        }
        if at >= rows {
            return Err(Error::param("queue", "at", at, format!("the queue has {rows} rows, counted from 0")));
        }
        Ok(Queue { keys, owners, at, ring: None })
    }

    /// The same queue on `device`.
    ///
    /// # Errors
    /// Those of [`Tensor::to`].
    pub fn to(&self, device: &Device) -> Result<Self> {
        Ok(Queue { keys: self.keys.to(device)?, ring: None, ..self.clone() })
    }

    /// All keys `[K d]`, in no particular order: the negatives of the loss.
    #[must_use]
    pub fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// Capacity `K`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.dims()[0]
    }

    /// Whether the capacity is 0: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row that the next key replaces.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// The video each key came from; [`Mask::NOBODY`] for slots without a key.
    #[must_use]
    pub fn owners(&self) -> &[u32] {
        &self.owners
    }

    /// Number of slots that hold keys.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.owners.iter().filter(|&&o| o != Mask::NOBODY).count()
    }

    /// The owners on the device of the keys, once a key has been enqueued there.
    pub(crate) fn owners_there(&self) -> Option<&Memory> {
        self.ring.as_ref().map(|ring| ring.owners())
    }

    /// Restores the host-side state, after an enqueue that was only captured.
    pub(crate) fn rewind(&mut self, owners: Vec<u32>, at: usize) {
        (self.owners, self.at) = (owners, at);
    }

    /// Updates the host-side state for enqueued keys of `owners`.
    pub(crate) fn advance(&mut self, owners: &[u32]) {
        let (rows, n) = (self.len(), owners.len());
        for (i, owner) in owners.iter().enumerate().skip(n.saturating_sub(rows)) {
            self.owners[(self.at + i) % rows] = *owner;
        }
        self.at = (self.at + n) % rows;
    }

    /// Replaces the oldest keys by `keys [n d]` of `owners`, row 0 first, wrapping around at the end. Of more than `K`
    /// rows the last `K` remain. Only these rows are copied, unless the tensor of [`Queue::keys`] is still shared.
    ///
    /// # Errors
    /// `Shape` when `keys` is not a matrix of rows of length `d`, or does not have one owner each; `Device` when they
    /// are on another device; on a GPU `OutOfMemory` and `Driver`.
    pub fn push(&mut self, keys: &Tensor, owners: &Integers) -> Result<()> {
        let [rows, d] = self.keys.shape().matrix("queue", "keys")?;
        let [n, width] = keys.shape().matrix("queue", "keys")?;
        if width != d {
            return Err(Error::shape("queue", "keys", format!("[n {d}]"), keys.shape()));
        }
        if owners.len() != n {
            return Err(Error::shape("queue", "owners", format!("{n} numbers"), owners.len()));
        }
        let on_gpu = match self.keys.place("queue", &[("keys", keys)])? {
            Place::Cpu => None,
            Place::Gpu(gpu) => Some(gpu.clone()),
        };
        let last = n.saturating_sub(rows);
        match on_gpu {
            Some(gpu) => {
                let ring = self.ring.take().filter(|r| Arc::strong_count(r) == 1).map(Ok);
                let ring = ring.unwrap_or_else(|| Ring::new(&gpu, &self.owners, self.at).map(Arc::new))?;
                ring.push(&mut self.keys, keys, owners)?;
                self.ring = Some(ring);
            }
            None => {
                let fresh = keys.host()?;
                let ring = self.keys.f32_mut()?;
                for (i, row) in fresh.chunks_exact(d).enumerate().skip(last) {
                    let to = (self.at + i) % rows;
                    ring[to * d..(to + 1) * d].copy_from_slice(row);
                }
            }
        }
        self.advance(owners.values());
        Ok(())
    }
}
