//! The flow of batches of one size as a graph: one launch by the host instead of some hundreds.

use super::{Plan, Pointers, Tvl1, launch};
use crate::driver::{Graph, Memory};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor};
use std::sync::{Mutex, PoisonError};

/// The flow of a batch of a fixed number of pairs of one size on a GPU, recorded once. Each batch is then a launch and three
/// copies in device memory; the results are those of [`flow_batch`](super::flow_batch), to the bit.
///
/// ```
/// use tubelet::ops::tvl1::{Recorded, Tvl1, flow_batch};
/// use tubelet::tensor::{Device, Tensor};
///
/// # fn main() -> tubelet::error::Result<()> {
/// let (device, _) = Device::auto();
/// if let Device::Cuda(_) = device {
///     let flow = Recorded::new(&device, [16, 64, 64], &Tvl1::default())?;
///     let a = Tensor::zeros_on(&device, [16, 64, 64])?;
///     assert_eq!(flow.of(&a, &a)?.load()?, flow_batch(&a, &a, &Tvl1::default())?.load()?);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Recorded {
    graph: Graph,
    images: [Tensor; 2],
    flow: Tensor,
    /// Threads take turns: their images go to the same memory.
    turn: Mutex<()>,
    /// What the graph's launches work on; it lives as long as the graph.
    _work: Memory,
}

impl Recorded {
    /// Records the flow of `pairs` pairs of `h w` pixels. A flow of black images is computed first: what it loads cannot be
    /// loaded while launches are recorded.
    ///
    /// # Errors
    /// `Device` when `device` is no GPU; `Param` and `Shape` as [`flow_batch`](super::flow_batch); `OutOfMemory`; `Driver`.
    pub fn new(device: &Device, [pairs, h, w]: [usize; 3], p: &Tvl1) -> Result<Recorded> {
        let Device::Cuda(gpu) = device else { return Err(Error::device("tvl1", "device", "a GPU", device.clone())) };
        let plan = Plan::new(pairs, h, w, p)?;
        let images = [Tensor::zeros_on(device, [pairs, h, w])?, Tensor::zeros_on(device, [pairs, h, w])?];
        let mut flow = Tensor::zeros_on(device, [pairs, 2, h, w])?;
        let work = gpu.alloc(plan.workspace())?;
        let [a, b] = &images;
        let at = Pointers { a: a.input().0, b: b.input().0, flow: flow.output().0, workspace: work.ptr() };
        // SAFETY: the memory has the plan's extents, and the graph is kept no longer than it.
        let run = || unsafe { launch(gpu, &plan, p, &at) };
        run()?;
        let graph = gpu.graph(run)?;
        Ok(Recorded { graph, images, flow, turn: Mutex::new(()), _work: work })
    }

    /// The flows from `a [pairs h w]` to `b`: `[pairs 2 h w]` (u, then v). Does not wait for the GPU.
    ///
    /// # Errors
    /// `Shape` when the images have another shape than was recorded; `DType` when they are not f32; `Device` when they are not on
    /// its GPU; `OutOfMemory`; `Driver`.
    pub fn of(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        for ((name, x), to) in [("a", a), ("b", b)].into_iter().zip(&self.images) {
            if x.shape() != to.shape() {
                return Err(Error::shape("tvl1", name, to.shape(), x.shape()));
            }
            x.expect("tvl1", name, DType::F32)?;
            to.place("tvl1", &[(name, x)])?;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for (x, to) in [a, b].into_iter().zip(&self.images) {
            to.overwrite(x)?;
        }
        self.graph.replay()?;
        // A copy, as the next replay writes the flow anew.
        self.flow.apart()
    }
}
