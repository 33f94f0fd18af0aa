//! Batch normalisation over the innermost axis, with the residual sum and the rectifier that follow it:
//! `y = relu((x - mean) / √(var + eps) · gamma + beta + residual)`.
//!
//! `x` is `[n .. c]` of rank 2 to 5. Statistics come from the batch, or from equal contiguous parts of it along `n`
//! (sub-batch normalisation, which stands in for the per-device statistics of many devices), or are given. They are
//! always f32; `docs/math/batch_norm.md` tells how they are formed and with what error, and derives the gradients.

pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
pub(in crate::ops) mod lines;
pub mod reference;

pub(in crate::ops) use cpu::Layer;
pub(in crate::ops) use grad::{BatchNorm, PastRelu};
pub use grad::{Deferred, batch_norm, deferred};

use crate::error::{Error, Result};
use crate::ops::lanes::Stored;
use crate::shape::Shape;
use crate::tensor::{DType, Element, Place, Tensor};
use half::bf16;
use lines::Mask;

/// Which mean and variance normalise.
#[derive(Clone, Copy, Debug)]
pub enum Stats<'a> {
    /// Those of the batch (biased variance), of each of `groups` equal contiguous parts of `n` by itself.
    Batch {
        /// Number of parts; 1 is plain batch normalisation.
        groups: usize,
    },
    /// As [`Stats::Batch`], from sums that were taken where `x` was computed.
    Summed {
        /// Number of parts.
        groups: usize,
        /// Their sums.
        sums: &'a Sums,
    },
    /// These, per channel, as constants: evaluation, or frozen statistics.
    Fixed {
        /// Mean, `[c]`, f32.
        mean: &'a Tensor,
        /// Variance, `[c]`, f32.
        var: &'a Tensor,
    },
}

/// Sums over `x` that whoever computed it took on the way.
#[derive(Clone, Debug)]
pub struct Sums {
    /// A number near each channel's mean, `[c]`, f32: the nearer, the less cancels.
    pub shift: Tensor,
    /// `Σ (x - shift)` and `Σ (x - shift)²` per group and channel, `[groups 2 c]`, f32.
    pub sums: Tensor,
}

/// Statistics of the whole batch, all groups together: what running averages are made of. They live where `x` does.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Mean per channel, `[c]`, f32.
    pub mean: Tensor,
    /// Unbiased variance per channel (divided by the count less one), as PyTorch averages it, `[c]`, f32.
    pub var: Tensor,
}

/// How the elements of `x` divide: `groups` parts of `rows` rows of `c` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Parts with statistics of their own.
    pub groups: usize,
    /// Rows in each part: the values a channel's statistics are made of.
    pub rows: usize,
    /// Channels.
    pub c: usize,
}

impl Rows {
    /// The division of `x` into `groups`.
    ///
    /// # Errors
    /// `Shape` when the rank is not 2 to 5 or there are no elements; `Param` when `groups` is 0 or does not divide `n`.
    pub fn new(x: Shape, groups: usize) -> Result<Self> {
        if x.rank() < 2 || x.is_empty() {
            return Err(Error::shape("batch_norm", "x", "[n .. c] of two to five extents, none of them 0", x));
        }
        let n = x.dims()[0];
        if groups == 0 || !n.is_multiple_of(groups) {
            return Err(Error::param("batch_norm", "groups", groups, format!("it must divide the batch of {n}")));
        }
        let c = x.last();
        Ok(Rows { groups, rows: x.len() / c / groups, c })
    }
}

/// What a forward pass leaves for the backward pass.
#[derive(Clone, Debug)]
pub struct Saved {
    /// How the elements divide.
    rows: Rows,
    /// Whether the statistics came from the batch, so that gradients pass through them.
    of_batch: bool,
    /// Mean per group and channel, `groups · c` f32.
    mean: Tensor,
    /// `1/√(var + eps)` per group and channel.
    rstd: Tensor,
}

/// The gradients of the inputs.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Of `x`, in its shape and type.
    pub dx: Tensor,
    /// Of `gamma`, `[c]` f32.
    pub dgamma: Tensor,
    /// Of `beta`, `[c]` f32.
    pub dbeta: Tensor,
    /// Of the residual, where there was one: `dy` past the rectifier.
    pub dresidual: Option<Tensor>,
}

/// The result, what the backward pass needs, and the batch's statistics (`None` when they were given).
///
/// # Errors
/// As [`Rows::new`]; `Shape` when `gamma`, `beta` or given statistics are not `[c]`, when `residual` has not the shape of
/// `x`, or when statistics would be formed from a single value; `Param` when `eps` is below 1.2e-38 or not finite; `DType` when
/// given statistics are not f32; `Device` when the tensors live apart.
pub fn fwd(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    stats: Stats,
    eps: f32,
    residual: Option<&Tensor>,
    relu: bool,
) -> Result<(Tensor, Saved, Option<Moments>)> {
    if let Some(r) = residual.filter(|r| r.shape() != x.shape()) {
        return Err(Error::shape("batch_norm", "residual", x.shape(), r.shape()));
    }
    x.place("batch_norm", residual.map(|r| ("residual", r)).as_slice())?;
    let (saved, moments) = statistics(x, gamma, beta, stats, eps)?;
    let y = normalise(x, gamma, beta, &saved, residual, relu)?;
    Ok((y, saved, moments))
}

/// What [`fwd`] finds before it normalises, with its errors.
fn statistics(x: &Tensor, gamma: &Tensor, beta: &Tensor, stats: Stats, eps: f32) -> Result<(Saved, Option<Moments>)> {
    let groups = match stats {
        Stats::Batch { groups } | Stats::Summed { groups, .. } => groups,
        Stats::Fixed { .. } => 1,
    };
    let rows = Rows::new(x.shape(), groups)?;
    expect_channels("gamma", gamma.shape(), rows.c)?;
    expect_channels("beta", beta.shape(), rows.c)?;
    if !(eps >= f32::MIN_POSITIVE && eps.is_finite()) {
        // A channel of one value has variance 0, and 0/√0 is no number.
        return Err(Error::param("batch_norm", "eps", eps, "it must be finite and at least 1.2e-38"));
    }
    let mut others = vec![("gamma", gamma), ("beta", beta)];
    if let Stats::Fixed { mean, var } = stats {
        others.extend([("mean", mean), ("var", var)]);
    }
    if let Stats::Summed { sums, .. } = stats {
        others.extend([("shift", &sums.shift), ("sums", &sums.sums)]);
    }
    let place = x.place("batch_norm", &others)?;
    Ok(match stats {
        Stats::Fixed { mean, var } => {
            for (arg, given) in [("mean", mean), ("var", var)] {
                expect_channels(arg, given.shape(), rows.c)?;
                given.expect("batch_norm", arg, DType::F32)?;
            }
            let rstd = match place {
                Place::Cpu => vector(var.host()?.iter().map(|v| 1.0 / (v + eps).sqrt()))?,
                Place::Gpu(gpu) => cuda::rstd(gpu, var, eps)?,
            };
            (Saved { rows, of_batch: false, mean: mean.clone(), rstd }, None)
        }
        Stats::Batch { .. } | Stats::Summed { .. } if rows.rows == 1 => {
            let want = "more than one value per channel and group to form statistics";
            return Err(Error::shape("batch_norm", "x", want, x.shape()));
        }
        Stats::Batch { .. } => {
            let (mean, rstd, moments) = match place {
                Place::Cpu => cpu_statistics(&rows, x, eps)?,
                Place::Gpu(gpu) => cuda::statistics(gpu, &rows, x, eps)?,
            };
            (Saved { rows, of_batch: true, mean, rstd }, Some(moments))
        }
        Stats::Summed { sums, .. } => {
            expect_channels("shift", sums.shift.shape(), rows.c)?;
            if sums.sums.dims() != [groups, 2, rows.c] {
                let want = format!("[{groups} 2 {}]", rows.c);
                return Err(Error::shape("batch_norm", "sums", want, sums.sums.shape()));
            }
            sums.shift.expect("batch_norm", "shift", DType::F32)?;
            sums.sums.expect("batch_norm", "sums", DType::F32)?;
            let (mean, rstd, moments) = match place {
                Place::Cpu => {
                    let (shift, sums) = (sums.shift.host()?, sums.sums.host()?);
                    of_sums(&rows, &cpu::from_sums(&rows, &shift, &sums), eps)?
                }
                Place::Gpu(gpu) => cuda::statistics_of(gpu, &rows, sums, eps)?,
            };
            (Saved { rows, of_batch: true, mean, rstd }, Some(moments))
        }
    })
}

/// Mean and `1/√(var + eps)` per group and channel, and the moments of the whole batch.
fn cpu_statistics(rows: &Rows, x: &Tensor, eps: f32) -> Result<(Tensor, Tensor, Moments)> {
    let sums = match x.dtype() {
        DType::F32 => cpu::stats(rows, f32::of(x)),
        DType::BF16 => cpu::stats(rows, bf16::of(x)),
    };
    of_sums(rows, &sums, eps)
}

fn of_sums(rows: &Rows, sums: &[cpu::Stat], eps: f32) -> Result<(Tensor, Tensor, Moments)> {
    let rstd = sums.iter().map(|s| (1.0 / (s.m2 / rows.rows as f64 + f64::from(eps)).sqrt()) as f32);
    Ok((vector(sums.iter().map(|s| s.mean as f32))?, vector(rstd)?, cpu::moments(rows, sums)?))
}

/// A tensor of one extent.
fn vector(v: impl ExactSizeIterator<Item = f32>) -> Result<Tensor> {
    Tensor::build([v.len()], |out| out.iter_mut().zip(v).for_each(|(o, v)| *o = v))
}

/// The result, given its statistics.
fn normalise(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    saved: &Saved,
    residual: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    let residual = residual.map(|r| r.cast(x.dtype())).transpose()?;
    if let Place::Gpu(gpu) = x.place("batch_norm", &[])? {
        return cuda::normalise(gpu, x, gamma, beta, saved, residual.as_ref(), relu);
    }
    let layer = Layer::new(saved, &gamma.host()?, &beta.host()?)?;
    match x.dtype() {
        DType::F32 => normalise_as::<f32>(&layer, x, residual.as_ref(), relu),
        DType::BF16 => normalise_as::<bf16>(&layer, x, residual.as_ref(), relu),
    }
}

fn normalise_as<T: Stored>(layer: &Layer, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Result<Tensor> {
    T::build(x.shape(), |y| cpu::normalise(layer, T::of(x), residual.map(T::of), relu, y))
}

/// The gradients for the gradient `dy` of the result. With `sums`, `[groups 2 c]`, `dy` has passed the rectifier, and they are
/// the sums of it and of its products with the normalised input; only on the CPU.
fn bwd(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    saved: &Saved,
    ends: &grad::Ends,
    dy: &Tensor,
    sums: Option<&Tensor>,
) -> Result<Gradients> {
    let dy = dy.cast(x.dtype())?;
    if let Place::Gpu(gpu) = x.place("batch_norm", &[("dy", &dy)])? {
        return cuda::bwd(gpu, x, gamma, beta, saved, ends, &dy);
    }
    let layer = Layer::new(saved, &gamma.host()?, &beta.host()?)?;
    let sums = sums.map(|s| cpu::past_sums(saved, &s.host()?)).transpose()?;
    match x.dtype() {
        DType::F32 => bwd_as::<f32>(&layer, x, gamma, saved, ends, &dy, sums),
        DType::BF16 => bwd_as::<bf16>(&layer, x, gamma, saved, ends, &dy, sums),
    }
}

fn bwd_as<T: Stored>(
    layer: &Layer,
    x: &Tensor,
    gamma: &Tensor,
    saved: &Saved,
    ends: &grad::Ends,
    dy: &Tensor,
    sums: Option<Vec<cpu::GradSums>>,
) -> Result<Gradients> {
    let mask = match (ends.relu && sums.is_none(), &ends.y) {
        (false, _) => Mask::None,
        (true, None) => Mask::Recomputed,
        (true, Some(y)) => Mask::Result(T::of(y)),
    };
    let (xs, dys) = (T::of(x), T::of(dy));
    let (mut taken, masked) = (Vec::new(), !matches!(mask, Mask::None));
    let dresidual = match (&sums, ends.residual) {
        (_, false) => None,
        (None, true) if masked => {
            Some(T::build(dy.shape(), |dr| taken = cpu::grad_sums(layer, xs, dys, mask, Some(dr)))?)
        }
        _ => Some(dy.clone()),
    };
    let sums = match sums {
        Some(sums) => sums,
        None if taken.is_empty() => cpu::grad_sums(layer, xs, dys, mask, None),
        None => taken,
    };
    let (dz, mask) = match &dresidual {
        Some(dr) => (T::of(dr), Mask::None), // the mask is already in it
        None => (dys, mask),
    };
    let slopes = cpu::Slopes::new(saved, &gamma.host()?, &sums)?;
    let dx = T::build(x.shape(), |dx| cpu::grad_x(layer, &slopes, xs, dz, mask, dx))?;
    let (dgamma, dbeta) = cpu::grad_affine(saved, &sums)?;
    Ok(Gradients { dx, dgamma: vector(dgamma.into_iter())?, dbeta: vector(dbeta.into_iter())?, dresidual })
}

fn expect_channels(arg: &'static str, got: Shape, c: usize) -> Result<()> {
    if got.dims() == [c] {
        Ok(())
    } else {
        Err(Error::shape("batch_norm", arg, format!("[{c}], one per channel"), got))
    }
}
