//! Main memory used by tensors: how much, its peak, and how to return it to the system.
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
//! The figures are those of the process, for tensors of all threads. Temporary arrays of kernels are included if they
//! are allocated from the same recycled blocks, as all arrays are whose size grows with a tensor.

use super::{Device, buffer};
pub use crate::driver::Usage;

/// Bytes in use by tensors in main memory, the maximum since [`reset_peak`], and what the process holds for them.
#[must_use]
pub fn usage() -> Usage {
    buffer::usage()
}

/// Resets [`Usage::peak`] to what is in use now.
pub fn reset_peak() {
    buffer::reset_peak();
}

/// Returns free blocks to the system. A training step allocates the same sizes as the one before and needs no such
/// call; it is for programs that continue with something else.
pub fn release() {
    super::arena::release();
}

impl Device {
    /// Bytes in use by tensors of this process on the device, their maximum, and what is held; on a GPU those of all its streams
    /// ([`Gpu::usage_of_all_streams`](crate::driver::Gpu::usage_of_all_streams)).
    #[must_use]
    pub fn usage(&self) -> Usage {
        match self {
            Device::Cpu => usage(),
            Device::Cuda(gpu) => gpu.usage_of_all_streams(),
        }
    }
}
