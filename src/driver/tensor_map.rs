//! Tensors as the tensor memory accelerator (TMA) of Hopper sees them.

use super::Region;

/// A contiguous tensor of bf16 in device memory, and the box of it that one copy of TMA brings to shared memory. There the
/// innermost axis of the box, 64 numbers, takes 128 bytes, in the 128-byte swizzle. What lies outside of the tensor is
/// zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorMap {
    /// Device address, a multiple of 16.
    pub ptr: u64,
    /// Extents, the innermost first. That one is a multiple of 8.
    pub extents: Vec<u64>,
    /// The box.
    pub window: TensorWindow,
}

/// The box of a [`TensorMap`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TensorWindow {
    /// This many numbers along each axis, the innermost first.
    Tiled(Vec<u32>),
    /// Consecutive pixels of a tensor of extents `c w h t n`, as the convolution reads them that `cuTensorMapEncodeIm2col`
    /// describes. Arrays are `w h t`.
    Im2col {
        /// Where the box of first pixels begins, from the tensor's first pixel.
        lower: [i32; 3],
        /// Where it ends, from the tensor's last pixel.
        upper: [i32; 3],
        /// The distance of neighbouring pixels.
        strides: [u32; 3],
        /// Channels of a copy.
        channels: u32,
        /// Pixels of a copy.
        pixels: u32,
    },
}

impl TensorMap {
    /// Bytes of the tensor.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.extents.iter().product::<u64>() as usize * 2
    }

    /// Distances in bytes along all axes but the innermost.
    #[must_use]
    pub fn strides(&self) -> Vec<u64> {
        let lengths = self.extents.iter().scan(2, |bytes, extent| {
            *bytes *= extent;
            Some(*bytes)
        });
        lengths.take(self.extents.len() - 1).collect()
    }
}

/// A [`TensorMap`] as a kernel's parameter: the 128 bytes of a `CUtensorMap`, and the memory that is read through it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct EncodedMap {
    /// The driver's encoding.
    pub bytes: [u8; 128],
    /// The tensor.
    pub region: Region,
}
