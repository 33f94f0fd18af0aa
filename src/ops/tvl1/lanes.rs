//! The flows of many videos on several streams of a GPU, for threads that ask at the same time.

use super::{Flows, PAIRS, Tvl1, flow_pairs};
use crate::error::Result;
use crate::flow::{Flow, Gray};
use crate::tensor::Device;
use std::sync::{Condvar, Mutex, PoisonError};

/// Streams of a GPU. While one computes, the images of the next batch go up on the other, and the flows of the last come down.
const STREAMS: usize = 2;

/// Flows with the same parameters on one device, for threads that compute those of different videos at the same time. On a GPU
/// there are two streams, each with its own [`Flows`]: a batch is uploaded, computed and downloaded on one of them, while the other
/// has another thread's. So copies of one batch overlap with the kernels of another, where at least two threads ask.
///
/// ```
/// use tubelet::{flow::Gray, ops::tvl1::{Lanes, Tvl1}, tensor::Device};
/// let (device, _) = Device::auto(); // the first GPU, or the CPU
/// let lanes = Lanes::new(&device, &Tvl1::default())?;
/// let image = Gray::new(16, 16, vec![90.0; 256])?;
/// let flow = std::thread::scope(|s| s.spawn(|| lanes.of(&[(&image, &image)])).join().unwrap())?;
/// assert!(flow[0].u().iter().all(|u| *u == 0.0));
/// # Ok::<(), tubelet::error::Error>(())
/// ```
pub struct Lanes {
    p: Tvl1,
    /// None on the CPU.
    lanes: Vec<Flows>,
    /// Those that no thread uses.
    free: Mutex<Vec<usize>>,
    freed: Condvar,
}

impl Lanes {
    /// Flows with the parameters `p` on `device`.
    ///
    /// # Errors
    /// `Driver` when there can be no other stream.
    pub fn new(device: &Device, p: &Tvl1) -> Result<Lanes> {
        let mut lanes = Vec::new();
        if let Device::Cuda(gpu) = device {
            lanes.push(Flows::new(device, p));
            for _ in 1..STREAMS {
                lanes.push(Flows::new(&Device::Cuda(gpu.fork()?), p));
            }
        }
        let free = Mutex::new((0..lanes.len()).collect());
        Ok(Lanes { p: p.clone(), lanes, free, freed: Condvar::new() })
    }

    /// How many pairs are best given at once: [`PAIRS`] on a GPU, one on the CPU, where a pair is as fast as one of many.
    #[must_use]
    pub fn pairs(&self) -> usize {
        if self.lanes.is_empty() { 1 } else { PAIRS }
    }

    /// The flows of pairs of images of one size: the same bits as [`flow_pairs_on`](super::flow_pairs_on). Waits while all streams
    /// are in use.
    ///
    /// # Errors
    /// As [`flow_pairs_on`](super::flow_pairs_on).
    pub fn of(&self, pairs: &[(&Gray, &Gray)]) -> Result<Vec<Flow>> {
        if self.lanes.is_empty() {
            return flow_pairs(pairs, &self.p);
        }
        let lane = Lane { of: self, at: self.take() };
        self.lanes[lane.at].of(pairs)
    }

    fn take(&self) -> usize {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match free.pop() {
                Some(lane) => return lane,
                None => free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// A stream in use, which is given back also by a thread that panics.
struct Lane<'a> {
    of: &'a Lanes,
    at: usize,
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.of.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.at);
        self.of.freed.notify_one();
    }
}
