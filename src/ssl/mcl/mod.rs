//! MCL: contrast clips that show motion, and align the network's gradients with it (Li, Zhang, Qiu, Yao, Liu, Mei, ICCV
//! 2021; `mcl.md` section 3).
//!
//! Of each video the step sees a query clip `q`, another view `k1` of the same clip, and two other clips `k2 k3`. The loss
//! has four parts:
//!
//! | part | what is told apart |
//! |---|---|
//! | inter | each of `k1 k2 k3` from earlier keys of other videos, for `q` |
//! | intra | `k1` from `k2`, and from `k3`, for `q` |
//! | order | whether `q` comes before `k2` and `k3` or after them |
//! | alignment | the map of the gradient of `q·k1` against a map of the motion ([`super::alignment`]) |
//!
//! The first three are SeCo's (Yao et al. 2020) on clips.

mod record;
mod step;

pub use step::{Gradients, Inputs};

use super::alignment::Alignment;
use super::pathway::Pathway;
use crate::error::Result;
use crate::nn::{MclEncoder, Precision};
use crate::tensor::{Device, Integers, Tensor};

/// The method's settings. Defaults are those of the released code for UCF101 (`mcl.md` sections 2.4, 3, 4) where it has
/// them.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Mcl {
    /// Weight of the inter loss.
    pub w_inter: f32,
    /// Weight of the intra loss.
    pub w_intra: f32,
    /// Weight of the order loss at the end of the run; it grows linearly from 0. The release has 1 for UCF101 and 0 for
    /// Kinetics.
    pub w_order: f32,
    /// The alignment loss.
    pub alignment: Alignment,
    /// Temperature of the inter loss.
    pub temperature: f32,
    /// Temperature of the intra loss.
    pub temperature_intra: f32,
    /// Momentum `m` of the key network.
    pub momentum: f32,
    /// Parts of the batch with batch statistics of their own.
    pub groups: usize,
    /// Whether each key batch is permuted before its forward pass.
    pub shuffle_keys: bool,
    /// Whether earlier keys of a query's own video are left out of its negatives. The release keeps them.
    pub mask_own: bool,
    /// Whether the keys of the batch's other videos are negatives too: they enter the queue before the losses, and each
    /// query's own are masked. Needs [`Mcl::mask_own`].
    pub in_batch: bool,
    /// Whether the query network normalises by its running statistics, which then never change. The alignment loss loses
    /// its spatial effect behind such a normalisation (`mcl.md` section 3): see [`Mcl::warnings`].
    pub frozen_norm: bool,
    /// In which numbers the networks compute.
    pub precision: Precision,
}

impl Mcl {
    /// The release's settings with the alignment on `module`.
    pub fn released(module: &str) -> Mcl {
        Mcl {
            w_inter: 1.0,
            w_intra: 1.0,
            w_order: 1.0,
            alignment: Alignment::released(module),
            temperature: 0.1,
            temperature_intra: 0.1,
            momentum: 0.999,
            groups: 1,
            shuffle_keys: true,
            mask_own: true,
            in_batch: false,
            frozen_norm: false,
            precision: Precision::F32,
        }
    }

    /// What is allowed and probably not meant, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.frozen_norm && self.alignment.is_on() {
            found.push(format!(
                "the normalisations behind {} are frozen: the alignment loss then has the same gradient at every active \
                 position of a channel, and cannot say where to look",
                self.alignment.module
            ));
        }
        found
    }
}

/// A batch: four clips of each video.
#[derive(Clone)]
pub struct Views {
    /// Query clips `n t h w c`.
    pub query: Tensor,
    /// `k1` (another view of the query's clip), `k2` and `k3` (other clips, the earlier first), `n t h w c` each.
    pub keys: [Tensor; 3],
    /// Motion of the query clips on the grid of the alignment's module, `n t h w`; not read when its weight is 0.
    pub target: Option<Tensor>,
    /// `[n 1]`: 1 where the query comes before `k2` and `k3`, -1 where it comes after them.
    pub order: Tensor,
    /// The videos' numbers, which own their keys in the queue.
    pub owners: Integers,
}

impl Views {
    /// The same clips on `device`.
    ///
    /// # Errors
    /// As [`Tensor::to`].
    pub fn to(&self, device: &Device) -> Result<Views> {
        let [a, b, c] = &self.keys;
        Ok(Views {
            query: self.query.to(device)?,
            keys: [a.to(device)?, b.to(device)?, c.to(device)?],
            target: self.target.as_ref().map(|t| t.to(device)).transpose()?,
            order: self.order.to(device)?,
            owners: self.owners.to(device)?,
        })
    }
}

/// What changes over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f32,
    /// Weight of the order loss.
    pub order: f32,
    /// Weight of the alignment loss.
    pub alignment: f32,
}

impl Rates {
    /// Whether the order loss and the alignment loss have a weight: what has none is not computed.
    pub(crate) fn wanted(&self) -> [bool; 2] {
        [self.order != 0.0, self.alignment != 0.0]
    }
}

impl Mcl {
    /// The rates of `epoch` of a run of `epochs`, `warmup_epochs` of them warming up, at learning rate `lr`.
    pub fn rates(&self, lr: f32, epoch: u64, epochs: u64, warmup_epochs: f64) -> Rates {
        let order = self.w_order * epoch as f32 / epochs.max(1) as f32;
        Rates { lr, order, alignment: self.alignment.weight_at(epoch, warmup_epochs) }
    }
}

/// The one pathway in training.
pub type Network = Pathway<MclEncoder>;
