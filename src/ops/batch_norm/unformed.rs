//! The gradient by a batch norm's input before it is computed: what it is computed from, beside a gradient that another tensor
//! has.

use super::{Norm, cuda};
use crate::error::{Error, Result};
use crate::tensor::{Place, Tensor};

/// `dx = dz · inv_std · gamma + (x - mean) · slope + shift` on a GPU, without `dz`, the gradient by the result after ReLU's mask.
#[derive(Clone, Debug)]
pub(in crate::ops) struct Unformed {
    /// The batch norm's input.
    pub x: Tensor,
    /// The batch norm.
    pub norm: Norm,
    /// Slopes and shifts of each part and channel, `[parts 2 c]`, f32.
    pub slopes: Tensor,
}

impl Unformed {
    /// `dx`, in a pass of its own.
    pub fn form(&self, dz: &Tensor) -> Result<Tensor> {
        let rows = self.norm.rows(dz.shape())?;
        match dz.place("batch_norm", &[("x", &self.x), ("slopes", &self.slopes)])? {
            Place::Gpu(gpu) => cuda::form(gpu, &rows, self, dz),
            Place::Cpu => Err(Error::device("batch_norm", "dz", "a GPU", dz.device())),
        }
    }
}
