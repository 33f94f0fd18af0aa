//! MaCLR: contrasts RGB clips with motion clips of the same video (Xiao, Tighe, Modolo, ECCV 2022;
//! `docs/papers/maclr.md` section 4).
//!
//! With `q_v, q_m` the queries of the visual and the motion network for one clip of a video, `k_v, k_m` the keys for
//! another, and a queue of past keys per modality, the loss has four InfoNCE terms:
//!
//! | term | query | positive | negatives |
//! |---|---|---|---|
//! | `vv` | `q_v` | `k_v` | visual queue |
//! | `mm` | `q_m` | `k_m` | motion queue |
//! | `vm` | `q_v` | `k_m` | motion queue |
//! | `mv` | `q_m` | `k_v` | visual queue |
//!
//! An addition of ours, after MSCL (Ni et al., ECCV 2022), contrasts codes of single time steps ([`Maclr::w_steps`]).

mod capture;
mod keys;
mod step;
mod steps;

pub use step::Inputs;

use super::alignment::Alignment;
use super::pathway::Pathway;
use crate::error::{Error, Result};
use crate::nn::Precision;
use crate::tensor::{Device, Integers, Tensor};

/// Which motion clip is the positive of an RGB query, and vice versa. In both cases there are four forward passes: one
/// key per modality is used by the term within the modality and by the cross-modal term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum CrossPositive {
    /// The other clip of the pair: both queries come from the first clip, both keys from the second.
    OtherClip,
    /// The clip of the same moment: the visual query and the motion key come from the first clip, the motion query and
    /// the visual key from the second. The terms within a modality still contrast two different clips.
    SameClip,
}

/// Settings of the method. The defaults are those of the released code (`docs/papers/maclr.md` sections 2.3 and 4).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Maclr {
    /// Weight of visual-visual.
    pub w_vv: f32,
    /// Weight of motion-motion.
    pub w_mm: f32,
    /// Weight of visual query against motion keys.
    pub w_vm: f32,
    /// Weight of motion query against visual keys.
    pub w_mv: f32,
    /// Weight of the two terms between time steps, off by default: each step of a visual query against the motion keys of all
    /// steps of the batch, where that of its own moment is the positive, and each step of a motion query against the visual
    /// ones. It requires [`CrossPositive::SameClip`], and encoders with a head for time steps
    /// ([`crate::nn::Encoder::with_heads`]).
    pub w_steps: f32,
    /// Their temperature.
    pub steps_temperature: f32,
    /// Temperature τ.
    pub temperature: f32,
    /// Momentum `m` of the key networks.
    pub momentum: f32,
    /// Number of groups of the batch with separate batch statistics.
    pub groups: usize,
    /// Whether the key batch is permuted before its forward pass.
    pub shuffle_keys: bool,
    /// The positive of the cross-modal terms.
    pub cross_positive: CrossPositive,
    /// Whether both clips are used as query, each against the key of the other: twice the work and twice the terms.
    pub symmetric: bool,
    /// Whether earlier keys of a query's own video are masked.
    pub mask_own: bool,
    /// Whether the keys of the batch's other videos are negatives too: they are enqueued before the losses, and each
    /// query's own key is masked. Requires [`Maclr::mask_own`].
    pub in_batch: bool,
    /// MCL's alignment loss on the visual queries; off by default. The aligned similarity is that with the motion key if it
    /// is of the same clip, otherwise with the visual key.
    pub alignment: Option<Alignment>,
    /// Precision of the networks.
    pub precision: Precision,
}

impl Default for Maclr {
    fn default() -> Self {
        Maclr {
            w_vv: 1.0,
            w_mm: 1.0,
            w_vm: 1.0,
            w_mv: 1.0,
            w_steps: 0.0,
            steps_temperature: 0.07,
            temperature: 0.1,
            momentum: 0.999,
            groups: 1,
            shuffle_keys: true,
            cross_positive: CrossPositive::OtherClip,
            symmetric: false,
            mask_own: true,
            in_batch: false,
            alignment: None,
            precision: Precision::F32,
        }
    }
}

/// Values that change during a run. A learning rate alone stands for itself with the alignment's [weight](Alignment::weight).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f32,
    /// Weight of the alignment loss; `None` for that of [`Maclr::alignment`].
    pub alignment: Option<f32>,
}

impl From<f32> for Rates {
    fn from(lr: f32) -> Rates {
        Rates { lr, alignment: None }
    }
}

/// A batch: two clips of each video.
#[derive(Clone)]
pub struct Views {
    /// RGB clips `n t h w c`, the first and the second of each video.
    pub rgb: [Tensor; 2],
    /// Motion clips `n t h w c` of the same two spans; not read when no term uses motion.
    pub motion: Option<[Tensor; 2]>,
    /// Motion of both RGB clips on the grid of the aligned module, `n t h w`; not read without alignment.
    pub targets: Option<[Tensor; 2]>,
    /// Numbers of the videos of all ranks, the owners of their keys in the queue.
    pub owners: Integers,
    /// With several ranks and shuffled keys: the clips that this rank's key networks see, in their order, of the visual and then
    /// the motion network in each direction ([`crate::ssl::pathway::permutation`]). Otherwise empty: the clips above, permuted.
    pub key_clips: Vec<Tensor>,
}

impl Views {
    /// The same clips on `device`.
    ///
    /// # Errors
    /// Those of [`Tensor::to`].
    pub fn to(&self, device: &Device) -> Result<Views> {
        let pair = |[a, b]: &[Tensor; 2]| Ok::<_, Error>([a.to(device)?, b.to(device)?]);
        Ok(Views {
            rgb: pair(&self.rgb)?,
            motion: self.motion.as_ref().map(pair).transpose()?,
            targets: self.targets.as_ref().map(pair).transpose()?,
            owners: self.owners.to(device)?,
            key_clips: self.key_clips.iter().map(|x| x.to(device)).collect::<Result<_>>()?,
        })
    }
}

/// The two pathways during training. `motion` is `None` if no term uses it.
pub struct Pathways {
    /// RGB.
    pub visual: Pathway,
    /// Motion.
    pub motion: Option<Pathway>,
}

impl Maclr {
    /// Whether any term uses the motion pathway.
    #[must_use]
    pub fn uses_motion(&self) -> bool {
        self.w_mm != 0.0 || self.w_vm != 0.0 || self.w_mv != 0.0
    }

    /// The rates in `epoch` of a run of `epochs` with `warmup_epochs` of warm-up, at learning rate `lr`.
    #[must_use]
    pub fn rates(&self, lr: f32, epoch: u64, epochs: u64, warmup_epochs: f64) -> Rates {
        Rates { lr, alignment: self.alignment.as_ref().map(|of| of.weight_at(epoch, epochs, warmup_epochs)) }
    }

    /// The weight of the alignment loss in a step at `rates`: 0 if it is not computed.
    pub(crate) fn alignment_at(&self, rates: Rates) -> f32 {
        self.alignment.as_ref().map_or(0.0, |of| rates.alignment.unwrap_or(of.weight))
    }

    /// Checks what the terms between time steps require.
    pub(crate) fn check_steps(&self) -> Result<()> {
        if self.w_steps == 0.0 {
            return Ok(());
        }
        if !self.uses_motion() {
            return Err(Error::param("settings", "--w-steps", self.w_steps, "no other term uses motion"));
        }
        if self.cross_positive != CrossPositive::SameClip {
            let rule = "the steps of two clips are not of the same moments: --cross-positive same-clip is required";
            return Err(Error::param("settings", "--w-steps", self.w_steps, rule));
        }
        Ok(())
    }

    fn motion<'a>(&self, views: &'a Views) -> Result<Option<&'a [Tensor; 2]>> {
        if !self.uses_motion() {
            return Ok(None);
        }
        match &views.motion {
            Some(m) => Ok(Some(m)),
            None => Err(Error::param("maclr", "motion", "absent", "a motion term has a weight above 0")),
        }
    }

    /// The clip of the motion query when the visual query comes from clip `a`; the motion key comes from the other
    /// clip.
    fn motion_query(&self, a: usize) -> usize {
        match self.cross_positive {
            CrossPositive::OtherClip => a,
            CrossPositive::SameClip => 1 - a,
        }
    }
}
