//! The batch norm layer.

use super::build::Builder;
use super::params::{ParamId, Role};
use super::pass::{Mode, Pass};
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::batch_norm::{Moments, Running, Stats};
use crate::tape::Var;

/// Batch norm, fused with what follows it in a residual network: adding the shortcut, and ReLU.
#[derive(Clone, Debug)]
pub struct Norm {
    scale: ParamId,
    shift: ParamId,
    mean: ParamId,
    var: ParamId,
}

impl Norm {
    /// Added to variances (PyTorch's default, `docs/papers/maclr.md` section 2.1).
    pub const EPS: f32 = 1e-5;
    /// Weight of the newest batch in the running statistics (PyTorch's default, `docs/papers/maclr.md` section 2.1).
    pub const MOMENTUM: f32 = 0.1;

    /// Over `channels`, with the parameters `name.{weight,bias,running_mean,running_var}` and initial scales `scale`.
    pub fn new(b: &mut Builder, name: &str, channels: usize, scale: f32) -> Self {
        Norm {
            scale: b.constant(&format!("{name}.weight"), channels, scale, Role::NormScale),
            shift: b.constant(&format!("{name}.bias"), channels, 0.0, Role::NormShift),
            mean: b.constant(&format!("{name}.running_mean"), channels, 0.0, Role::RunningMean),
            var: b.constant(&format!("{name}.running_var"), channels, 1.0, Role::RunningVar),
        }
    }

    /// Its parameters and running statistics.
    pub(super) fn ids(&self) -> [ParamId; 4] {
        [self.scale, self.shift, self.mean, self.var]
    }

    /// The running mean.
    #[must_use]
    pub fn mean(&self) -> ParamId {
        self.mean
    }

    /// `norm(x) + residual`, then ReLU if `relu`, for `x[n .. c]` and a `residual` of its shape. In training mode the
    /// running statistics are updated with the batch's at a weight of 0.1 (the variance with the unbiased one).
    /// `moments` are those of `x`, if they were taken when `x` was computed.
    ///
    /// # Errors
    /// `Shape` when channels or `residual` do not fit; `Param` when the parts do not divide the batch.
    pub fn forward(
        &self,
        pass: &mut Pass,
        x: &Var,
        moments: Option<Moments>,
        residual: Option<&Var>,
        relu: bool,
    ) -> Result<Activation> {
        let (tape, gamma, beta) = (pass.tape(), pass.var(self.scale)?, pass.var(self.shift)?);
        let layer = |stats| Activation::batch_norm(tape, x, &gamma, &beta, stats, Self::EPS, residual, relu);
        let Mode::Train { parts } = pass.mode() else {
            let (mean, var) = (&pass.params()[self.mean].value, &pass.params()[self.var].value);
            return Ok(layer(Stats::Fixed { mean, var })?.0);
        };
        let moments = moments.map_or_else(|| Moments::of(x.value(), parts), Ok)?;
        let peers = pass.peers();
        let running = pass.running([self.mean, self.var]);
        let running = running.map(|[mean, var]| Running { mean, var, momentum: Self::MOMENTUM });
        let formed = moments.statistics_over(x.value(), Self::EPS, running, peers.as_ref())?;
        Ok(layer(Stats::Formed(&formed))?.0)
    }
}
