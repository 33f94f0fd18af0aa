//! Tensors as the tensor memory accelerator (TMA) of Hopper sees them.

use super::Region;
use crate::error::{Error, Result};
use std::fmt::Display;

/// A contiguous tensor in device memory, and the box of it that one copy of TMA brings to shared memory. Elements are bf16,
/// and in shared memory the innermost axis of the box, 64 numbers, takes 128 bytes, in the 128-byte swizzle; in a box of
/// [`TensorWindow::Words`] they are other. What lies outside of the tensor is zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorMap {
    /// Device address, a multiple of 16.
    pub ptr: u64,
    /// Extents, the innermost first. That one is a multiple of 16 bytes, if there are several.
    pub extents: Vec<u64>,
    /// The box.
    pub window: TensorWindow,
}

/// The box of a [`TensorMap`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TensorWindow {
    /// This many numbers along each axis, the innermost first.
    Tiled(Vec<u32>),
    /// This many elements of eight bytes along each axis, without swizzle: the rows of the box follow each other. Extents
    /// count such elements, too.
    Words(Vec<u32>),
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

/// Dimensions of a tensor, at most.
const MOST_DIMENSIONS: usize = 5;
/// An extent, at most, and the bytes between neighbours along an axis, which have to be fewer.
const MOST_EXTENT: u64 = 1 << 32;
const MOST_STRIDE: u64 = 1 << 40;
/// The numbers of a box along an axis, the pixels and the distance of pixels of a copy in im2col mode, at most.
const MOST_BOX: u32 = 256;
const MOST_PIXELS: u32 = 1024;
const MOST_STEP: u32 = 8;
/// Where the corners of im2col may be, for tensors of five dimensions.
const CORNERS: std::ops::RangeInclusive<i32> = -16..=15;
/// Bytes to which addresses and rows are aligned, and those that the swizzle permutes: a row of a box has no more.
const ALIGNED: u64 = 16;
const SWIZZLE: u64 = 128;

/// An error with the rule's parameter, in the driver's words.
fn broken(name: &'static str, value: impl Display, rule: &'static str) -> Error {
    Error::param("tensor map", name, value, rule)
}

impl TensorMap {
    /// Whether the driver can encode it: what `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col` require of bf16
    /// without interleaving and with the 128-byte swizzle, or of words without either (CUDA Driver API, "Tensor Map Object Management",
    /// <https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TENSOR__MEMORY.html>). The driver answers a broken rule
    /// with `CUDA_ERROR_INVALID_VALUE` and does not say which one.
    ///
    /// # Errors
    /// `Param` with the name of the driver's parameter, its value and the rule.
    pub fn check(&self) -> Result<()> {
        let rank = self.extents.len();
        let im2col = matches!(self.window, TensorWindow::Im2col { .. });
        if im2col && rank != MOST_DIMENSIONS {
            return Err(broken("tensorRank", rank, "a copy of pixels is of five dimensions here"));
        }
        if !(1..=MOST_DIMENSIONS).contains(&rank) {
            return Err(broken("tensorRank", rank, "a tensor has one to five dimensions"));
        }
        if !self.ptr.is_multiple_of(ALIGNED) {
            return Err(broken("globalAddress", format!("{:#x}", self.ptr), "an address is a multiple of 16"));
        }
        if let Some(extent) = self.extents.iter().find(|extent| !(1..=MOST_EXTENT).contains(*extent)) {
            return Err(broken("globalDim", extent, "an extent is between 1 and 2^32"));
        }
        let mut stride = self.element();
        for extent in &self.extents[..rank - 1] {
            stride = stride.saturating_mul(*extent);
            if !stride.is_multiple_of(ALIGNED) || stride >= MOST_STRIDE {
                return Err(broken("globalStrides", stride, "a stride is a multiple of 16 bytes, below 2^40"));
            }
        }
        self.check_window()
    }

    fn check_window(&self) -> Result<()> {
        let row = |name: &'static str, numbers: u32| {
            let bytes = self.element() * u64::from(numbers);
            let swizzled = !matches!(self.window, TensorWindow::Words(_));
            if (swizzled && bytes > SWIZZLE) || !bytes.is_multiple_of(ALIGNED) {
                let rule = "a row of a copy is a multiple of 16 bytes, at most the 128 of the swizzle";
                return Err(broken(name, format!("{numbers} ({bytes} bytes)"), rule));
            }
            Ok(())
        };
        match &self.window {
            TensorWindow::Tiled(window) | TensorWindow::Words(window) => {
                if window.len() != self.extents.len() {
                    return Err(broken("boxDim", format!("{window:?}"), "a box has the dimensions of its tensor"));
                }
                if window.iter().any(|extent| !(1..=MOST_BOX).contains(extent)) {
                    return Err(broken("boxDim", format!("{window:?}"), "a box has 1 to 256 numbers along each axis"));
                }
                row("boxDim", window[0])
            }
            TensorWindow::Im2col { lower, upper, strides, channels, pixels } => {
                for (name, corner) in [("pixelBoxLowerCorner", lower), ("pixelBoxUpperCorner", upper)] {
                    if !corner.iter().all(|at| CORNERS.contains(at)) {
                        return Err(broken(name, format!("{corner:?}"), "a corner is between -16 and 15"));
                    }
                }
                for axis in 0..3 {
                    let along = self.extents[1 + axis] as i64 + i64::from(upper[axis]) - i64::from(lower[axis]);
                    if along < 1 {
                        let value = format!("{upper:?} with the lower corner {lower:?}");
                        return Err(broken("pixelBoxUpperCorner", value, "the box between the corners is not empty"));
                    }
                }
                if strides.iter().any(|step| !(1..=MOST_STEP).contains(step)) {
                    return Err(broken("elementStrides", format!("{strides:?}"), "pixels are 1 to 8 apart"));
                }
                if !(1..=MOST_BOX).contains(channels) {
                    return Err(broken("channelsPerPixel", channels, "a copy has 1 to 256 channels"));
                }
                if !(1..=MOST_PIXELS).contains(pixels) {
                    return Err(broken("pixelsPerColumn", pixels, "a copy has 1 to 1024 pixels"));
                }
                row("channelsPerPixel", *channels)
            }
        }
    }

    /// Bytes of an element.
    fn element(&self) -> u64 {
        if matches!(self.window, TensorWindow::Words(_)) { 8 } else { 2 }
    }

    /// Bytes of the tensor.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.extents.iter().product::<u64>() * self.element()) as usize
    }

    /// Distances in bytes along all axes but the innermost.
    #[must_use]
    pub fn strides(&self) -> Vec<u64> {
        let lengths = self.extents.iter().scan(self.element(), |bytes, extent| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn tiled(extents: &[u64], window: &[u32]) -> TensorMap {
        TensorMap { ptr: 1 << 20, extents: extents.to_vec(), window: TensorWindow::Tiled(window.to_vec()) }
    }

    /// Of a tensor of 64 channels and 20 pixels along each axis.
    fn columns(lower: [i32; 3], upper: [i32; 3], strides: [u32; 3], channels: u32, pixels: u32) -> TensorMap {
        let window = TensorWindow::Im2col { lower, upper, strides, channels, pixels };
        TensorMap { ptr: 1 << 20, extents: vec![64, 20, 20, 20, 2], window }
    }

    fn words(extents: &[u64], window: &[u32]) -> TensorMap {
        TensorMap { window: TensorWindow::Words(window.to_vec()), ..tiled(extents, &[]) }
    }

    /// The driver's name of the parameter that is refused.
    fn refused(map: &TensorMap) -> Option<&'static str> {
        let error = map.check().err()?;
        match error.kind() {
            ErrorKind::Param { op: "tensor map", name, .. } => Some(*name),
            other => panic!("{other:?}"),
        }
    }

    /// Each row: the last map that a rule takes, and the first that it does not.
    #[test]
    fn limits_of_tensors() {
        for (at, beyond, name) in [
            (tiled(&[8; 5], &[8; 5]), tiled(&[8; 6], &[8; 6]), "tensorRank"),
            (tiled(&[8], &[8]), tiled(&[], &[]), "tensorRank"),
            (tiled(&[8, 1 << 32], &[8, 1]), tiled(&[8, (1 << 32) + 1], &[8, 1]), "globalDim"),
            (tiled(&[8, 1], &[8, 1]), tiled(&[8, 0], &[8, 1]), "globalDim"),
            (tiled(&[8, 2], &[8, 1]), tiled(&[9, 2], &[8, 1]), "globalStrides"),
            // 2^40 bytes less 256, then 2^40; the outermost extent is in no stride.
            (tiled(&[8, (1 << 32) - 1, 16, 2], &[8; 4]), tiled(&[8, 1 << 32, 16, 2], &[8; 4]), "globalStrides"),
        ] {
            assert_eq!(refused(&at), None, "{at:?}");
            assert_eq!(refused(&beyond), Some(name), "{beyond:?}");
        }
        let map = tiled(&[8, 2], &[8, 1]);
        assert_eq!(refused(&TensorMap { ptr: (1 << 20) + 16, ..map.clone() }), None);
        assert_eq!(refused(&TensorMap { ptr: (1 << 20) + 8, ..map }), Some("globalAddress"));
    }

    #[test]
    fn limits_of_boxes() {
        for (at, beyond) in [
            (tiled(&[64, 999], &[64, 256]), tiled(&[64, 999], &[64, 257])),
            (tiled(&[64, 999], &[64, 1]), tiled(&[64, 999], &[64, 0])),
            (tiled(&[999 * 8, 2], &[64, 1]), tiled(&[999 * 8, 2], &[72, 1])), // 128 bytes of the swizzle
            (tiled(&[64, 2], &[56, 1]), tiled(&[64, 2], &[60, 1])),           // multiples of 16 bytes
            (tiled(&[64, 2], &[8, 1]), tiled(&[64, 2], &[8])),
        ] {
            assert_eq!(refused(&at), None, "{at:?}");
            assert_eq!(refused(&beyond), Some("boxDim"), "{beyond:?}");
        }
    }

    /// Rows of words have no swizzle to fit into, and are counted in eight bytes.
    #[test]
    fn limits_of_words() {
        for (at, beyond, name) in [
            (words(&[6, 9], &[256, 9]), words(&[6, 9], &[258, 9]), "boxDim"),
            (words(&[6, 9], &[14, 1]), words(&[6, 9], &[15, 1]), "boxDim"),
            (words(&[6, 9], &[2, 1]), words(&[7, 9], &[2, 1]), "globalStrides"),
        ] {
            assert_eq!(refused(&at), None, "{at:?}");
            assert_eq!(refused(&beyond), Some(name), "{beyond:?}");
        }
        let map = words(&[6, 9, 2], &[2, 1, 1]);
        assert_eq!((map.bytes(), map.strides()), (6 * 9 * 2 * 8, vec![48, 432]));
    }

    #[test]
    fn limits_of_columns_of_pixels() {
        let (zero, one) = ([0; 3], [1; 3]);
        for (at, beyond, name) in [
            (columns([-16, 0, 0], zero, one, 64, 1), columns([-17, 0, 0], zero, one, 64, 1), "pixelBoxLowerCorner"),
            (columns([0, 15, 0], zero, one, 64, 1), columns([0, 16, 0], zero, one, 64, 1), "pixelBoxLowerCorner"),
            (columns(zero, [0, 0, 15], one, 64, 1), columns(zero, [0, 0, 16], one, 64, 1), "pixelBoxUpperCorner"),
            (columns(zero, [0, -16, 0], one, 64, 1), columns(zero, [0, -17, 0], one, 64, 1), "pixelBoxUpperCorner"),
            // Twenty pixels: nineteen places less leave one.
            (
                columns([9, 0, 0], [-10, 0, 0], one, 64, 1),
                columns([10, 0, 0], [-10, 0, 0], one, 64, 1),
                "pixelBoxUpperCorner",
            ),
            (columns(zero, zero, [8, 1, 1], 64, 1), columns(zero, zero, [9, 1, 1], 64, 1), "elementStrides"),
            (columns(zero, zero, one, 64, 1), columns(zero, zero, [1, 1, 0], 64, 1), "elementStrides"),
            (columns(zero, zero, one, 64, 1024), columns(zero, zero, one, 64, 1025), "pixelsPerColumn"),
            (columns(zero, zero, one, 64, 1), columns(zero, zero, one, 64, 0), "pixelsPerColumn"),
            (columns(zero, zero, one, 64, 1), columns(zero, zero, one, 72, 1), "channelsPerPixel"),
            (columns(zero, zero, one, 8, 1), columns(zero, zero, one, 0, 1), "channelsPerPixel"),
            (columns(zero, zero, one, 8, 1), columns(zero, zero, one, 257, 1), "channelsPerPixel"),
        ] {
            assert_eq!(refused(&at), None, "{at:?}");
            assert_eq!(refused(&beyond), Some(name), "{beyond:?}");
        }
        let four = TensorMap { extents: vec![64, 20, 20, 2], ..columns(zero, zero, one, 64, 1) };
        assert_eq!(refused(&four), Some("tensorRank"));
    }
}
