//! MCL: contrasts clips chosen by motion, and aligns the network's gradients with motion (Li, Zhang, Qiu, Yao, Liu,
//! Mei, ICCV 2021; `docs/papers/mcl.md` section 3).
//!
//! The step uses four clips of each video: a query clip `q`, another view `k1` of the same clip, and two other clips
//! `k2 k3`. The loss has four parts:
//!
//! | part | objective |
//! |---|---|
//! | inter | `q` near each of `k1 k2 k3`, far from earlier keys of other videos |
//! | intra | `q` nearer to `k1` than to `k2`, and to `k3` |
//! | order | classify whether `q` comes before `k2` and `k3` or after them |
//! | alignment | the map of the gradient of `q·k1` matches a map of the motion ([`super::alignment`]) |
//!
//! The first three are those of SeCo (Yao et al. 2020), applied to clips.

mod capture;
mod step;

pub use step::{Gradients, Inputs};

use super::alignment::Alignment;
use super::pathway::Pathway;
use crate::error::Result;
use crate::nn::{MclEncoder, Precision};
use crate::tensor::{Device, Integers, Tensor};

/// Settings of the method. The defaults are those of the released code for UCF101 (`docs/papers/mcl.md` sections 2.4,
/// 3, 4) where it has them.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Mcl {
    /// Weight of the inter loss.
    pub w_inter: f32,
    /// Weight of the intra loss.
    pub w_intra: f32,
    /// Weight of the order loss at the end of the run; it grows linearly ([`Mcl::order_from`]). The release has 1 for UCF101 and 0 for
    /// Kinetics.
    pub w_order: f32,
    /// The number of the first epoch in the weight of the order loss, which is `w_order · epoch / epochs`: 1 in the
    /// release, where it is 1 in the last epoch; with 0 the first epoch is without the loss.
    pub order_from: u64,
    /// The alignment loss.
    pub alignment: Alignment,
    /// Temperature of the inter loss.
    pub temperature: f32,
    /// Temperature of the intra loss.
    pub temperature_intra: f32,
    /// Momentum `m` of the key network.
    pub momentum: f32,
    /// Number of groups of the batch with separate batch statistics.
    pub groups: usize,
    /// Whether each key batch is permuted before its forward pass.
    pub shuffle_keys: bool,
    /// Whether earlier keys of a query's own video are masked. The release does not mask them.
    pub mask_own: bool,
    /// Whether the keys of the batch's other videos are negatives too: they are enqueued before the losses, and each
    /// query's own keys are masked. Requires [`Mcl::mask_own`].
    pub in_batch: bool,
    /// Whether the query network normalises by its running statistics, which then never change. The alignment loss
    /// loses its spatial effect behind such a normalisation (`docs/papers/mcl.md` section 3.4): see [`Mcl::warnings`].
    pub frozen_norm: bool,
    /// Precision of the networks.
    pub precision: Precision,
}

impl Mcl {
    /// The settings of the release, with the alignment on `module`.
    #[must_use]
    pub fn released(module: &str) -> Mcl {
        Mcl {
            w_inter: 1.0,
            w_intra: 1.0,
            w_order: 1.0,
            order_from: 1,
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

    /// Warnings about permitted but probably unintended settings, one sentence each.
    #[must_use]
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
    /// Motion of the query clips on the grid of the aligned module, `n t h w`; not read if its weight is 0.
    pub target: Option<Tensor>,
    /// `[n 1]`: 1 where the query comes before `k2` and `k3`, -1 where it comes after them.
    pub order: Tensor,
    /// Numbers of the videos of all ranks, the owners of their keys in the queue.
    pub owners: Integers,
    /// Whether each of `keys` has the clips of this rank's part of a permutation of all ranks' clips, one permutation for each
    /// ([`crate::ssl::pathway::permutation`]), as a step of several ranks with shuffled keys needs it; otherwise they are those of
    /// the queries' videos.
    pub permuted: bool,
}

impl Views {
    /// The same clips on `device`.
    ///
    /// # Errors
    /// Those of [`Tensor::to`].
    pub fn to(&self, device: &Device) -> Result<Views> {
        let [a, b, c] = &self.keys;
        Ok(Views {
            query: self.query.to(device)?,
            keys: [a.to(device)?, b.to(device)?, c.to(device)?],
            target: self.target.as_ref().map(|t| t.to(device)).transpose()?,
            order: self.order.to(device)?,
            owners: self.owners.to(device)?,
            permuted: self.permuted,
        })
    }
}

/// Values that change during a run.
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
    /// Whether the order loss and the alignment loss have non-zero weights; otherwise they are not computed.
    pub(crate) fn wanted(&self) -> [bool; 2] {
        [self.order != 0.0, self.alignment != 0.0]
    }
}

impl Mcl {
    /// The rates in `epoch` of a run of `epochs` with `warmup_epochs` of warm-up, at learning rate `lr`.
    #[must_use]
    pub fn rates(&self, lr: f32, epoch: u64, epochs: u64, warmup_epochs: f64) -> Rates {
        let order = self.w_order * epoch.saturating_add(self.order_from) as f32 / epochs.max(1) as f32;
        Rates { lr, order, alignment: self.alignment.weight_at(epoch, epochs, warmup_epochs) }
    }
}

/// The pathway during training.
pub type Network = Pathway<MclEncoder>;
