//! Batch normalisation over the innermost axis, with the residual sum and the ReLU that follow it:
//! `y = relu((x - mean) / √(var + eps) · gamma + beta + residual)`.
//!
//! `x` is `[n .. c]` of rank 2 to 5. Statistics come from the batch, or from equal contiguous parts of it along `n`
//! (sub-batch normalisation, which replaces the per-device statistics of many devices), or are given. They are always
//! f32; `docs/math/batch_norm.md` explains how they are computed and with what error, and derives the gradients.
//!
//! Two types carry numbers between operations: [`Moments`], sums over `x` from which statistics are formed, and [`Norm`], a
//! normalisation whose statistics are known. A convolution can take the first in its epilogue and apply the second in its
//! prologue ([`crate::ops::conv3d::fusion`]).
//!
//! ```
//! use tubelet::{Tensor, ops::batch_norm::{self, Incoming, ReluMask, Stats}};
//! let x = Tensor::from_f32([4, 1], &[1.0, 2.0, 3.0, 4.0])?;
//! let (gamma, beta) = (Tensor::full([1], 1.0), Tensor::zeros([1]));
//! let (y, norm, batch) = batch_norm::forward(&x, &gamma, &beta, Stats::Batch { parts: 1 }, 1e-5, None, false)?;
//! assert!((y.load()?[3] - 1.5 / 1.25f32.sqrt()).abs() < 1e-4 && batch.is_some());
//! // A gradient that is the same everywhere moves the mean, which the batch norm removes.
//! let dy = Incoming::Result(Tensor::full([4, 1], 1.0));
//! let d = batch_norm::backward(&x, &norm, ReluMask::None, false, &dy)?;
//! assert!(d.dx.load()?.iter().all(|dx| dx.abs() < 1e-5));
//! # Ok::<(), tubelet::Error>(())
//! ```
//!
//! [`raw`] works on device memory that you allocate.

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
pub(in crate::ops) mod lines;
mod moments;
mod norm;
mod peers;
pub mod raw;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
mod rows;
mod signs;
mod unformed;

pub(in crate::ops) use cpu::Lines;
pub use grad::batch_norm;
pub(in crate::ops) use grad::{BatchNorm, deferred, normalised};
pub use moments::{BatchStatistics, Moments, Running, Statistics};
pub use norm::Norm;
pub use peers::Peers;
pub use signs::Signs;
pub(in crate::ops) use unformed::Unformed;

use rows::Rows;

use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::ops::lanes::Stored;
use crate::shape::Shape;
use crate::tensor::{DType, Place, Tensor};
use half::bf16;
use lines::Mask;

/// Which mean and variance are used.
#[derive(Clone, Copy, Debug)]
pub enum Stats<'a> {
    /// Those of the batch (biased variance), separately for each of `parts` equal contiguous parts of `n`.
    Batch {
        /// Number of parts; 1 is plain batch normalisation.
        parts: usize,
    },
    /// As [`Stats::Batch`], from moments that were taken while `x` was computed.
    Moments(&'a Moments),
    /// As [`Stats::Moments`], formed before.
    Formed(&'a Statistics),
    /// Given values per channel, as constants: evaluation, or frozen statistics.
    Fixed {
        /// Mean, `[c]`, f32.
        mean: &'a Tensor,
        /// Variance, `[c]`, f32.
        var: &'a Tensor,
    },
}

/// How the mask of the ReLU that follows a batch norm is obtained.
#[derive(Clone, Copy, Debug)]
pub enum ReluMask<'a> {
    /// There is no ReLU.
    None,
    /// Positive where the normalised value, recomputed from `x`, is positive; correct only without a residual.
    FromInput,
    /// Positive where this result, of the shape of `x`, is positive.
    FromResult(&'a Tensor),
}

/// The incoming gradient of a batch norm.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// That by its result, before ReLU's mask.
    Result(Tensor),
    /// That after ReLU's mask, with the two sums that the backward pass begins with, both computed by the convolution
    /// that follows ([`crate::ops::conv3d::fusion::dgrad`]).
    PastRelu {
        /// The masked gradient, in the shape of `x`.
        dz: Tensor,
        /// `Σ dz` and `Σ dz · (x - mean) · inv_std` per part and channel, `[parts 2 c]`, or of tiles of each part that are
        /// still to be added up, `[parts tiles 2 c]`; f32.
        sums: Tensor,
    },
}

/// The gradients of the inputs.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// By `x`, in its shape and data type.
    pub dx: Tensor,
    /// By `gamma`, `[c]` f32.
    pub dgamma: Tensor,
    /// By `beta`, `[c]` f32.
    pub dbeta: Tensor,
    /// By the residual, where there was one: `dy` after ReLU's mask.
    pub dresidual: Option<Tensor>,
}

/// The result, the normalisation that produced it, and the statistics of the batch (`None` when they were given).
///
/// # Errors
/// `Shape` when the rank of `x` is not 2 to 5 or there are no elements; `Param` when the number of parts is 0 or does not
/// divide `n`; `Shape` when `gamma`, `beta` or given statistics are not `[c]`, when `residual` does not have the
/// shape of `x`, or when statistics would come from a single value; `Param` when `eps` is below 1.2e-38 or not finite;
/// `DType` when given statistics are not f32; `Device` when the tensors are on different devices.
pub fn forward(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    stats: Stats,
    eps: f32,
    residual: Option<&Tensor>,
    relu: bool,
) -> Result<(Tensor, Norm, Option<BatchStatistics>)> {
    let (y, _, norm, batch) = forward_keeping(x, gamma, beta, stats, eps, residual, relu, false)?;
    Ok((y, norm, batch))
}

/// [`forward`], which also returns, if `keep`, the signs of the result: where a GPU's dgrad can read them.
#[allow(clippy::too_many_arguments, reason = "one fused layer; each argument is a part of its formula")]
fn forward_keeping(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    stats: Stats,
    eps: f32,
    residual: Option<&Tensor>,
    relu: bool,
    keep: bool,
) -> Result<(Tensor, Option<Signs>, Norm, Option<BatchStatistics>)> {
    if let Some(r) = residual.filter(|r| r.shape() != x.shape()) {
        return Err(Error::shape("batch_norm", "residual", x.shape(), r.shape()));
    }
    x.place("batch_norm", residual.map(|r| ("residual", r)).as_slice())?;
    let (norm, batch) = statistics(x, gamma, beta, stats, eps)?;
    let (y, signs) = norm.apply_keeping(x, residual, relu, keep)?;
    Ok((y, signs, norm, batch))
}

/// The statistics part of [`forward`], with its errors.
fn statistics(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    stats: Stats,
    eps: f32,
) -> Result<(Norm, Option<BatchStatistics>)> {
    let parts = match stats {
        Stats::Batch { parts } => parts,
        Stats::Moments(moments) => moments.parts(),
        Stats::Formed(formed) => formed.rows.parts,
        Stats::Fixed { .. } => 1,
    };
    let rows = Rows::new(x.shape(), parts)?;
    expect_channels("gamma", gamma.shape(), rows.c)?;
    expect_channels("beta", beta.shape(), rows.c)?;
    check_eps(eps)?;
    let mut others = vec![("gamma", gamma), ("beta", beta)];
    if let Stats::Fixed { mean, var } = stats {
        others.extend([("mean", mean), ("var", var)]);
    }
    let place = x.place("batch_norm", &others)?;
    if let Stats::Fixed { mean, var } = stats {
        for (arg, given) in [("mean", mean), ("var", var)] {
            expect_channels(arg, given.shape(), rows.c)?;
            given.expect("batch_norm", arg, DType::F32)?;
        }
        let inv_std = match place {
            Place::Cpu => {
                let _pass = traffic::pass("batch_norm statistics", || Work::wide(rows.c, rows.c));
                vector(var.host()?.iter().map(|v| 1.0 / (v + eps).sqrt()))?
            }
            Place::Gpu(gpu) => cuda::inv_std(gpu, var, eps)?,
        };
        return Ok((Norm::of(false, [mean.clone(), inv_std], [gamma, beta])?, None));
    }
    let formed = match stats {
        Stats::Formed(formed) if formed.rows == rows => formed.clone(),
        Stats::Formed(formed) => {
            let want = format!("those of {}", x.shape());
            return Err(Error::shape("batch_norm", "statistics", want, formed.mean.shape()));
        }
        Stats::Moments(moments) => moments.clone().statistics(x, eps, None)?,
        _ => Moments::of(x, parts)?.statistics(x, eps, None)?,
    };
    let Statistics { mean, inv_std, batch, peers, .. } = formed;
    x.place("batch_norm", &[("statistics", &mean)])?;
    Ok((Norm::of(true, [mean, inv_std], [gamma, beta])?.over(peers), Some(batch)))
}

/// A channel of one value has variance 0, and 0/√0 is NaN.
fn check_eps(eps: f32) -> Result<()> {
    if eps >= f32::MIN_POSITIVE && eps.is_finite() {
        return Ok(());
    }
    Err(Error::param("batch_norm", "eps", eps, "it must be finite and at least 1.2e-38"))
}

/// A tensor of rank 1.
fn vector(v: impl ExactSizeIterator<Item = f32>) -> Result<Tensor> {
    Tensor::build([v.len()], |out| out.iter_mut().zip(v).for_each(|(o, v)| *o = v))
}

/// The gradients of [`forward`]'s inputs for the gradient `dy` of its result; that of the residual if `residual`.
/// `relu` says how ReLU's mask is obtained; a gradient that is [already masked](Incoming::PastRelu) is not masked
/// again.
///
/// # Errors
/// `Shape` when `norm`, `dy` or the result in `relu` do not fit `x`; `Device` when the tensors are on different
/// devices; on a GPU also errors of its driver.
pub fn backward(x: &Tensor, norm: &Norm, relu: ReluMask, residual: bool, dy: &Incoming) -> Result<Gradients> {
    backward_handing(x, norm, relu, residual, dy, &|_| false)
}

/// [`backward`], where a GPU offers `hand` the gradient by `x` before it is formed. If that takes it, the masked gradient by the
/// result is in the place of `dx`.
fn backward_handing(
    x: &Tensor,
    norm: &Norm,
    relu: ReluMask,
    residual: bool,
    dy: &Incoming,
    hand: &dyn Fn(&Unformed) -> bool,
) -> Result<Gradients> {
    let rows = norm.rows(x.shape())?;
    let (dy, relu, sums) = match dy {
        Incoming::Result(dy) => (dy, relu, None),
        Incoming::PastRelu { dz, sums } => (dz, ReluMask::None, Some(sums)),
    };
    for (arg, t) in [("dy", Some(dy)), ("relu", relu.result())] {
        if let Some(t) = t.filter(|t| t.shape() != x.shape()) {
            return Err(Error::shape("batch_norm", arg, x.shape(), t.shape()));
        }
    }
    if let Some(sums) = sums
        && sums.dims() != [rows.parts, 2, rows.c]
        && sums.dims() != [rows.parts, rows::tiles(sums), 2, rows.c]
    {
        return Err(Error::shape("batch_norm", "sums", format!("[{} 2 {}]", rows.parts, rows.c), sums.shape()));
    }
    let dy = dy.cast(x.dtype())?;
    match x.place("batch_norm", &[&[("dy", &dy)], &norm.arrays()[..]].concat())? {
        Place::Gpu(gpu) => cuda::backward(gpu, &rows, x, norm, relu, residual, &dy, sums, hand),
        Place::Cpu => match x.dtype() {
            DType::F32 => backward_as::<f32>(&rows, x, norm, relu, residual, &dy, sums),
            DType::BF16 => backward_as::<bf16>(&rows, x, norm, relu, residual, &dy, sums),
        },
    }
}

fn backward_as<T: Stored>(
    rows: &Rows,
    x: &Tensor,
    norm: &Norm,
    relu: ReluMask,
    residual: bool,
    dy: &Tensor,
    sums: Option<&Tensor>,
) -> Result<Gradients> {
    // Gradients of gamma and beta.
    let _pass = traffic::pass("batch_norm backward", || Work::moves(0, 8 * rows.c, 0));
    let lines = Lines::new(rows, norm)?;
    let result = relu.result().map(|y| y.cast(x.dtype())).transpose()?;
    let mask = match (relu, &result) {
        (ReluMask::None, _) => Mask::None,
        (_, Some(y)) => Mask::Result(T::of(y)),
        (_, None) => Mask::Recomputed,
    };
    let taken = sums.map(|s| cpu::past_sums(norm, &rows::over_tiles(s)?)).transpose()?;
    let (xs, dys) = (T::of(x), T::of(dy));
    // The gradient of the residual is the masked gradient, so it is written while the sums are taken.
    let (mut sums, masked) = (Vec::new(), !matches!(mask, Mask::None));
    // A pass reads `x`, `dy` and, for the mask, the result.
    let arrays = |read, wrote| Work::moves(read * x.bytes(), wrote * x.bytes(), cpu::tasks(rows));
    let marks = usize::from(matches!(mask, Mask::Result(_)));
    let dresidual = match residual {
        false => None,
        true if masked => {
            traffic::more(|| arrays(2 + marks, 1));
            Some(T::build(dy.shape(), |dr| sums = cpu::grad_sums(&lines, xs, dys, mask, Some(dr)))?)
        }
        true => Some(dy.clone()),
    };
    let sums = match taken {
        Some(taken) => taken,
        None if sums.is_empty() => {
            traffic::more(|| arrays(2 + marks, 0));
            cpu::grad_sums(&lines, xs, dys, mask, None)
        }
        None => sums,
    };
    let (dz, mask) = match &dresidual {
        Some(dr) => (T::of(dr), Mask::None), // already masked
        None => (dys, mask),
    };
    // Of all peers for the gradient through the statistics; gradients of gamma and beta are of this one's rows.
    let of_all = norm.peers().map(|peers| cpu::sums_over(peers, &sums)).transpose()?;
    let slopes = cpu::Slopes::new(rows, norm, of_all.as_ref().unwrap_or(&sums))?;
    traffic::more(|| arrays(2 + if dresidual.is_some() { 0 } else { marks }, 1));
    let dx = T::build(x.shape(), |dx| cpu::grad_x(&lines, &slopes, xs, dz, mask, dx))?;
    let (dgamma, dbeta) = cpu::grad_affine(norm, &sums)?;
    Ok(Gradients { dx, dgamma: vector(dgamma.into_iter())?, dbeta: vector(dbeta.into_iter())?, dresidual })
}

impl<'a> ReluMask<'a> {
    /// The result, if it is needed for the mask.
    pub(in crate::ops) fn result(self) -> Option<&'a Tensor> {
        match self {
            ReluMask::FromResult(y) => Some(y),
            _ => None,
        }
    }
}

fn expect_channels(arg: &'static str, got: Shape, c: usize) -> Result<()> {
    if got.dims() == [c] {
        Ok(())
    } else {
        Err(Error::shape("batch_norm", arg, format!("[{c}], one per channel"), got))
    }
}
