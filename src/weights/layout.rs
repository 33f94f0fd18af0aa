//! The layout of parameters in PyTorch's files.

use crate::error::{Error, Result};
use crate::nn::{Param, Role};
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};
use std::borrow::Cow;

/// A parameter as PyTorch stores it, extents and values: filters `k kt kh kw c` become `k c kt kh kw`.
///
/// # Errors
/// `DType` when it is not f32; `Shape` when a filter does not have five extents; as [`Tensor::load`].
pub fn to_pytorch(role: Role, value: &Tensor) -> Result<(Vec<usize>, Cow<'_, [f32]>)> {
    value.expect("weights", "value", DType::F32)?;
    let data = value.load()?;
    if role != Role::ConvWeight {
        return Ok((value.dims().to_vec(), data));
    }
    let [k, kt, kh, kw, c] = filter(value.shape())?;
    let taps = kt * kh * kw;
    let out = (0..data.len()).map(|i| {
        let (filter, channel, tap) = (i / (c * taps), i / taps % c, i % taps);
        data[(filter * taps + tap) * c + channel]
    });
    Ok((vec![k, c, kt, kh, kw], Cow::Owned(out.collect())))
}

/// The inverse of [`to_pytorch`]: PyTorch's values as a parameter of `shape` (this crate's).
///
/// # Errors
/// `Shape` when the number of elements differs, or a filter does not have five extents.
pub fn from_pytorch(role: Role, shape: Shape, data: &[f32]) -> Result<Tensor> {
    if role != Role::ConvWeight || shape.len() != data.len() {
        return Tensor::from_f32(shape, data);
    }
    let [_, kt, kh, kw, c] = filter(shape)?;
    let taps = kt * kh * kw;
    Tensor::build(shape, |out| {
        for (i, o) in out.iter_mut().enumerate() {
            let (filter, tap, channel) = (i / (c * taps), i / c % taps, i % c);
            *o = data[(filter * c + channel) * taps + tap];
        }
    })
}

fn filter(shape: Shape) -> Result<[usize; 5]> {
    shape.dims().try_into().map_err(|_| Error::shape("weights", "value", "k kt kh kw c", shape))
}

/// The shape of a parameter in PyTorch.
pub(super) fn pytorch_shape(role: Role, value: &Tensor) -> Vec<usize> {
    match *value.dims() {
        [k, kt, kh, kw, c] if role == Role::ConvWeight => vec![k, c, kt, kh, kw],
        ref d => d.to_vec(),
    }
}

/// The name of the batch count that PyTorch stores with each normalisation's statistics.
pub(super) fn batches_name(variance: &str) -> String {
    format!("{}num_batches_tracked", variance.strip_suffix("running_var").unwrap_or(variance))
}

/// The shape of a parameter in PyTorch's image network.
pub(super) fn image_shape(p: &Param) -> Vec<usize> {
    match *p.value.dims() {
        [k, _, kh, kw, c] if p.role == Role::ConvWeight => vec![k, c, kh, kw],
        ref d => d.to_vec(),
    }
}

/// The temporal tap of `kt` that is the current frame: the middle one, or of an even number the earlier of the two.
fn middle(kt: usize) -> usize {
    (kt.max(1) - 1) / 2
}

/// An image network's values in the shape of a parameter.
pub(super) fn inflated(p: &Param, data: &[f32]) -> Result<Tensor> {
    let shape = p.value.shape();
    let &[_, kt, kh, kw, c] = shape.dims() else { return Tensor::from_f32(shape, data) };
    let mut out = vec![0.0; shape.len()];
    for (i, v) in data.iter().enumerate() {
        let (k, from, tap) = (i / (c * kh * kw), i / (kh * kw) % c, i % (kh * kw));
        out[((k * kt + middle(kt)) * kh * kw + tap) * c + from] = *v;
    }
    Tensor::from_f32(shape, &out)
}

/// A kernel that copies each channel of the middle frame.
pub(super) fn identity(p: &Param) -> Result<Tensor> {
    let shape = p.value.shape();
    let [k, kt, kh, kw, c] = shape.nthwc("inflate", "kernel over time")?;
    if k != c || [kh, kw] != [1, 1] {
        return Err(Error::shape("inflate", "kernel over time", "k kt 1 1 k", shape));
    }
    let mut out = vec![0.0; shape.len()];
    for i in 0..k {
        out[(i * kt + middle(kt)) * c + i] = 1.0;
    }
    Tensor::from_f32(shape, &out)
}
