//! What defines a run of any method: clips, queue, epochs, learning rate.

use super::schedule::Schedule;
use super::views::ViewSpec;
use crate::error::{Error, Result};
use crate::ops::sgd::Sgd;

/// The part of a recipe that methods share.
#[derive(Clone, Debug)]
pub struct Training {
    /// Clips and their augmentation.
    pub views: ViewSpec,
    /// Keys a queue holds; `None` for as many whole steps as there are keys in an epoch, at most [`Training::queue_cap`].
    pub queue: Option<usize>,
    /// The longest automatic queue.
    pub queue_cap: usize,
    /// Passes over the videos.
    pub epochs: u64,
    /// Videos a step.
    pub batch: usize,
    /// Learning rate after the warm-up, which begins at a hundredth of it.
    pub lr: f32,
    /// Learning rate at the end.
    pub lr_floor: f32,
    /// Epochs of linear warm-up.
    pub warmup_epochs: f64,
    /// The optimiser.
    pub sgd: Sgd,
    /// Uniform clips a video whose features are averaged for the probe.
    pub probe_clips: usize,
}

impl Training {
    /// For a few hundred short videos on two cores: minutes.
    pub fn small() -> Training {
        Training {
            views: ViewSpec::small(),
            queue: None,
            queue_cap: 256,
            epochs: 60,
            batch: 32,
            lr: 0.03,
            lr_floor: 0.0,
            warmup_epochs: 1.0,
            sgd: Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 },
            probe_clips: 4,
        }
    }

    /// The length of a queue that gets `keys` keys of each of `videos` training videos an epoch.
    ///
    /// # Errors
    /// `Param` when [`Training::queue`] asks for more than an epoch has: a longer queue holds keys of a clip's own video
    /// that are more than an epoch old.
    pub fn queue_length(&self, videos: usize, keys: usize) -> Result<usize> {
        let most = videos * keys;
        match self.queue {
            Some(queue) if queue > most => {
                let each = if keys == 1 { String::new() } else { format!(" with {keys} keys each") };
                let rule = format!(
                    "there are {videos} training videos{each}: a longer queue still holds a clip's own earlier keys, which \
                     would be its negatives; choose at most {most}"
                );
                Err(Error::param("queue", "length", queue, rule))
            }
            Some(queue) => Ok(queue),
            None => {
                let step = self.batch * keys;
                Ok((most.min(self.queue_cap) / step).max(1) * step)
            }
        }
    }

    /// The learning rate over all epochs of `per_epoch` steps.
    pub fn schedule(&self, per_epoch: u64) -> Schedule {
        Schedule {
            base: self.lr,
            warmup_from: self.lr / 100.0,
            warmup: (self.warmup_epochs * per_epoch as f64).round() as u64,
            steps: per_epoch * self.epochs,
            floor: self.lr_floor,
        }
    }
}
