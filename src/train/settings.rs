//! The settings of the loop, and the numbers of epochs that a run was to have before.

use super::schedule::Schedule;
use crate::files::fnv1a;
use crate::ops::sgd::Sgd;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Settings of the loop.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which run this is: a text that changes with everything its bits depend on except the number of epochs, such as all its
    /// settings and videos. A hash of it, and of the number of epochs at each step before, is saved with every checkpoint; a
    /// checkpoint with another hash is refused.
    pub run: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Passes over the videos.
    pub epochs: u64,
    /// Videos per step. Videos that do not fill a batch at the end of an epoch are not used in it.
    pub batch: usize,
    /// Learning rate.
    pub schedule: Schedule,
    /// Where the number of epochs was changed on the way: the numbers that it was before, in the order of the steps.
    pub earlier: Vec<Earlier>,
    /// The optimiser.
    pub sgd: Sgd,
    /// Threads that prepare samples.
    pub workers: usize,
    /// Epochs between probes during training; 0 for none before the end.
    pub probe_every: u64,
    /// Where a [timeline](super::trace) of a few steps is written, if at all.
    pub trace: Option<PathBuf>,
}

/// The first steps of a run whose number of epochs was changed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// The number of epochs that the run was to have.
    pub epochs: u64,
    /// The step, counted from 0, from which on it was another one.
    pub until: u64,
}

impl Settings {
    /// The number of epochs that the run is to have, as it was at `step`.
    #[must_use]
    pub fn epochs_at(&self, step: u64) -> u64 {
        self.earlier.iter().find(|earlier| step < earlier.until).map_or(self.epochs, |earlier| earlier.epochs)
    }

    /// The learning rate of `step`, in a run of `per_epoch` steps in an epoch.
    pub(super) fn rate(&self, step: u64, per_epoch: u64) -> f32 {
        Schedule { steps: per_epoch.saturating_mul(self.epochs_at(step)), ..self.schedule }.at(step)
    }

    /// A hash of all that the bits of the checkpoint after `step` steps depend on.
    pub(super) fn hash_at(&self, step: u64) -> String {
        let mut text = self.run.clone();
        let before = self.earlier.iter().copied().chain([Earlier { epochs: self.epochs, until: u64::MAX }]);
        let mut from = 0;
        for Earlier { epochs, until } in before.filter(|earlier| earlier.until > 0) {
            if from < step {
                text += &format!("\n{epochs} epochs until step {}", until.min(step));
            }
            from = until;
        }
        format!("{:016x}", fnv1a(text.as_bytes()))
    }
}
