//! The motion alignment loss (`docs/papers/mcl.md` section 3.4): the gradient of a similarity with respect to a feature
//! map should be large where things move.
//!
//! With `F` the output of some module of the query network, `s = Σ_b q_b·k_b` and `G = ∂s/∂F`, the map is
//! `P = ReLU(Σ_c w_c X_c)`. The loss compares `P` with a map of the motion. The [`Form`] defines `w` and `X`. Unless
//! [`Alignment::detached`] is set, the loss is differentiated through the gradient `G`, hence twice through everything
//! after `F`.

use super::report::Part;
use crate::error::{Error, Result};
use crate::nn::{Params, Trunk};
use crate::ops::alignment::{Cosines, Loss};
use crate::ops::{self, cast, channel_map, map_alignment, relu};
use crate::shape::Shape;
use crate::tape::{Mode, Tape, Var};
use crate::tensor::{DType, Tensor};
use std::fmt;
use std::str::FromStr;

/// Definition of the map; `g` is the mean of `G` over the positions of a frame, one number per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Form {
    /// `w = g`, `X = G`: MCL's released code.
    WeightGradient,
    /// `w = g`, `X = F`: Grad-CAM (Selvaraju et al. 2017). The loss then trains where the features are large, and not
    /// only how they are weighted.
    GradCam,
    /// `w = |g|`, `X = F`: our variant, the importance of a channel regardless of sign. With signs, a channel that
    /// increases one clip's similarity and decreases another's is pulled towards motion and away from it at the same
    /// time.
    Magnitude,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::WeightGradient => "weight-gradient",
            Form::GradCam => "grad-cam",
            Form::Magnitude => "magnitude",
        })
    }
}

impl FromStr for Form {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let known = [Form::WeightGradient, Form::GradCam, Form::Magnitude].into_iter().find(|f| f.to_string() == s);
        known.ok_or_else(|| Error::param("alignment", "form", s, "it must be weight-gradient, grad-cam or magnitude"))
    }
}

/// Settings of the alignment loss.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Alignment {
    /// Weight λ after the warm-up; if this and the other two weights are 0, the loss is not computed.
    pub weight: f32,
    /// Weight during the warm-up epochs of the learning rate.
    pub warm_weight: f32,
    /// Weight in the last epoch; from the end of the warm-up on it changes linearly. `None`: [`Alignment::weight`] to the end.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub last_weight: Option<f32>,
    /// Definition of the map.
    pub form: Form,
    /// Whether the channel weights are constants. Then nothing is differentiated twice, and the loss trains only `X`.
    pub detached: bool,
    /// Comparison of map and target.
    pub cosines: Cosines,
    /// The module whose output is `F`, one of [`crate::nn::Trunk::modules`].
    pub module: String,
}

impl Alignment {
    /// The settings of MCL's release, on `module`: weight times gradient, λ = 2 during warm-up and 1 after, unscaled
    /// softmax.
    #[must_use]
    pub fn released(module: &str) -> Alignment {
        let cosines = Cosines { target_norm: ops::alignment::TargetNorm::Raw, ..Cosines::default() };
        Alignment {
            weight: 1.0,
            warm_weight: 2.0,
            last_weight: None,
            form: Form::WeightGradient,
            detached: false,
            cosines,
            module: module.to_owned(),
        }
    }

    /// The settings that work best for networks with random initial weights, on `module`: magnitudes of constant
    /// weights, λ = 10, correlations instead of cosines (`docs/experiments.md`).
    #[must_use]
    pub fn from_scratch(module: &str) -> Alignment {
        let cosines = Cosines { centred: true, ..Cosines::default() };
        let (form, module) = (Form::Magnitude, module.to_owned());
        Alignment { weight: 10.0, warm_weight: 10.0, last_weight: None, form, detached: true, cosines, module }
    }

    /// The weights during the warm-up, after it, and in the last epoch.
    pub(crate) fn weights(&self) -> [f32; 3] {
        [self.warm_weight, self.weight, self.last_weight.unwrap_or(self.weight)]
    }

    /// Whether the loss is computed.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.weights().iter().any(|weight| *weight != 0.0)
    }

    /// Whether the loss is differentiated through a gradient.
    fn goes_through_a_gradient(&self) -> bool {
        // The released form consists of the gradient alone, even with constant weights.
        !self.detached || self.form == Form::WeightGradient
    }

    /// Whether the loss is computed and differentiated through a gradient: what it is computed from is differentiated twice.
    #[must_use]
    pub fn differentiates_twice(&self) -> bool {
        self.is_on() && self.goes_through_a_gradient()
    }

    /// The module to tap, if the loss is on.
    #[must_use]
    pub fn tap(&self) -> Option<&str> {
        self.is_on().then_some(self.module.as_str())
    }

    /// The grid `t h w` of the module's output for clips of `t h w`; `None` if the loss is off.
    ///
    /// # Errors
    /// `Param` when `trunk` has no such module, or the clip is too small for it.
    pub fn grid(&self, trunk: &Trunk, params: &Params, clip: [usize; 3]) -> Result<Option<[usize; 3]>> {
        let Some(module) = self.tap() else { return Ok(None) };
        trunk.check_module(params, module)?;
        let grids = trunk.grids(params, clip)?;
        Ok(grids.into_iter().find(|grid| grid.module == module).map(|grid| grid.extents))
    }

    fn unreached(&self) -> Error {
        Error::param("alignment", "module", &self.module, "the network never reached it")
    }

    /// λ in `epoch` of a run of `epochs` with `warmup_epochs`.
    pub(crate) fn weight_at(&self, epoch: u64, epochs: u64, warmup_epochs: f64) -> f32 {
        let [warm, weight, last] = self.weights();
        if (epoch as f64) < warmup_epochs {
            return warm;
        }
        // The first epoch after the warm-up has `weight`, the last one of the run `last`.
        let first = warmup_epochs.ceil();
        let way = (epochs as f64 - 1.0 - first).max(1.0);
        let done = ((epoch as f64 - first) / way).min(1.0);
        (f64::from(weight) + (f64::from(last) - f64::from(weight)) * done) as f32
    }

    /// The map `P [n t h w]` of `f [n t h w c]` for the similarity of the unit codes `q [n d]` and `k`, recorded.
    ///
    /// # Errors
    /// `NoSecondOrder` when an operation after `f` is not twice differentiable; errors of the operations.
    pub fn map(&self, tape: &Tape, q: &Var, k: &Tensor, f: &Var) -> Result<Var> {
        let similarity = ops::mul(tape, q, &Var::constant(k.clone()))?;
        let s = ops::sum_to(tape, &similarity, Shape::new(&[1, 1]))?;
        let mode = if self.goes_through_a_gradient() { Mode::Keep } else { Mode::Peek };
        let Some(g) = tape.grad(&s, &[f], mode)?.pop().flatten() else {
            return Err(Error::param("alignment", "module", &self.module, "the codes do not depend on its output"));
        };
        let g = cast(tape, &g, DType::F32)?;
        let f = cast(tape, f, DType::F32)?;
        let weights = if self.detached { g.detach() } else { g.clone() };
        let map = match self.form {
            Form::WeightGradient => channel_map(tape, &weights, &g)?,
            Form::GradCam => channel_map(tape, &weights, &f)?,
            Form::Magnitude => channel_map(tape, &magnitude(tape, &weights)?, &f)?,
        };
        relu(tape, &map)
    }

    /// The loss of that map against the motion `target [n t h w]`.
    ///
    /// # Errors
    /// Those of [`Alignment::map`]; `Param` when there is no target, `Shape` when its extents differ from the module's
    /// output.
    pub fn loss(&self, tape: &Tape, q: &Var, k: &Tensor, f: Option<&Var>, target: Option<&Tensor>) -> Result<Loss> {
        let Some(f) = f else { return Err(self.unreached()) };
        let Some(target) = target else {
            return Err(Error::param(
                "alignment",
                "target",
                "absent",
                "a weight is above 0, so there must be motion to align with",
            ));
        };
        let [n, t, h, w, _] = f.shape().nthwc("alignment", "f")?;
        if target.dims() != [n, t, h, w] {
            let rule = format!("[{n} {t} {h} {w}], the grid of {}", self.module);
            return Err(Error::shape("alignment", "target", rule, target.shape()));
        }
        map_alignment(tape, &self.map(tape, q, k, f)?, target, &self.cosines)
    }

    /// Report entries of the loss's `stats`, preceded by the loss.
    pub(super) fn parts(part: f32) -> [Part; 5] {
        let names = ["loss_align", "align_space_time", "align_space", "align_time", "align_cosine"];
        names.map(|name| Part::Value(name, part))
    }
}

/// `|mean of g over h w|`, at every position of `g [n t h w c]`.
fn magnitude(tape: &Tape, g: &Var) -> Result<Var> {
    let [n, t, h, w, c] = g.shape().nthwc("alignment", "g")?;
    let mean = ops::scale(tape, &ops::sum_to(tape, g, Shape::from([n, t, 1, 1, c]))?, 1.0 / (h * w) as f32)?;
    let size = ops::add(tape, &relu(tape, &mean)?, &relu(tape, &ops::scale(tape, &mean, -1.0)?)?)?;
    ops::broadcast_to(tape, &size, g.shape())
}

/// Agreement of a map `p` and a motion map `y` with the same number of cells: their cosine, and their correlation (the
/// cosine after subtracting the means). A flat map has a large cosine with most others, and correlation 0.
#[must_use]
pub fn overlap(p: &[f32], y: &[f32]) -> [f64; 2] {
    let cosine = |shift: [f64; 2]| {
        let (mut py, mut pp, mut yy) = (0.0, 0.0, 0.0);
        for (&p, &y) in p.iter().zip(y) {
            let (p, y) = (f64::from(p) - shift[0], f64::from(y) - shift[1]);
            (py, pp, yy) = (py + p * y, pp + p * p, yy + y * y);
        }
        let length = (pp * yy).sqrt();
        if length > 0.0 { py / length } else { 0.0 }
    };
    let mean = |x: &[f32]| x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len().max(1) as f64;
    [cosine([0.0; 2]), cosine([mean(p), mean(y)])]
}
