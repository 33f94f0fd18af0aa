//! The flows of many videos on a device, with graphs of the batches that come again and again.

use super::{PAIRS, Recorded, Tvl1, batch_on, flow_batch, flow_pairs};
use crate::error::{ErrorKind, Result};
use crate::flow::{Flow, Gray};
use crate::tensor::Device;
use std::sync::{PoisonError, RwLock};

/// Sizes of images whose batches are recorded. A graph keeps the memory of its batch, so there are few.
const SIZES: usize = 4;

/// Flows with the same parameters on one device, for the pairs of many videos. On a GPU, batches of [`PAIRS`] pairs of a size are
/// recorded as a graph when the size comes a second time, and are then one launch ([`Recorded`]): up to four sizes, where there
/// is memory for them. Smaller batches are launched as [`flow_pairs_on`](super::flow_pairs_on) does. Several threads may share
/// one value. While it records, nobody else may give work to the same stream, so give the threads no other way to it.
///
/// ```
/// use tubelet::{flow::Gray, ops::tvl1::{Flows, Tvl1}, tensor::Device};
/// let (device, _) = Device::auto(); // the first GPU, or the CPU
/// let flows = Flows::new(&device, &Tvl1::default());
/// let image = Gray::new(16, 16, vec![90.0; 256])?;
/// for video in [3, 5] {
///     let flow = flows.of(&vec![(&image, &image); video])?;
///     assert!(flow.len() == video && flow[0].u().iter().all(|u| *u == 0.0));
/// }
/// # Ok::<(), tubelet::error::Error>(())
/// ```
pub struct Flows {
    device: Device,
    p: Tvl1,
    /// Read by whoever uses the GPU, and written by who records: what others submit meanwhile would be refused.
    sizes: RwLock<Vec<Size>>,
}

/// A size that came, and how its batches are computed.
struct Size {
    size: [usize; 2],
    how: How,
}

enum How {
    /// Launch by launch; recorded when it comes again.
    Once,
    /// Launch by launch: there is no memory for a graph.
    Launches,
    Graph(Box<Recorded>),
}

impl Flows {
    /// Flows with the parameters `p` on `device`.
    #[must_use]
    pub fn new(device: &Device, p: &Tvl1) -> Flows {
        Flows { device: device.clone(), p: p.clone(), sizes: RwLock::default() }
    }

    /// The flows of pairs of images of one size: the same bits as [`flow_pairs_on`](super::flow_pairs_on).
    ///
    /// # Errors
    /// As [`flow_pairs_on`](super::flow_pairs_on).
    pub fn of(&self, pairs: &[(&Gray, &Gray)]) -> Result<Vec<Flow>> {
        let (Device::Cuda(_), Some((first, _))) = (&self.device, pairs.first()) else {
            return flow_pairs(pairs, &self.p);
        };
        let size = [first.h(), first.w()];
        let mut flows = Vec::with_capacity(pairs.len());
        for some in pairs.chunks(PAIRS) {
            let whole = some.len() == PAIRS;
            let launches = |a: &_, b: &_| flow_batch(a, b, &self.p);
            let sizes = self.sizes.read().unwrap_or_else(PoisonError::into_inner);
            let how = sizes.iter().find(|known| known.size == size).map(|known| &known.how);
            match how {
                Some(How::Graph(graph)) if whole => {
                    flows.extend(batch_on(&self.device, some, size, &self.p, |a, b| graph.of(a, b))?);
                    continue;
                }
                _ => flows.extend(batch_on(&self.device, some, size, &self.p, launches)?),
            }
            let is_settled = match how {
                None => sizes.len() == SIZES,
                Some(how) => !matches!(how, How::Once),
            };
            drop(sizes);
            if whole && !is_settled {
                self.met(size)?;
            }
        }
        Ok(flows)
    }

    /// Notes that a batch of this size came, and records the second one.
    fn met(&self, size: [usize; 2]) -> Result<()> {
        let mut sizes = self.sizes.write().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = sizes.iter().position(|known| known.size == size) else {
            if sizes.len() < SIZES {
                sizes.push(Size { size, how: How::Once });
            }
            return Ok(());
        };
        if !matches!(sizes[at].how, How::Once) {
            return Ok(()); // another thread was faster
        }
        let [h, w] = size;
        sizes[at].how = match Recorded::new(&self.device, [PAIRS, h, w], &self.p) {
            Ok(graph) => How::Graph(Box::new(graph)),
            Err(e) if matches!(e.kind(), ErrorKind::OutOfMemory { .. }) => How::Launches,
            Err(e) => return Err(e),
        };
        Ok(())
    }
}
