//! The CPU path: direct convolution, without an im2col array.
//!
//! Two engines multiply: [`vector`], with vector instructions, on every machine, and [`amx`], bf16 tiles where the processor
//! has them. This file chooses between them ([`amx::choice`]) and passes on what surrounds the products: the prologue
//! as [`Lines`], the epilogue as a [`Finish`]. [`loop_nest`] is the index arithmetic of both.

#[cfg(target_arch = "x86_64")]
mod amx;
mod epilogue;
mod loop_nest;
mod vector;

use super::fusion::contract::{Epilogue, Prologue};
use super::{Conv3d, Operator};
use crate::cpu::Isa;
use crate::cpu::traffic::{self, Work};
use crate::error::Result;
#[cfg(target_arch = "x86_64")]
use crate::ops::batch_norm::Lines;
use crate::ops::batch_norm::lines::{Line, Mask};
use crate::ops::batch_norm::{Incoming, Moments, Norm, ReluMask};
use crate::tensor::{DType, Tensor};
#[cfg(target_arch = "x86_64")]
use amx::{Input, correlate_operands::Numbers};
use epilogue::{Finish, NormRelu};
use half::bf16;

/// A data type of tensors, as the engines read and write it.
#[cfg(target_arch = "x86_64")]
trait Operand: amx::Number + vector::Number {}
#[cfg(not(target_arch = "x86_64"))]
trait Operand: vector::Number {}

impl Operand for f32 {}
impl Operand for bf16 {}

/// The name of a pass in recordings, by the engine: multiply-adds, fewer of them than the definition has (FLOPs are counted as of the
/// definition), or tiles with so many terms of a number.
fn kind(pass: Operator, terms: Option<usize>, fewer: bool) -> &'static str {
    match (pass, terms) {
        (Operator::Fprop, None) if fewer => "conv3d fprop, fewer products",
        (Operator::Fprop, None) => "conv3d fprop, multiply-adds",
        (Operator::Fprop, Some(1)) => "conv3d fprop, tiles",
        (Operator::Fprop, Some(2)) => "conv3d fprop, three products",
        (Operator::Fprop, Some(_)) => "conv3d fprop, six products",
        (Operator::Dgrad, None) if fewer => "conv3d dgrad, fewer products",
        (Operator::Dgrad, None) => "conv3d dgrad, multiply-adds",
        (Operator::Dgrad, Some(1)) => "conv3d dgrad, tiles",
        (Operator::Dgrad, Some(2)) => "conv3d dgrad, three products",
        (Operator::Dgrad, Some(_)) => "conv3d dgrad, six products",
        (Operator::Wgrad, None) if fewer => "conv3d wgrad, fewer products",
        (Operator::Wgrad, None) => "conv3d wgrad, multiply-adds",
        (Operator::Wgrad, Some(1)) => "conv3d wgrad, tiles",
        (Operator::Wgrad, Some(2)) => "conv3d wgrad, three products",
        (Operator::Wgrad, Some(_)) => "conv3d wgrad, six products",
    }
}

/// Begins a pass. This counts filters read and results written; engines count how often they read activations.
fn counted(isa: Isa, p: &Conv3d, pass: Operator, terms: Option<usize>, dtype: DType) -> traffic::Pass {
    let size = dtype.size();
    let fewer = dtype == DType::F32 && vector::saves_products(p, pass);
    traffic::pass(kind(pass, terms, fewer), || {
        // Without products of bf16, filters are widened first.
        let of_filters = if terms.is_none() && isa.or_less() != Isa::Avx512Bf16 { 4 } else { size };
        let [read, wrote] = match pass {
            Operator::Fprop => [of_filters * p.w_shape().len(), size * p.y_shape().len()],
            Operator::Dgrad => [of_filters * p.w_shape().len(), size * p.x_shape().len()],
            Operator::Wgrad => [0, 4 * p.w_shape().len()],
        };
        Work { flops: p.flops(), read, wrote, tasks: 0 }
    })
}

/// `y` in the data type of `x`, and its moments if requested.
pub(super) fn fprop(
    isa: Isa,
    p: &Conv3d,
    operands: [&Tensor; 2],
    prologue: Prologue,
    epilogue: Epilogue,
) -> Result<(Tensor, Option<Moments>)> {
    match operands[0].dtype() {
        DType::F32 => fprop_as::<f32>(isa, p, operands, prologue, epilogue),
        DType::BF16 => fprop_as::<bf16>(isa, p, operands, prologue, epilogue),
    }
}

fn fprop_as<T: Operand>(
    isa: Isa,
    p: &Conv3d,
    [x, w]: [&Tensor; 2],
    prologue: Prologue,
    epilogue: Epilogue,
) -> Result<(Tensor, Option<Moments>)> {
    let parts = match epilogue {
        Epilogue::None => None,
        Epilogue::Moments { parts, .. } => Some(parts),
    };
    let mut finish = parts.map_or_else(Finish::none, |parts| Finish::<T>::moments(p, parts));
    #[cfg(target_arch = "x86_64")]
    if let Some(planes) = amx::choice::parts(isa, p, Operator::Fprop, [x, w]) {
        let _pass = counted(isa, p, Operator::Fprop, Some(planes), x.dtype());
        let lines = prologue.lines(x)?;
        let y = amx::fprop(p, planes, Input::new(x, lines.as_ref()), w, &mut finish)?;
        return Ok((y, finish.taken_moments()?));
    }
    let _pass = counted(isa, p, Operator::Fprop, None, x.dtype());
    let normed = prologue.apply(x)?;
    let x = normed.as_ref().unwrap_or(x);
    let y = T::try_build(p.y_shape(), |y| vector::fprop(isa, p, [x, w], y, &mut finish))?;
    Ok((y, finish.taken_moments()?))
}

/// `dx` in the data type of `dy`.
pub(super) fn dgrad(isa: Isa, p: &Conv3d, operands: [&Tensor; 2]) -> Result<Tensor> {
    match operands[0].dtype() {
        DType::F32 => dgrad_as::<f32>(isa, p, operands, &mut Finish::none()),
        DType::BF16 => dgrad_as::<bf16>(isa, p, operands, &mut Finish::none()),
    }
}

fn dgrad_as<T: Operand>(isa: Isa, p: &Conv3d, [dy, w]: [&Tensor; 2], finish: &mut Finish<T>) -> Result<Tensor> {
    #[cfg(target_arch = "x86_64")]
    if let Some(planes) = amx::choice::parts(isa, p, Operator::Dgrad, [dy, w]) {
        let _pass = counted(isa, p, Operator::Dgrad, Some(planes), dy.dtype());
        finish.count();
        return amx::dgrad(p, planes, dy, w, finish);
    }
    let _pass = counted(isa, p, Operator::Dgrad, None, dy.dtype());
    finish.count();
    T::try_build(p.x_shape(), |dx| vector::dgrad(isa, p, [dy, w], dx, finish))
}

/// [`dgrad`] with `add` added and the mask of the preceding ReLU applied, and the sums for the batch norm of `x` before
/// that. `x`, `add` and the result in `relu` have the data type of `dy`.
pub(super) fn dgrad_norm_relu(
    isa: Isa,
    p: &Conv3d,
    operands: [&Tensor; 2],
    x: &Tensor,
    add: Option<&Tensor>,
    norm: &Norm,
    relu: ReluMask,
) -> Result<Incoming> {
    match operands[0].dtype() {
        DType::F32 => dgrad_norm_relu_as::<f32>(isa, p, operands, x, add, norm, relu),
        DType::BF16 => dgrad_norm_relu_as::<bf16>(isa, p, operands, x, add, norm, relu),
    }
}

fn dgrad_norm_relu_as<T: Operand>(
    isa: Isa,
    p: &Conv3d,
    operands: [&Tensor; 2],
    x: &Tensor,
    add: Option<&Tensor>,
    norm: &Norm,
    relu: ReluMask,
) -> Result<Incoming> {
    let (mean, inv_std, gamma, beta) =
        (norm.mean().host()?, norm.inv_std().host()?, norm.gamma().host()?, norm.beta().host()?);
    let scale: Vec<f32> = inv_std.iter().zip(gamma.iter().cycle()).map(|(r, g)| r * g).collect();
    let work = NormRelu {
        add: add.map(T::of),
        mask: match relu {
            ReluMask::None => Mask::None,
            ReluMask::FromInput => Mask::Recomputed,
            ReluMask::FromResult(y) => Mask::Result(T::of(y)),
        },
        x: T::of(x),
        line: Line { mean: &mean, scale: &scale, shift: &beta },
    };
    let mut finish = Finish::norm_relu(p, work, norm.parts());
    let dz = dgrad_as(isa, p, operands, &mut finish)?;
    Ok(Incoming::PastRelu { dz, sums: finish.sums(&inv_std)? })
}

/// `dw`, f32.
pub(super) fn wgrad(isa: Isa, p: &Conv3d, x: &Tensor, prologue: Prologue, dy: &Tensor) -> Result<Tensor> {
    #[cfg(target_arch = "x86_64")]
    if let Some(parts) = amx::choice::parts(isa, p, Operator::Wgrad, [x, dy]) {
        let _pass = counted(isa, p, Operator::Wgrad, Some(parts), x.dtype());
        let interleaves = amx::correlate::applies(p, parts);
        let (normed, lines) = if interleaves { (None, prologue.lines(x)?) } else { (prologue.apply(x)?, None) };
        let [x, dy] = [normed.as_ref().unwrap_or(x), dy].map(|operand| Numbers::of(operand, parts));
        // SAFETY: the instructions are available, and the operands were checked to be of `p`.
        return Tensor::try_build(p.w_shape(), |dw| unsafe { amx::correlate::run(p, x, lines.as_ref(), dy, dw) });
    }
    let _pass = counted(isa, p, Operator::Wgrad, None, x.dtype());
    let normed = prologue.apply(x)?;
    let x = normed.as_ref().unwrap_or(x);
    Tensor::try_build(p.w_shape(), |dw| vector::wgrad(isa, p, [x, dy], dw))
}

#[cfg(target_arch = "x86_64")]
impl Prologue<'_> {
    /// The prologue in the form the AMX engine applies while packing.
    fn lines(&self, x: &Tensor) -> Result<Option<Lines>> {
        match self {
            Prologue::None => Ok(None),
            Prologue::NormRelu(norm) => Lines::new(&norm.rows(x.shape())?, norm).map(Some),
        }
    }
}
