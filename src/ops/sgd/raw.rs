//! Updates of weights on device addresses, for programs that manage memory and streams themselves: no tensors, no allocation
//! on the device, no working space.

use super::{Sgd, check, cuda};
use crate::driver::{Gpu, InOut};
use crate::error::{Error, Result};
use crate::ops::addresses::Addresses;
use crate::tensor::DType;

/// The gradient and the velocity of an [`Update`], f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gradient {
    /// The gradient.
    pub grad: u64,
    /// The velocity, updated.
    pub velocity: u64,
    /// Whether weight decay applies.
    pub decays: bool,
}

/// What [`update_all`] does to one tensor and to its copies: device addresses of arrays of `len` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// Number of elements.
    pub len: usize,
    /// The weights, f32: written if there is a gradient.
    pub w: u64,
    /// Their gradient and velocity; `None` for no update.
    pub gradient: Option<Gradient>,
    /// Weights of the key network, f32, updated as their moving average.
    pub key: Option<u64>,
    /// Receives the weights rounded to bf16.
    pub half: Option<u64>,
    /// Receives `key` rounded to bf16; only with `key`.
    pub key_half: Option<u64>,
}

/// The learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// This number.
    Value(f32),
    /// The f32 number at this device address, which a recorded graph reads again in each replay. It is not checked.
    At(u64),
}

const CHECK: Addresses = Addresses("sgd");

/// One step of learning rate `lr` on `len` weights, as [`super::update`].
///
/// # Safety
/// The addresses are those of arrays of `len` f32 numbers on `gpu`'s device that do not overlap, and stay valid until the work
/// given to the stream is done.
///
/// # Errors
/// `Param` when `lr`, the momentum or the weight decay is out of range, or an address is null or not a multiple of 16; `Shape`
/// when `len` is above 2³¹; `Driver`.
pub unsafe fn update(gpu: &Gpu, p: &Sgd, lr: f32, len: usize, w: u64, g: Gradient) -> Result<()> {
    check(p, lr)?;
    let w = CHECK.in_out("w", w, len, DType::F32)?;
    let grad = CHECK.input("grad", g.grad, len, DType::F32)?;
    let velocity = CHECK.in_out("velocity", g.velocity, len, DType::F32)?;
    if len == 0 {
        return Ok(());
    }
    let p = Sgd { weight_decay: if g.decays { p.weight_decay } else { 0.0 }, ..*p };
    cuda::launch_one(gpu, &p, lr, len, w, grad, velocity)
}

/// The steps of many tensors, 512 in a launch, as [`super::update_all`]: weights, then keys `m·key + (1 - m)·w`, then copies
/// in bf16. Weights and velocities are not updated if the f32 number at `guard`, a loss, is not finite.
///
/// # Safety
/// The addresses are those of arrays of the stated lengths and types on `gpu`'s device; what is written overlaps nothing else;
/// all stay valid until the work given to the stream is done.
///
/// # Errors
/// As [`update`], before anything is launched; `Param` when `m` is not from 0 to 1, or there is a `key_half` without `key`.
pub unsafe fn update_all(gpu: &Gpu, p: &Sgd, rate: Rate, m: f32, guard: Option<u64>, updates: &[Update]) -> Result<()> {
    let (lr, rate) = match rate {
        Rate::Value(lr) => (lr, None),
        Rate::At(at) => (0.0, Some(CHECK.input("rate", at, 1, DType::F32)?)),
    };
    check(p, lr)?;
    if !(0.0..=1.0).contains(&m) {
        return Err(Error::param("sgd", "m", m, "it must be from 0 to 1"));
    }
    let guard = guard.map(|at| CHECK.input("guard", at, 1, DType::F32)).transpose()?;
    let steps = updates.iter().filter(|u| u.len > 0).map(step).collect::<Result<Vec<_>>>()?;
    cuda::launch_all(gpu, p, lr, [rate, guard], m, &steps)
}

fn step(u: &Update) -> Result<cuda::Step> {
    if u.key_half.is_some() && u.key.is_none() {
        return Err(Error::param("sgd", "key_half", "given", "there is no key to round"));
    }
    let array = |arg, at: u64, dtype| CHECK.in_out(arg, at, u.len, dtype);
    let copy =
        |arg, at: Option<u64>, dtype| -> Result<Option<InOut>> { at.map(|at| array(arg, at, dtype)).transpose() };
    let update = u.gradient.map(|g| {
        let grad = CHECK.input("grad", g.grad, u.len, DType::F32)?;
        Ok::<_, Error>((grad, array("velocity", g.velocity, DType::F32)?, g.decays))
    });
    Ok(cuda::Step {
        len: u.len,
        w: array("w", u.w, DType::F32)?,
        update: update.transpose()?,
        key: copy("key", u.key, DType::F32)?,
        half: copy("half", u.half, DType::BF16)?,
        key_half: copy("key_half", u.key_half, DType::BF16)?,
    })
}
