//! The types of the fusion contract.

use crate::cpu::traffic::{self, Temporary};
use crate::error::Result;
use crate::ops::batch_norm::{Norm, ReluMask, Signs};
use crate::tensor::Tensor;

/// What is applied to the `x` that a convolution reads.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Prologue<'a> {
    /// Nothing.
    #[default]
    None,
    /// Normalisation, then ReLU.
    NormRelu(&'a Norm),
}

/// What is done with the result of [`fprop`](super::fprop).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Epilogue<'a> {
    /// Nothing.
    #[default]
    None,
    /// Takes its moments, for a batch norm that follows.
    Moments {
        /// Over each of this many equal contiguous parts of the samples.
        parts: usize,
        /// A number near each channel's mean, `[k]`, f32, for example the running mean. A GPU takes the sums relative
        /// to it, the CPU relative to a mean that it computes.
        near: &'a Tensor,
    },
}

/// What is done with the result of [`dgrad`](super::dgrad).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum GradEpilogue<'a> {
    /// Nothing.
    #[default]
    None,
    /// Adds the gradient contributions of other paths.
    Add(&'a Tensor),
    /// For a convolution whose input was `relu(norm(x) ..)`: adds the contributions of other paths, applies ReLU's
    /// mask, and takes the sums that the backward pass of the batch norm begins with.
    NormRelu {
        /// The batch norm's input.
        x: &'a Tensor,
        /// The batch norm's statistics and parameters.
        norm: &'a Norm,
        /// ReLU's mask.
        relu: ReluMask<'a>,
        /// The signs of ReLU's result, if they were kept: a GPU reads them in place of the result.
        signs: Option<&'a Signs>,
        /// The contributions of other paths.
        add: Option<&'a Tensor>,
    },
}

impl<'a> Epilogue<'a> {
    /// What moments are taken about, and over how many parts of the samples.
    pub(super) fn near(&self) -> (Option<&'a Tensor>, Option<usize>) {
        match *self {
            Epilogue::None => (None, None),
            Epilogue::Moments { parts, near } => (Some(near), Some(parts)),
        }
    }
}

impl Prologue<'_> {
    /// Checks that it can be applied to `x`.
    pub(super) fn check(&self, x: &Tensor) -> Result<()> {
        if let Prologue::NormRelu(norm) = self {
            norm.rows(x.shape())?;
            x.place("conv3d", &norm.arrays())?;
        }
        Ok(())
    }

    /// Applies it to `x` in a separate pass; `None` where there is nothing to apply.
    pub(in crate::ops::conv3d) fn apply(&self, x: &Tensor) -> Result<Option<Tensor>> {
        match self {
            Prologue::None => Ok(None),
            Prologue::NormRelu(norm) => {
                let _copy = traffic::making("normalised for conv3d", Temporary::Normalised);
                norm.apply(x, None, true).map(Some)
            }
        }
    }
}
