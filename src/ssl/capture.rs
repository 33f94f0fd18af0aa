//! A training step captured as a graph and replayed: one launch instead of some hundreds.

use super::pathway::Notes;
use super::report::{Report, Seen};
use crate::driver::Graph;
use crate::error::{Error, Result};
use crate::ops::sgd::Sgd;
use crate::tensor::{Device, Tensor};
use rand::Rng;

/// A method's step, separated into its inputs and its computation.
pub trait CapturedMethod: Clone {
    /// Networks and queues.
    type Networks;
    /// A batch.
    type Views;
    /// Other values that change from step to step: the learning rate, possibly more.
    type Rates;
    /// Everything a step reads besides the networks, on their device.
    type Inputs;

    /// The inputs of a step on `views`, moved to the device of the networks. `rng` permutes the key batches.
    ///
    /// # Errors
    /// `Param` and `Shape` of views that do not match the method; on a GPU `OutOfMemory` and `Driver`.
    fn inputs(
        &self,
        p: &Self::Networks,
        views: &Self::Views,
        rng: &mut impl Rng,
        rates: Self::Rates,
    ) -> Result<Self::Inputs>;

    /// A step on inputs that are on the device. There are no uploads and no host synchronisation.
    ///
    /// # Errors
    /// Those of the method's `step`.
    fn run(&self, p: &mut Self::Networks, inputs: &Self::Inputs, sgd: &Sgd) -> Result<Seen>;

    /// The same inputs in memory that is not shared.
    #[doc(hidden)]
    fn apart(inputs: Self::Inputs) -> Result<Self::Inputs>;

    /// Writes new inputs over the old ones; draws from `rng` like [`CapturedMethod::inputs`].
    #[doc(hidden)]
    fn refill(
        &self,
        inputs: &mut Self::Inputs,
        views: &Self::Views,
        rng: &mut impl Rng,
        rates: Self::Rates,
    ) -> Result<()>;

    /// Device of the networks.
    #[doc(hidden)]
    fn device(p: &Self::Networks) -> Device;

    /// The host-side state after the steps so far.
    #[doc(hidden)]
    fn notes(p: &Self::Networks) -> Vec<Notes>;

    /// Restores that state.
    #[doc(hidden)]
    fn set_notes(p: &mut Self::Networks, notes: Vec<Notes>);

    /// Updates it for a replayed step.
    #[doc(hidden)]
    fn note_step(&self, p: &mut Self::Networks, views: &Self::Views);
}

/// A step on a GPU that is replayed on new inputs. It holds the networks' addresses, so the networks it was captured
/// with must not be restored, moved or replaced meanwhile; each call receives them to update their host-side state.
pub struct Captured<M: CapturedMethod> {
    method: M,
    graph: Graph,
    inputs: M::Inputs,
    seen: Seen,
}

impl<M: CapturedMethod> Captured<M> {
    /// Runs one step, and captures another. Run an ordinary step before, so that memory shared between the networks
    /// initially has been separated.
    ///
    /// # Errors
    /// Those of the method's step; `Device` when the networks are not on a GPU; `Driver` when something cannot be
    /// captured. After an error the networks may be half updated and must be restored.
    pub fn new(
        method: &M,
        p: &mut M::Networks,
        views: &M::Views,
        rng: &mut impl Rng,
        rates: M::Rates,
        sgd: &Sgd,
    ) -> Result<(Captured<M>, Report)> {
        let Device::Cuda(gpu) = M::device(p) else {
            return Err(Error::device("capture", "networks", "a GPU", Device::Cpu));
        };
        // Memory owned by the graph: the caller's views may be freed, and are not overwritten.
        let inputs = M::apart(method.inputs(p, views, rng, rates)?)?;
        // A real step. It loads every kernel and leaves the memory that capturing will request: neither is possible
        // while capturing.
        let report = method.run(p, &inputs, sgd)?.read()?;
        // Capturing does nothing on the GPU, but it updates the host-side state.
        let notes = M::notes(p);
        let mut seen = None;
        let graph = gpu.graph(|| {
            seen = Some(method.run(p, &inputs, sgd)?);
            Ok(())
        })?;
        M::set_notes(p, notes);
        let Some(seen) = seen else { unreachable!("the captured step ran") };
        Ok((Captured { method: method.clone(), graph, inputs, seen }, report))
    }

    /// The method's step, by replaying the graph: on views of the same shapes, and the same networks.
    ///
    /// # Errors
    /// Those of the method's step; `Shape` when the views have other shapes.
    pub fn step(
        &mut self,
        p: &mut M::Networks,
        views: &M::Views,
        rng: &mut impl Rng,
        rates: M::Rates,
    ) -> Result<Report> {
        self.method.refill(&mut self.inputs, views, rng, rates)?;
        self.graph.replay()?;
        self.method.note_step(p, views);
        self.seen.read()
    }

    /// Bytes that the graph keeps for its launches.
    pub fn bytes(&self) -> usize {
        self.graph.bytes()
    }
}

/// Writes new values over the old ones.
pub(super) fn overwrite<const N: usize>(to: &[Tensor; N], from: &[Tensor; N]) -> Result<()> {
    to.iter().zip(from).try_for_each(|(to, from)| to.overwrite(from))
}
