//! Stochastic gradient descent with momentum, in place, as PyTorch's `torch.optim.SGD` with dampening 0:
//!
//! ```text
//! g ← grad + weight_decay·w          (only where `decay` is asked for)
//! v ← momentum·v + g
//! w ← w - lr·(g + momentum·v)        with Nesterov's momentum
//! w ← w - lr·v                       without
//! ```
//! Velocities start at zero, which makes the first step PyTorch's `v = g`. Weights, gradients and velocities are f32.

pub mod cases;
mod cpu;
pub mod reference;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The optimiser's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Share of the velocity kept at each step, in `[0, 1)`.
    pub momentum: f32,
    /// Whether the step looks ahead along the velocity.
    pub nesterov: bool,
    /// Pull towards zero, in units of the weight itself, at least 0. Batch-norm parameters and biases go without.
    pub weight_decay: f32,
}

impl Default for Sgd {
    /// MaCLR's: momentum 0.9 with Nesterov, weight decay 1e-4.
    fn default() -> Self {
        Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 }
    }
}

/// One step of learning rate `lr` on the weights `w` with gradient `grad` and velocity `velocity`, all of one shape.
/// `decay` says whether the weight decay applies to this tensor.
///
/// # Errors
/// `Shape` when the shapes differ; `DType` when one is not f32; `Param` when `lr`, the momentum or the weight decay is
/// outside of its range. The tensors are untouched then.
pub fn step(p: &Sgd, lr: f32, w: &mut Tensor, grad: &Tensor, velocity: &mut Tensor, decay: bool) -> Result<()> {
    check(p, lr)?;
    if grad.shape() != w.shape() {
        return Err(Error::shape("sgd", "grad", w.shape(), grad.shape()));
    }
    if velocity.shape() != w.shape() {
        return Err(Error::shape("sgd", "velocity", w.shape(), velocity.shape()));
    }
    let grad = grad.f32()?;
    w.f32()?;
    let velocity = velocity.f32_mut()?;
    let decay = if decay { p.weight_decay } else { 0.0 };
    cpu::step(p.momentum, p.nesterov, decay, lr, w.f32_mut()?, grad, velocity);
    Ok(())
}

fn check(p: &Sgd, lr: f32) -> Result<()> {
    if !(lr >= 0.0 && lr.is_finite()) {
        return Err(Error::param("sgd", "lr", lr, "a learning rate is finite and at least 0"));
    }
    if !(0.0..1.0).contains(&p.momentum) {
        return Err(Error::param("sgd", "momentum", p.momentum, "momentum lies in [0, 1)"));
    }
    if !(p.weight_decay >= 0.0 && p.weight_decay.is_finite()) {
        return Err(Error::param("sgd", "weight_decay", p.weight_decay, "weight decay is finite and at least 0"));
    }
    Ok(())
}
