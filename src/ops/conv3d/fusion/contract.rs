//! The values of the contract.

use crate::error::Result;
use crate::ops::batch_norm::{Norm, ReluMask};
use crate::tensor::Tensor;

/// What is applied to the `x` that a convolution reads.
#[derive(Clone, Copy, Debug, Default)]
pub enum Prologue<'a> {
    /// Nothing.
    #[default]
    None,
    /// Normalisation, then ReLU.
    NormRelu(&'a Norm),
}

/// What is done with the result of [`fprop`].
#[derive(Clone, Copy, Debug, Default)]
pub enum Epilogue<'a> {
    /// Nothing.
    #[default]
    None,
    /// Its moments are taken, for a batch norm that follows.
    Moments {
        /// Over each of so many equal contiguous parts of the samples.
        parts: usize,
        /// A number near each channel's mean, `[k]`, f32, say the running mean: a GPU takes the sums about it, the CPU about the
        /// mean that it finds.
        near: &'a Tensor,
    },
}

/// What is done with the result of [`dgrad`].
#[derive(Clone, Copy, Debug, Default)]
pub enum GradEpilogue<'a> {
    /// Nothing.
    #[default]
    None,
    /// What other paths have brought to the same gradient is added.
    Add(&'a Tensor),
    /// The convolution read `relu(norm(x) ..)`: what other paths have brought is added, ReLU's mask is applied, and the sums that
    /// the backward pass of the batch norm begins with are taken.
    NormRelu {
        /// The batch norm's input.
        x: &'a Tensor,
        /// Its numbers.
        norm: &'a Norm,
        /// Where ReLU let values through.
        relu: ReluMask<'a>,
        /// What other paths have brought.
        add: Option<&'a Tensor>,
    },
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

    /// What it makes of `x` in a pass of its own; `None` where that is `x`.
    pub(in crate::ops::conv3d) fn apply(&self, x: &Tensor) -> Result<Option<Tensor>> {
        match self {
            Prologue::None => Ok(None),
            Prologue::NormRelu(norm) => norm.apply(x, None, true).map(Some),
        }
    }
}
