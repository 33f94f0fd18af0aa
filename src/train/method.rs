//! What a method implements for the [loop](super::pretrain).

use super::checkpoint::State;
use super::share::Share;
use crate::dist::Spans;
use crate::error::Result;
use crate::nn::{Params, Trunk};
use crate::ops::sgd::Sgd;
use crate::ssl::Division;
use crate::ssl::report::{Report, Seen};
use std::sync::Arc;

/// A step's place in the run, which is the key of its random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Seed of the run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Optimiser step, from 0, counted over the whole run.
    pub step: u64,
    /// The number of epochs that the run was to have at this step: its schedules are of that length.
    pub epochs: u64,
}

/// What a method implements for the loop.
pub trait Method {
    /// A training sample of one video.
    type Sample: Send + 'static;

    /// The samples of a step, where the step reads them.
    type Batch;

    /// The method's name, as in `summary.json`.
    fn name(&self) -> &'static str;

    /// How the batch of a step is divided, and among which ranks.
    fn division(&self) -> Division {
        Division::default()
    }

    /// From now on, `spans` is told which parts of steps are computed.
    fn trace(&mut self, spans: Arc<dyn Spans>) {
        let _ = spans;
    }

    /// Which clips this rank loads for a step. Its samples reach [`Method::batch`] in the order of [`Share::split`].
    fn share(&self) -> Share {
        Share::default()
    }

    /// The samples of a step as a batch. Where [`Method::is_asynchronous`], they are on their way to the device when it returns.
    ///
    /// # Errors
    /// `Shape` when the samples differ; on a GPU `OutOfMemory` and `Driver`.
    fn batch(&mut self, samples: Vec<Self::Sample>) -> Result<Self::Batch>;

    /// Starts an optimiser step with learning rate `lr`. If the loss is not finite, the weights must be left unchanged. What it
    /// reports is to be read before the next step is started. The batch is to be kept until the next one is on its way: the
    /// stream that copies waits for the step before it writes the memory of a batch that was dropped.
    ///
    /// # Errors
    /// Errors of the method's operations.
    fn start(&mut self, batch: &mut Self::Batch, at: At, lr: f32, sgd: &Sgd) -> Result<Seen>;

    /// Whether a step goes on by itself when [`Method::start`] has returned, so that the next batch is prepared meanwhile.
    fn is_asynchronous(&self) -> bool {
        false
    }

    /// One optimiser step from samples to report.
    ///
    /// # Errors
    /// Those of [`Method::batch`] and [`Method::start`].
    fn step(&mut self, samples: Vec<Self::Sample>, at: At, lr: f32, sgd: &Sgd) -> Result<Report> {
        let mut batch = self.batch(samples)?;
        self.start(&mut batch, at, lr, sgd)?.read()
    }

    /// The trained networks with the prefixes of their names: the weights that other programs read.
    fn networks(&self) -> Vec<(&'static str, &Params)>;

    /// The same, for restoring.
    fn networks_mut(&mut self) -> Vec<(&'static str, &mut Params)>;

    /// Adds everything else that later steps depend on to `state`.
    fn save(&self, state: &mut State);

    /// Restores that from `state`.
    ///
    /// # Errors
    /// `Data` when something is missing or of another shape.
    fn restore(&mut self, state: &State) -> Result<()>;

    /// What is to be done once after the last step, before its checkpoint is saved. It must depend on nothing but the state
    /// and the step, so that a run has the same bits however often it was interrupted.
    ///
    /// # Errors
    /// Errors of loading and of the method's operations.
    fn finish(&mut self, at: At) -> Result<()> {
        let _ = at;
        Ok(())
    }

    /// The network that is kept after pre-training, and evaluated by the probe.
    fn kept(&self) -> (&Trunk, &Params);
}
