//! Main memory that tensors take: how much, the most there was, and how to give it back.
//!
//! ```
//! use tubelet::tensor::{Tensor, memory};
//! memory::reset_peak();
//! let before = memory::usage().live;
//! let activations = Tensor::zeros([4, 8, 28, 28, 64]);
//! assert!(memory::usage().live >= before + 4 * activations.shape().len());
//! drop(activations);
//! assert!(memory::usage().peak >= before + 4 * 4 * 8 * 28 * 28 * 64);
//! memory::release();
//! ```
//!
//! The figures are those of the process: tensors of all threads count. What kernels use besides counts too where it is
//! kept in the same recycled blocks, as everything is whose size grows with a tensor.

use super::{Device, buffer};
pub use crate::driver::Usage;

/// Bytes in use by tensors in main memory, the most since [`reset_peak`], and what the process holds for them.
pub fn usage() -> Usage {
    buffer::usage()
}

/// Lets [`Usage::peak`] begin anew, at what is in use now.
pub fn reset_peak() {
    buffer::reset_peak();
}

/// Gives memory that waits to be used again back to the system. A training step asks for the same sizes as the one before
/// and needs no such call; it is for a program that goes on to something else.
pub fn release() {
    super::arena::release();
}

impl Device {
    /// Bytes in use there by tensors of this process, the most that there were, and what is held.
    pub fn usage(&self) -> Usage {
        match self {
            Device::Cpu => usage(),
            Device::Cuda(gpu) => gpu.usage(),
        }
    }
}
