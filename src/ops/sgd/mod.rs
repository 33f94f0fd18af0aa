//! Stochastic gradient descent with momentum, in place, as PyTorch's `torch.optim.SGD` with dampening 0:
//!
//! ```text
//! g ← grad + weight_decay·w          (only if `decay`)
//! v ← momentum·v + g
//! w ← w - lr·(g + momentum·v)        with Nesterov's momentum
//! w ← w - lr·v                       without
//! ```
//! Velocities start at zero, which makes the first step PyTorch's `v = g`. Weights, gradients and velocities are f32.
//!
//! [`raw`] works on device memory that you allocate.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
pub mod raw;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

use crate::driver::Gpu;
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Place, Tensor};

/// The optimiser's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Sgd {
    /// Momentum: the fraction of the velocity kept at each step, in `[0, 1)`.
    pub momentum: f32,
    /// Whether to use Nesterov's momentum.
    pub nesterov: bool,
    /// Weight decay, at least 0. Each update says whether it applies to its tensor; the methods exclude the parameters of
    /// normalisations ([`crate::nn::Role::decays`]).
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
/// out of range; `Device` when the tensors are on different devices. The tensors are unchanged then.
pub fn update(p: &Sgd, lr: f32, w: &mut Tensor, grad: &Tensor, velocity: &mut Tensor, decay: bool) -> Result<()> {
    check(p, lr)?;
    w.expect("sgd", "w", DType::F32)?;
    let on_gpu = alike(w, &[("grad", grad, DType::F32), ("velocity", velocity, DType::F32)])?;
    let p = Sgd { weight_decay: if decay { p.weight_decay } else { 0.0 }, ..*p };
    match on_gpu {
        Some(gpu) => cuda::update(&gpu, &p, lr, w, grad, velocity),
        None => {
            let w = cpu::Weights::Trained(w.f32_mut()?, grad.f32()?, velocity.f32_mut()?, p.weight_decay);
            let arrays = cpu::Arrays { w, key: None, half: None, key_half: None };
            cpu::all(cpu::Constants::new(&p, lr, 1.0), [arrays].into_iter());
            Ok(())
        }
    }
}

/// Checks that the tensors have the shape of `w` and the given data types. Returns the GPU of `w`, on which all of them
/// must be.
fn alike(w: &Tensor, others: &[(&'static str, &Tensor, DType)]) -> Result<Option<Gpu>> {
    for (arg, other, dtype) in others {
        if other.shape() != w.shape() {
            return Err(Error::shape("sgd", arg, w.shape(), other.shape()));
        }
        other.expect("sgd", arg, *dtype)?;
        w.place("sgd", &[(*arg, *other)])?;
    }
    Ok(match w.place("sgd", &[])? {
        Place::Cpu => None,
        Place::Gpu(gpu) => Some(gpu.clone()),
    })
}

/// What [`update_all`] does to one tensor and to its copies, all of the same shape.
pub struct Update<'a> {
    /// The weights, f32: written if there is an update.
    pub w: Weights<'a>,
    /// Their gradient, their velocity, and whether weight decay applies; `None` for no update.
    pub update: Option<(&'a Tensor, &'a mut Tensor, bool)>,
    /// Weights of the key network, updated by [`crate::ops::ema::update`], f32.
    pub key: Option<&'a mut Tensor>,
    /// Receives the weights rounded to bf16.
    pub half: Option<&'a mut Tensor>,
    /// Receives `key` rounded to bf16; only with `key`.
    pub key_half: Option<&'a mut Tensor>,
}

/// The weights of an [`Update`]: read only, or read and written.
pub enum Weights<'a> {
    /// Read only: for a step without an update.
    Fixed(&'a Tensor),
    /// Written by the update.
    Trained(&'a mut Tensor),
}

impl std::ops::Deref for Weights<'_> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        match self {
            Weights::Fixed(w) => w,
            Weights::Trained(w) => w,
        }
    }
}

/// The learning rate of [`update_all`].
#[derive(Clone, Copy, Debug)]
pub enum Rate<'a> {
    /// This number.
    Value(f32),
    /// The number in this f32 tensor, on the device of the weights: for a graph that is recorded once and replayed.
    In(&'a Tensor),
}

/// The steps of many tensors, where `m` is the factor of the keys' moving average. On a GPU this takes one launch per
/// 512 tensors, and each array is read and written once; on the CPU the elements of all tensors are divided among the
/// threads together, and each array is read and written once too. If `guard`, a loss on the device of the weights, is
/// not finite, weights and velocities are left unchanged; on a GPU this needs no host synchronisation.
///
/// # Errors
/// As [`update`] and [`crate::ops::ema::update`], before anything is written; `Param` when a step has an update but its
/// weights are [`Weights::Fixed`].
pub fn update_all(p: &Sgd, rate: Rate, m: f32, guard: Option<&Tensor>, steps: &mut [Update]) -> Result<()> {
    let (lr, rate) = match rate {
        Rate::Value(lr) => (lr, None),
        Rate::In(tensor) => (0.0, Some(tensor)),
    };
    check(p, lr)?;
    if !(0.0..=1.0).contains(&m) {
        return Err(Error::param("sgd", "m", m, "it must be from 0 to 1"));
    }
    let Some(first) = steps.first() else { return Ok(()) };
    let device = first.w.device();
    for (arg, one) in [("rate", rate), ("guard", guard)].into_iter().filter_map(|(arg, t)| Some((arg, t?))) {
        if one.shape().len() != 1 {
            return Err(Error::shape("sgd", arg, "one number", one.shape()));
        }
        one.expect("sgd", arg, DType::F32)?;
        first.w.place("sgd", &[(arg, one)])?;
    }
    for step in steps.iter() {
        first.w.place("sgd", &[("w", &step.w)])?;
        check_step(step)?;
    }
    if let Device::Cuda(gpu) = device {
        return cuda::all(&gpu, p, lr, [rate, guard], m, steps);
    }
    let lr = rate.map_or(Ok(lr), Tensor::item)?;
    check(p, lr)?;
    let moves = guard.map_or(Ok(0.0), Tensor::item)?.is_finite();
    let arrays = steps.iter_mut().map(|step| step.arrays(p.weight_decay, moves)).collect::<Result<Vec<_>>>()?;
    cpu::all(cpu::Constants::new(p, lr, m), arrays.into_iter());
    Ok(())
}

fn check_step(s: &Update) -> Result<()> {
    s.w.expect("sgd", "w", DType::F32)?;
    let mut others = Vec::new();
    if let Some((grad, velocity, _)) = &s.update {
        others.extend([("grad", *grad, DType::F32), ("velocity", &**velocity, DType::F32)]);
        if let Weights::Fixed(_) = s.w {
            return Err(Error::param("sgd", "w", "fixed", "an update needs weights that may be written"));
        }
    }
    others.extend(s.key.as_deref().map(|t| ("key", t, DType::F32)));
    others.extend(s.half.as_deref().map(|t| ("half", t, DType::BF16)));
    others.extend(s.key_half.as_deref().map(|t| ("key_half", t, DType::BF16)));
    if s.key_half.is_some() && s.key.is_none() {
        return Err(Error::param("sgd", "key_half", "given", "there is no key to round"));
    }
    alike(&s.w, &others).map(drop)
}

impl Update<'_> {
    /// The arrays for the CPU; without the update unless `moves`.
    fn arrays(&mut self, decay: f32, moves: bool) -> Result<cpu::Arrays<'_>> {
        let w = match &mut self.w {
            Weights::Trained(w) => match &mut self.update {
                Some((grad, velocity, decays)) if moves => {
                    let decay = if *decays { decay } else { 0.0 };
                    cpu::Weights::Trained(w.f32_mut()?, grad.f32()?, velocity.f32_mut()?, decay)
                }
                _ => cpu::Weights::Fixed(w.f32()?),
            },
            Weights::Fixed(w) => cpu::Weights::Fixed(w.f32()?),
        };
        let key = self.key.as_deref_mut().map(Tensor::f32_mut).transpose()?;
        let half = self.half.as_deref_mut().map(Tensor::bf16_mut).transpose()?;
        let key_half = self.key_half.as_deref_mut().map(Tensor::bf16_mut).transpose()?;
        Ok(cpu::Arrays { w, key, half, key_half })
    }
}

fn check(p: &Sgd, lr: f32) -> Result<()> {
    if !(lr >= 0.0 && lr.is_finite()) {
        return Err(Error::param("sgd", "lr", lr, "a learning rate is finite and at least 0"));
    }
    if !(0.0..1.0).contains(&p.momentum) {
        return Err(Error::param("sgd", "momentum", p.momentum, "it must be at least 0 and below 1"));
    }
    if !(p.weight_decay >= 0.0 && p.weight_decay.is_finite()) {
        return Err(Error::param("sgd", "weight_decay", p.weight_decay, "weight decay is finite and at least 0"));
    }
    Ok(())
}
