//! `CUtensorMap`s, encoded by the driver.

use super::super::{Access, EncodedMap, Region, TensorMap, TensorWindow};
use super::check;
use crate::error::Result;
use cudarc::driver::sys;
use std::mem::MaybeUninit;

/// The encoding of `map`. A context is current.
pub(super) fn encode(map: &TensorMap) -> Result<EncodedMap> {
    let mut encoded = MaybeUninit::<sys::CUtensorMap>::uninit();
    let (rank, strides) = (map.extents.len() as u32, map.strides());
    let address = std::ptr::with_exposed_provenance_mut(map.ptr as usize);
    let bf16 = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    let words = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT64;
    let plain = sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE;
    let swizzle = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;
    let in_order = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE;
    let promotion = sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
    let fill = sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    let result = match &map.window {
        TensorWindow::Tiled(window) | TensorWindow::Words(window) => {
            let of_words = matches!(map.window, TensorWindow::Words(_));
            let steps = vec![1u32; window.len()];
            // SAFETY: all arrays have `rank` elements, strides one less, and outlive the call, which writes only `encoded`
            // and does not access the tensor.
            unsafe {
                sys::cuTensorMapEncodeTiled(
                    encoded.as_mut_ptr(),
                    if of_words { words } else { bf16 },
                    rank,
                    address,
                    map.extents.as_ptr(),
                    strides.as_ptr(),
                    window.as_ptr(),
                    steps.as_ptr(),
                    plain,
                    if of_words { in_order } else { swizzle },
                    promotion,
                    fill,
                )
            }
        }
        TensorWindow::Im2col { lower, upper, strides: [w, h, t], channels, pixels } => {
            let steps = [1, *w, *h, *t, 1];
            // SAFETY: as above; corners have an element for each axis between channels and samples, of rank 5.
            unsafe {
                sys::cuTensorMapEncodeIm2col(
                    encoded.as_mut_ptr(),
                    bf16,
                    rank,
                    address,
                    map.extents.as_ptr(),
                    strides.as_ptr(),
                    lower.as_ptr(),
                    upper.as_ptr(),
                    *channels,
                    *pixels,
                    steps.as_ptr(),
                    plain,
                    swizzle,
                    promotion,
                    fill,
                )
            }
        }
    };
    check("encode a tensor map", result)?;
    // SAFETY: the driver has written all 128 bytes of it, which is plain data of that size.
    let bytes = unsafe { encoded.assume_init().opaque.map(u64::to_ne_bytes).concat() };
    let bytes = bytes.try_into().expect("sixteen words are 128 bytes");
    Ok(EncodedMap { bytes, region: Region { ptr: map.ptr, bytes: map.bytes(), access: Access::Read } })
}
