//! What a method implements so that its step can be captured as a graph. The module is private: the methods of this crate
//! alone implement it.

use super::division::Division;
use super::report::Seen;
use crate::error::Result;
use crate::ops::sgd::Sgd;
use crate::tensor::{Device, Tensor};
use rand::Rng;

/// A method's step, separated into its inputs and its computation.
pub trait MethodStep: Clone {
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
        division: &Division,
    ) -> Result<Self::Inputs>;

    /// A step on inputs that are on the device. There are no uploads and no host synchronisation.
    ///
    /// # Errors
    /// Those of the method's `step`.
    fn run(&self, p: &mut Self::Networks, inputs: &Self::Inputs, sgd: &Sgd) -> Result<Seen>;

    /// The same inputs in memory that is not shared.
    fn apart(inputs: Self::Inputs) -> Result<Self::Inputs>;

    /// Writes new inputs over the old ones; draws from `rng` like [`MethodStep::inputs`].
    fn refill(
        &self,
        inputs: &mut Self::Inputs,
        views: &Self::Views,
        rng: &mut impl Rng,
        rates: Self::Rates,
    ) -> Result<()>;

    /// Device of the networks.
    fn device(p: &Self::Networks) -> Device;

    /// The host-side state after the steps so far.
    fn notes(p: &Self::Networks) -> Vec<Notes>;

    /// Restores that state.
    fn set_notes(p: &mut Self::Networks, notes: Vec<Notes>);

    /// Updates it for a replayed step.
    fn note_step(&self, p: &mut Self::Networks, views: &Self::Views);
}

/// Host-side state of a pathway: batch counts of the two networks, owners of the queue's keys, next row of the queue.
pub struct Notes {
    pub batches: [u64; 2],
    pub owners: Vec<u32>,
    pub at: usize,
}

/// Writes new values over the old ones.
pub(super) fn overwrite<const N: usize>(to: &[Tensor; N], from: &[Tensor; N]) -> Result<()> {
    to.iter().zip(from).try_for_each(|(to, from)| to.overwrite(from))
}
