//! Which elements of a tensor are positive, one bit for each: what remains of ReLU's result where only its mask is read.

use super::cuda;
use crate::driver::{Gpu, In, Memory, Out};
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::{DType, Device, Place, Tensor};
use std::sync::Arc;

/// The signs of a bf16 tensor on a GPU whose channels are a multiple of eight: bit `i % 8` of byte `i / 8` is set where
/// element `i` is positive. A sixteenth of the tensor's bytes.
#[derive(Clone)]
pub struct Signs {
    memory: Arc<Memory>,
    shape: Shape,
}

impl Signs {
    /// Those of `y [n .. c]`.
    ///
    /// # Errors
    /// `Device` when it is not on a GPU; `DType` when it is not bf16; `Shape` when its channels are no multiple of eight;
    /// `OutOfMemory` and `Driver`.
    pub fn of(y: &Tensor) -> Result<Signs> {
        y.expect("signs", "y", DType::BF16)?;
        if y.dims().last().is_none_or(|c| !c.is_multiple_of(8)) {
            return Err(Error::shape("signs", "y", "[.. c] with c a multiple of 8", y.shape()));
        }
        match y.place("signs", &[])? {
            Place::Gpu(gpu) => cuda::signs(gpu, y),
            Place::Cpu => Err(Error::device("signs", "y", "a GPU", y.device())),
        }
    }

    /// The shape of the tensor.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Refuses those of another device, or of another stream, than `gpu`.
    pub(in crate::ops) fn check_on(&self, op: &'static str, gpu: &Gpu) -> Result<()> {
        let there = self.memory.gpu();
        if there == gpu {
            return Ok(());
        }
        Err(Error::device(op, "signs", Device::Cuda(gpu.clone()), Device::Cuda(there.clone())))
    }

    /// Arbitrary ones, to be written.
    pub(super) fn on(gpu: &Gpu, shape: Shape) -> Result<Signs> {
        Ok(Signs { memory: Arc::new(gpu.alloc(shape.len() / 8)?), shape })
    }

    /// As a kernel's input.
    pub(in crate::ops) fn input(&self) -> In {
        In(self.memory.ptr(), self.memory.bytes())
    }

    /// As a kernel's output: only before they are shared.
    pub(super) fn output(&mut self) -> Out {
        Out(self.memory.ptr(), self.memory.bytes())
    }
}

impl std::fmt::Debug for Signs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "signs of {}", self.shape)
    }
}
