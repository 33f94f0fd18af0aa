//! The settings of training with labels, and those of the papers.

use super::PREFIX;
use crate::augment::{AugmentSpec, rand_augment::RandAugment};
use crate::dist::sum::Wire;
use crate::dist::{Alone, Collective};
use crate::error::{Error, Result};
use crate::nn::{Net, Precision};
use crate::ops::sgd::Sgd;
use crate::ssl::Division;
use crate::ssl::supervised::Supervised;
use crate::train::limits;
use crate::train::recipe::{check_views, fitting};
use crate::train::schedule::Schedule;
use crate::train::views::ViewSpec;
use crate::weights::{Config, Networks};
use serde::Serialize;
use std::sync::Arc;

/// Everything that defines a run except its network and its data.
#[derive(Clone, Debug, Serialize)]
pub struct Recipe {
    /// Clips and their augmentation.
    pub views: ViewSpec,
    /// Operations on the cropped clips, before flip and normalisation.
    pub rand_augment: Option<RandAugment>,
    /// Passes over the videos.
    pub epochs: u64,
    /// Videos per step.
    pub batch: usize,
    /// Videos that pass through the network at once: a step adds the gradients of `batch / micro_batch` of them, and
    /// each has batch statistics of its own.
    pub micro_batch: usize,
    /// Parts of a rank's share of a step, each of one or more micro-batches, whose gradients are added apart: one process with as
    /// many takes the place of as many ranks. Running statistics are those of the first part.
    pub accumulate: usize,
    /// How gradients travel between ranks.
    #[serde(skip_serializing_if = "Wire::is_f32")]
    pub wire: Wire,
    /// Learning rate after the warm-up.
    pub lr: f32,
    /// Learning rate of the first step, if there is a warm-up.
    pub warmup_from: f32,
    /// Epochs of linear warm-up.
    pub warmup_epochs: f64,
    /// Whether the cosine spans the warm-up too ([`Schedule::whole_cosine`]).
    pub whole_cosine: bool,
    /// Instead of a cosine: the epochs from which on the rate is a tenth, and a hundredth.
    pub drop_epochs: Option<[u64; 2]>,
    /// The optimiser.
    pub sgd: Sgd,
    /// Share of the features that are dropped before the classifier.
    pub dropout: f32,
    /// Largest norm of the gradient of all parameters together; a longer one is scaled to it.
    pub clip_norm: Option<f32>,
    /// Batches from which the running statistics are computed anew after the last step (precise batch norm, Wu and
    /// Johnson 2021); 0 for none.
    pub precise_bn: usize,
    /// Whether the trunk is frozen, with its running statistics: only the classifier is trained.
    pub frozen: bool,
    /// Precision of the network.
    pub precision: Precision,
}

impl Recipe {
    /// For a few hundred videos on two cores: takes minutes. Chosen on validation videos (`docs/experiments.md`).
    #[must_use]
    pub fn small() -> Recipe {
        let views = ViewSpec::small();
        let augment = AugmentSpec { blur: 0.0, ..views.augment.clone() };
        Recipe {
            views: ViewSpec { augment, ..views },
            rand_augment: None,
            epochs: 20,
            batch: 16,
            micro_batch: 16,
            accumulate: 1,
            wire: Wire::F32,
            lr: 0.06,
            warmup_from: 0.0002,
            warmup_epochs: 1.0,
            whole_cosine: false,
            drop_epochs: None,
            sgd: Sgd::default(),
            dropout: 0.5,
            clip_norm: None,
            precise_bn: 200,
            frozen: false,
            precision: Precision::F32,
        }
    }

    /// MaCLR's fine-tuning on UCF101: its release's batch of 64 on 8 GPUs has statistics of 8 videos each.
    #[must_use]
    pub fn maclr_ucf101() -> Recipe {
        let colours = AugmentSpec { jitter: 0.6, grey: 0.5, blur: 0.0, ..AugmentSpec::default() };
        Recipe {
            views: ViewSpec { frames: 32, stride: 8, augment: colours, ..ViewSpec::paper() },
            epochs: 200,
            batch: 64,
            micro_batch: 8,
            lr: 0.01,
            warmup_from: 0.001,
            warmup_epochs: 34.0,
            whole_cosine: true,
            ..Self::small()
        }
    }

    /// MaCLR's linear evaluation on UCF101 as its release trains it: a classifier on the frozen trunk, with a new crop,
    /// flip and clip in each pass.
    #[must_use]
    pub fn maclr_ucf101_linear() -> Recipe {
        let plain = AugmentSpec { jitter: 0.0, grey: 0.0, blur: 0.0, ..AugmentSpec::default() };
        let fine = Self::maclr_ucf101();
        Recipe {
            views: ViewSpec { augment: plain, ..fine.views },
            batch: 256,
            micro_batch: 32,
            lr: 32.0,
            warmup_epochs: 0.0,
            sgd: Sgd { weight_decay: 0.0, ..Sgd::default() },
            dropout: 0.0,
            precise_bn: 0,
            frozen: true,
            ..fine
        }
    }

    /// MCL's fine-tuning, with the release's RandAugment for UCF101 or HMDB51: 4 GPUs with 16 videos each, and 4 such
    /// passes a step.
    #[must_use]
    pub fn mcl(rand_augment: RandAugment) -> Recipe {
        let crop = AugmentSpec {
            area: [0.2, 1.0],
            aspect: [0.75, 4.0 / 3.0],
            jitter: 0.0,
            grey: 0.0,
            blur: 0.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            ..AugmentSpec::default()
        };
        Recipe {
            views: ViewSpec { frames: 32, stride: 2, fps: None, augment: crop, ..ViewSpec::paper() },
            rand_augment: Some(rand_augment),
            epochs: 150,
            batch: 256,
            micro_batch: 16,
            lr: 0.01,
            warmup_epochs: 0.0,
            dropout: 0.9,
            clip_norm: Some(40.0),
            precise_bn: 0,
            ..Self::small()
        }
    }

    /// Fine-tuning on Something-Something v2, where direction matters: no flip. The number of frames is ours.
    #[must_use]
    pub fn ssv2() -> Recipe {
        let crop = AugmentSpec { flip: 0.0, jitter: 0.0, grey: 0.0, blur: 0.0, ..AugmentSpec::default() };
        Recipe {
            views: ViewSpec { frames: 16, stride: 1, segments: true, augment: crop, ..ViewSpec::paper() },
            epochs: 22,
            batch: 64,
            micro_batch: 8,
            lr: 0.12,
            warmup_epochs: 0.0,
            drop_epochs: Some([14, 18]),
            sgd: Sgd { weight_decay: 1e-6, ..Sgd::default() },
            ..Self::small()
        }
    }

    /// Checks every number, the constraints between them, and that `net` accepts clips of this size.
    ///
    /// # Errors
    /// `Param` naming the option, or the field if no option sets it, with its value and its range.
    pub fn check(&self, net: &Net) -> Result<()> {
        limits::EPOCHS.check(self.epochs)?;
        limits::BATCH.check(self.batch)?;
        limits::MICRO_BATCH.check(self.micro_batch)?;
        limits::ACCUMULATE.check(self.accumulate)?;
        limits::LR.check(self.lr)?;
        limits::WARMUP_EPOCHS.check(self.warmup_epochs)?;
        limits::WEIGHT_DECAY.check(self.sgd.weight_decay)?;
        limits::DROPOUT.check(self.dropout)?;
        limits::CLIP_NORM.check(self.clip_norm.unwrap_or(1.0))?;
        limits::PRECISE_BN.check(self.precise_bn)?;
        self.rand_augment.map_or(Ok(()), |ops| ops.check())?;
        check_views(&self.views)?;
        self.views.check_no_pair_options("single clips")?;
        self.division(Arc::new(Alone))?;
        let [[t, h, w, _], _] = self.views.dims();
        let (trunk, params) = fitting(net, [t, h, w], "--frames and --side")?;
        // A frozen trunk has its running statistics.
        if self.micro_batch == 1 && !self.frozen {
            let maps = trunk.grids(&params, [t, h, w])?;
            if let Some(map) = maps.iter().find(|map| map.extents == [1; 3]) {
                let rule = format!(
                    "one video has one value per channel at {}, and batch statistics need two: raise it, or --frames or --side",
                    map.module
                );
                return Err(Error::param("settings", limits::MICRO_BATCH.option, self.micro_batch, rule));
            }
        }
        Ok(())
    }

    /// How the batch of a step is divided among `ranks`, and on each into parts.
    ///
    /// # Errors
    /// `Param` when it does not divide equally, or a part does not divide into micro-batches.
    pub fn division(&self, ranks: Arc<dyn Collective>) -> Result<Division> {
        let (batch, size, accumulate) = (self.batch, ranks.size(), self.accumulate);
        let division = Division::new(ranks, accumulate, self.wire)?;
        let parts = division.count();
        if !batch.is_multiple_of(parts) {
            let (option, value, rule) = match size {
                1 => (limits::ACCUMULATE.option, accumulate, format!("--batch {batch} must divide into that many")),
                _ => (limits::BATCH.option, batch, format!("with {size} ranks it must divide into {parts}")),
            };
            return Err(Error::param("settings", option, value, rule + " equal parts"));
        }
        if !(batch / parts).is_multiple_of(self.micro_batch) {
            let rule = match parts {
                1 => format!("--batch {batch} must be a multiple of it"),
                _ => format!("the {} videos of each of {parts} parts of a step must divide into such", batch / parts),
            };
            return Err(Error::param("settings", limits::MICRO_BATCH.option, self.micro_batch, rule));
        }
        Ok(division)
    }

    /// The settings of a step.
    #[must_use]
    pub fn supervised(&self) -> Supervised {
        let Recipe { dropout, clip_norm, frozen, precision, .. } = *self;
        Supervised { dropout, clip_norm, frozen, precision }
    }

    /// The learning rate over all epochs of `per_epoch` steps.
    #[must_use]
    pub fn schedule(&self, per_epoch: u64) -> Schedule {
        Schedule {
            base: self.lr,
            warmup_from: self.warmup_from.min(self.lr),
            warmup: (self.warmup_epochs * per_epoch as f64).round() as u64,
            steps: per_epoch.saturating_mul(self.epochs),
            floor: 0.0,
            whole_cosine: self.whole_cosine,
            drops: self.drop_epochs.map(|at| at.map(|epoch| epoch.saturating_mul(per_epoch))),
        }
    }

    /// What the network is, by the prefix of its names in the weights, with the names of its classes.
    #[must_use]
    pub fn networks(net: &Net, classes: &[String], views: &ViewSpec) -> Networks {
        let [rgb, _] = views.inputs();
        let config = Config::new(net, "Trained with labels").classes(classes).input(rgb);
        Networks::from([(PREFIX.to_owned(), config)])
    }
}
