//! A step recorded once and repeated: one launch instead of some hundreds.

use super::pathway::Notes;
use super::report::{Report, Seen};
use crate::driver::Graph;
use crate::error::{Error, Result};
use crate::ops::sgd::Sgd;
use crate::tensor::{Device, Tensor};
use rand::Rng;

/// A method's step, taken apart into what it reads and what it does.
pub trait Step: Clone {
    /// Networks and queues.
    type Networks;
    /// A batch.
    type Views;
    /// What changes from step to step besides: the learning rate, perhaps more.
    type Rates;
    /// Everything that a step reads besides the networks, where those are.
    type Inputs;

    /// What a step on `views` reads, brought to where the networks are. `rng` permutes the key batches.
    ///
    /// # Errors
    /// `Param` and `Shape` of views that do not fit the method; of a GPU `OutOfMemory` and `Driver`.
    fn inputs(
        &self,
        p: &Self::Networks,
        views: &Self::Views,
        rng: &mut impl Rng,
        rates: Self::Rates,
    ) -> Result<Self::Inputs>;

    /// A step on inputs that are in place. Nothing is uploaded, and nothing waited for.
    ///
    /// # Errors
    /// As the method's `step`.
    fn run(&self, p: &mut Self::Networks, inputs: &Self::Inputs, sgd: &Sgd) -> Result<Seen>;

    /// The same inputs in memory that nobody else holds.
    #[doc(hidden)]
    fn apart(inputs: Self::Inputs) -> Result<Self::Inputs>;

    /// New inputs in the places of the old ones; `rng` is asked as [`Step::inputs`] asks it.
    #[doc(hidden)]
    fn refill(
        &self,
        inputs: &mut Self::Inputs,
        views: &Self::Views,
        rng: &mut impl Rng,
        rates: Self::Rates,
    ) -> Result<()>;

    /// Where the networks are.
    #[doc(hidden)]
    fn device(p: &Self::Networks) -> Device;

    /// What the host counts of the steps so far.
    #[doc(hidden)]
    fn notes(p: &Self::Networks) -> Vec<Notes>;

    /// Sets those counts back.
    #[doc(hidden)]
    fn set_notes(p: &mut Self::Networks, notes: Vec<Notes>);

    /// Counts a repeated step.
    #[doc(hidden)]
    fn note_step(&self, p: &mut Self::Networks, views: &Self::Views);
}

/// A step on a GPU that repeats itself on new inputs. It holds the networks' addresses, so the networks it was recorded
/// with must not be restored, moved or replaced meanwhile; each call gets them to keep their counts.
pub struct Recorded<M: Step> {
    method: M,
    graph: Graph,
    inputs: M::Inputs,
    seen: Seen,
}

impl<M: Step> Recorded<M> {
    /// Takes a step, and records another. Take an ordinary one before, so that what the networks share at their start has
    /// been taken apart.
    ///
    /// # Errors
    /// As the method's step; `Device` when the networks are on no GPU; `Driver` when something cannot be recorded. After
    /// an error the networks may hold half a step and must be restored.
    pub fn new(
        method: &M,
        p: &mut M::Networks,
        views: &M::Views,
        rng: &mut impl Rng,
        rates: M::Rates,
        sgd: &Sgd,
    ) -> Result<(Recorded<M>, Report)> {
        let Device::Cuda(gpu) = M::device(p) else {
            return Err(Error::device("record", "networks", "a GPU", Device::Cpu));
        };
        // Memory of the graph's own: the caller's views may go, and are not written over.
        let inputs = M::apart(method.inputs(p, views, rng, rates)?)?;
        // The step itself. It loads every kernel and leaves the memory that the recording will ask for: neither can be had
        // while recording.
        let report = method.run(p, &inputs, sgd)?.read()?;
        // The recording does nothing on the GPU, but it counts on the host.
        let notes = M::notes(p);
        let mut seen = None;
        let graph = gpu.graph(|| {
            seen = Some(method.run(p, &inputs, sgd)?);
            Ok(())
        })?;
        M::set_notes(p, notes);
        let Some(seen) = seen else { unreachable!("the recording ran") };
        Ok((Recorded { method: method.clone(), graph, inputs, seen }, report))
    }

    /// As the method's step, by repeating the recording: on views of the same shapes, and the same networks.
    ///
    /// # Errors
    /// As the method's step; `Shape` when the views have other shapes.
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

    /// Bytes that the recording keeps for its launches.
    pub fn bytes(&self) -> usize {
        self.graph.bytes()
    }
}

/// New numbers in the places of the old ones.
pub(super) fn overwrite<const N: usize>(to: &[Tensor; N], from: &[Tensor; N]) -> Result<()> {
    to.iter().zip(from).try_for_each(|(to, from)| to.overwrite(from))
}
