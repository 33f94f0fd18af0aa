//! The settings of a run of any method: clips, queue, epochs, learning rate.

use super::limits;
use super::schedule::Schedule;
use super::views::ViewSpec;
use crate::dist::sum::Wire;
use crate::dist::{Alone, Collective};
use crate::error::{Error, Result};
use crate::nn::{Arch, Net, Params, Trunk};
use crate::ops::sgd::Sgd;
use crate::ssl::Division;
use crate::ssl::alignment::Alignment;
use serde::Serialize;
use std::sync::Arc;

/// The settings that all methods share.
#[derive(Clone, Debug, Serialize)]
pub struct Training {
    /// Clips and their augmentation.
    pub views: ViewSpec,
    /// Training videos with fewer frames are left out; 0 for none.
    pub min_frames: usize,
    /// Keys in a queue; `None` for all the keys of the complete steps of an epoch, at most [`Training::queue_cap`].
    pub queue: Option<usize>,
    /// The maximum length of an automatic queue.
    pub queue_cap: usize,
    /// Passes over the videos.
    pub epochs: u64,
    /// Videos per step.
    pub batch: usize,
    /// Micro-batches in which a step is computed, one after another: as many times less memory for activations. Each has
    /// statistics of batch norm of its own.
    pub accumulate: usize,
    /// Whether batch norm has the statistics of the whole batch, of all ranks, instead of those of each rank's part.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sync_bn: bool,
    /// How gradients travel between ranks.
    #[serde(skip_serializing_if = "Wire::is_f32")]
    pub wire: Wire,
    /// Learning rate where the cosine begins; the warm-up starts at a hundredth of it.
    pub lr: f32,
    /// Learning rate at the end.
    pub lr_floor: f32,
    /// Epochs of linear warm-up.
    pub warmup_epochs: f64,
    /// Whether the cosine spans the warm-up too ([`Schedule::whole_cosine`]).
    pub whole_cosine: bool,
    /// The optimiser.
    pub sgd: Sgd,
    /// Number of uniformly spaced clips per video whose features are averaged for the probe.
    pub probe_clips: usize,
}

impl Training {
    /// For a few hundred short videos on two cores: takes minutes.
    #[must_use]
    pub fn small() -> Training {
        Training {
            views: ViewSpec::small(),
            min_frames: 0,
            queue: None,
            queue_cap: 256,
            epochs: 60,
            batch: 32,
            accumulate: 1,
            sync_bn: false,
            wire: Wire::F32,
            lr: 0.03,
            lr_floor: 0.0,
            warmup_epochs: 1.0,
            whole_cosine: false,
            sgd: Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 },
            probe_clips: 4,
        }
    }

    /// Checks every number against its [limit](limits), and the constraints between them, before anything is read or
    /// decoded.
    ///
    /// # Errors
    /// `Param` naming the option, or the field if no option sets it, with its value and its range.
    pub fn check(&self) -> Result<()> {
        limits::EPOCHS.check(self.epochs)?;
        limits::MIN_FRAMES.check(self.min_frames)?;
        limits::BATCH.check(self.batch)?;
        limits::ACCUMULATE.check(self.accumulate)?;
        limits::LR.check(self.lr)?;
        limits::WARMUP_EPOCHS.check(self.warmup_epochs)?;
        limits::WEIGHT_DECAY.check(self.sgd.weight_decay)?;
        limits::PROBE_CLIPS.check(self.probe_clips)?;
        limits::QUEUE.check(self.queue.unwrap_or(self.queue_cap))?;
        let field = |name, value: f32, fine: bool, rule: &str| {
            if fine { Ok(()) } else { Err(Error::param("settings", name, value, rule)) }
        };
        let (floor, momentum) = (self.lr_floor, self.sgd.momentum);
        field("lr_floor", floor, (0.0..=self.lr).contains(&floor), "it must be from 0 to --lr")?;
        field("sgd.momentum", momentum, (0.0..1.0).contains(&momentum), "it must be from 0 on and below 1")?;
        check_views(&self.views)?;
        let [rgb, motion] = self.views.dims();
        self.check_size("--batch", self.batch, [rgb, motion])?;
        self.check_size("--probe-clips", self.probe_clips, [rgb, rgb])
    }

    /// Refuses settings with which `n` clips exceed [`MOST`] numbers; `option` sets `n`.
    fn check_size(&self, option: &'static str, n: usize, clips: [[usize; 4]; 2]) -> Result<()> {
        let names = ["--frames", "--motion-frames"];
        for (frames, dims) in names.into_iter().zip(clips) {
            let numbers = dims.iter().fold(n as u128, |all, &extent| all * extent as u128);
            if numbers > MOST {
                let [t, side, ..] = dims;
                let rule = format!(
                    "with {frames} {t} and --side {side} these clips are {:.1} GB at once, and at most {:.1} GB are \
                     allowed: make one of the three smaller",
                    numbers as f64 * 4e-9,
                    MOST as f64 * 4e-9
                );
                return Err(Error::param("settings", option, n, rule));
            }
        }
        Ok(())
    }

    /// How the batch of a step is divided among `ranks` and into micro-batches, with `groups` parts that have statistics of their
    /// own, and the `alignment` loss of the method.
    ///
    /// # Errors
    /// `Param` when it does not divide so, a part would have a single video, or statistics of the whole batch are asked for and
    /// parts of it as well, or of several ranks with a loss that differentiates a gradient.
    pub fn division(
        &self,
        ranks: Arc<dyn Collective>,
        groups: usize,
        alignment: Option<&Alignment>,
    ) -> Result<Division> {
        limits::BN_GROUPS.check(groups)?;
        let (batch, size, accumulate) = (self.batch, ranks.size(), self.accumulate);
        if let Some(alignment) = alignment.filter(|a| self.sync_bn && size > 1 && a.differentiates_twice()) {
            let rule = format!(
                "the loss of --align-form {} differentiates a gradient, and what ranks exchange of the statistics has no \
                 second one: leave --sync-bn out, choose --align-form magnitude with --align-detached on, or run as one \
                 process",
                alignment.form
            );
            return Err(Error::param("settings", "--sync-bn", true, rule));
        }
        let division = Division::new(ranks, accumulate, self.wire)?.with_whole_statistics(self.sync_bn)?;
        let micro_batches = division.count();
        if !batch.is_multiple_of(micro_batches) || batch / micro_batches < 2 {
            let (name, value, whose) = match size {
                1 => {
                    (limits::ACCUMULATE.option, accumulate, format!("--batch {batch} must divide into that many equal"))
                }
                _ => {
                    let of_each =
                        if accumulate == 1 { String::new() } else { format!(" of --accumulate {accumulate}") };
                    let whose = format!("with {size} ranks{of_each} it must divide into {micro_batches} equal");
                    (limits::BATCH.option, batch, whose)
                }
            };
            return Err(Error::param("settings", name, value, whose + " micro-batches of at least 2 videos"));
        }
        // Each micro-batch has its own parts.
        let groups = division.parts(groups)? * micro_batches;
        if !batch.is_multiple_of(groups) || batch / groups < 2 {
            let rule = format!("--batch {batch} must divide into that many equal parts of at least 2 videos");
            return Err(Error::param("settings", limits::BN_GROUPS.option, groups, rule));
        }
        Ok(division)
    }

    /// Settings that are allowed but probably not intended, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let (warm, epochs) = (self.warmup_epochs, self.epochs);
        let long = warm > epochs as f64;
        let text = || format!("the warm-up (--warmup-epochs {warm}) is longer than the run (--epochs {epochs})");
        long.then(text).into_iter().collect()
    }

    /// The length of a queue that receives `keys` keys per training video and epoch, for `videos` videos. `masked` says
    /// whether a clip's own earlier keys are masked among its negatives.
    ///
    /// # Errors
    /// `Param` when they are not and [`Training::queue`] exceeds the number of keys in an epoch: a longer queue would
    /// contain keys of a clip's own video.
    pub fn queue_length(&self, videos: usize, keys: usize, masked: bool) -> Result<usize> {
        let most = videos.saturating_mul(keys);
        match self.queue {
            Some(queue) if queue > most && !masked => {
                let each = if keys == 1 { String::new() } else { format!(" with {keys} keys each") };
                let rule = format!(
                    "there are {videos} training videos{each}: a longer queue still holds a clip's own earlier keys, which \
                     are its negatives with --keep-own; choose at most {most}"
                );
                Err(Error::param("settings", limits::QUEUE.option, queue, rule))
            }
            Some(queue) => Ok(queue),
            None => {
                let step = self.batch * keys;
                Ok((most.min(self.queue_cap) / step).max(1) * step)
            }
        }
    }

    /// The learning rate over all epochs of `per_epoch` steps.
    #[must_use]
    pub fn schedule(&self, per_epoch: u64) -> Schedule {
        Schedule {
            base: self.lr,
            warmup_from: self.lr / 100.0,
            warmup: (self.warmup_epochs * per_epoch as f64).round() as u64,
            steps: per_epoch.saturating_mul(self.epochs),
            floor: self.lr_floor,
            whole_cosine: self.whole_cosine,
            drops: None,
        }
    }
}

/// The maximum of numbers in clips that are computed at once: 8.6 GB of them.
const MOST: u128 = 1 << 31;

/// Checks the settings of clips.
pub(super) fn check_views(views: &ViewSpec) -> Result<()> {
    limits::FRAMES.check(views.frames)?;
    limits::STRIDE.check(views.stride)?;
    limits::SIDE.check(views.side)?;
    limits::BACKGROUND_SWAP.check(views.background_swap)?;
    limits::TUBELETS.check(views.tubelets)?;
    limits::DRIFT.check(views.drift)?;
    limits::MOTION_FRAMES.check(views.motion_frames)?;
    limits::MOTION_CLAMP.check(views.motion_clamp)?;
    let bad = |name, value: String, rule: &str| Err(Error::param("settings", name, value, rule));
    if !(8..=4096).contains(&views.cache_side) {
        return bad("cache_side", views.cache_side.to_string(), "it must be from 8 to 4096 pixels");
    }
    if !(1..=1000).contains(&views.flow_every) {
        return bad("flow_every", views.flow_every.to_string(), "it must be from 1 to 1000 frames");
    }
    if let Some(fps) = views.fps.filter(|fps| !(fps.is_finite() && *fps > 0.0)) {
        return bad("fps", fps.to_string(), "it must be a positive number of frames a second");
    }
    let [min, max] = [views.gap.min, views.gap.max];
    if !(0.0 <= min && min <= max && max.is_finite()) {
        return bad("gap", format!("{min} to {max}"), "it must be an ascending range of seconds from 0 on");
    }
    views.flow.check()?;
    views.augment.check()?;
    views.focus.check()
}

/// The numbers of a method that are not in [`Training`].
pub(super) struct MethodNumbers<'a> {
    /// Weights of the losses except the alignment.
    pub weights: &'a [(limits::Limit, f32)],
    /// Weights of the alignment loss during the warm-up, after it, and in the last epoch.
    pub alignment: [f32; 3],
    /// All temperatures.
    pub temperatures: &'a [f32],
    /// Momentum of the key networks.
    pub momentum: f32,
    /// Parts of the batch with statistics of their own.
    pub groups: usize,
}

impl MethodNumbers<'_> {
    /// Checks these numbers and `training` against their [limits], and the constraints between them.
    pub fn check(&self, training: &Training) -> Result<()> {
        let [warm, align, last] = self.alignment;
        check_weights(&[self.weights, &[(limits::W_ALIGN, align)]].concat())?;
        limits::W_ALIGN_WARMUP.check(warm)?;
        limits::W_ALIGN_END.check(last)?;
        let of = [(limits::W_ALIGN, align), (limits::W_ALIGN_WARMUP, warm), (limits::W_ALIGN_END, last)];
        let off = of.iter().find(|(_, weight)| *weight == 0.0);
        if let Some((limit, _)) = off.filter(|_| self.weights.iter().all(|(_, weight)| *weight == 0.0)) {
            let rule = "the alignment is the only loss, and a step without a loss learns nothing";
            return Err(Error::param("settings", limit.option, 0, rule));
        }
        let left = training.epochs as f64 - training.warmup_epochs.ceil();
        if last != align && left < 2.0 {
            let rule = "the weight changes from --w-align to it over the epochs after --warmup-epochs, and there are fewer than two";
            return Err(Error::param("settings", limits::W_ALIGN_END.option, last, rule));
        }
        self.temperatures.iter().try_for_each(|t| limits::TEMPERATURE.check(*t))?;
        limits::EMA.check(self.momentum)?;
        training.check()?;
        training.division(Arc::new(Alone), self.groups, None).map(drop)
    }
}

/// Checks the weights of losses: all within their limits and at least one above 0.
fn check_weights(weights: &[(limits::Limit, f32)]) -> Result<()> {
    weights.iter().try_for_each(|(limit, weight)| limit.check(*weight))?;
    if weights.iter().all(|(_, weight)| *weight == 0.0) {
        let names: Vec<&str> = weights.iter().map(|(limit, _)| limit.option).collect();
        let rule = format!("one of {} must be above 0: without a loss there is nothing to learn", names.join(", "));
        return Err(Error::param("settings", "the sum of all weights", 0, rule));
    }
    Ok(())
}

/// The trunk of `net` with its parameters, or an error if clips of `t h w` are too small for it; `options` set them.
pub(super) fn fitting(net: &Net, [t, h, w]: [usize; 3], options: &'static str) -> Result<(Trunk, Params)> {
    let (trunk, params) = Trunk::with_params(net, 0);
    trunk.grids(&params, [t, h, w]).map_err(|e| {
        let name = Arch::of(net).map(|arch| format!(" {}", arch.name)).unwrap_or_default();
        Error::param(
            "settings",
            options,
            format!("{t} and {h}"),
            format!("the network{name} takes no such clips ({e})"),
        )
    })?;
    Ok((trunk, params))
}
