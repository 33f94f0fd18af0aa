//! Tensor maps for TMA.

use super::{give, inside};
use crate::{Answer, INVALID_VALUE};
use ptxsim::{Element, Fill, Swizzle, TensorMap, Window};
use std::ffi::{c_int, c_uint, c_void};

/// What both functions describe alike; enumerators by their numbers in the header.
struct Described {
    element: c_uint,
    rank: c_uint,
    address: *mut c_void,
    extents: *const u64,
    strides: *const u64,
    steps: *const u32,
    interleave: c_uint,
    swizzle: c_uint,
    fill: c_uint,
}

/// `CUtensorMapDataType`, in the order of its enumerators.
const ELEMENTS: [Element; 10] = [
    Element::U8,
    Element::U16,
    Element::U32,
    Element::I32,
    Element::U64,
    Element::I64,
    Element::F16,
    Element::F32,
    Element::F64,
    Element::Bf16,
];
/// `CUtensorMapSwizzle` and `CUtensorMapFloatOOBfill`.
const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
const FILLS: [Fill; 2] = [Fill::Zero, Fill::Nan];

/// Copies an array of the caller.
///
/// # Safety
/// It is null or has `count` elements.
unsafe fn copied<T: Copy>(array: *const T, count: usize) -> Result<Vec<T>, i32> {
    if array.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: it is not null, and the caller vouches for the length.
    Ok(unsafe { std::slice::from_raw_parts(array, count) }.to_vec())
}

/// Encodes a map to `to`, 128 bytes aligned to 64.
///
/// # Safety
/// `to` is null or valid for a write; arrays have `rank` elements, strides one less.
unsafe fn encode(name: &str, to: *mut [u8; 128], of: &Described, window: Result<Window, i32>) -> c_int {
    inside(name, |d| -> Answer {
        let rank = of.rank as usize;
        if !(1..=5).contains(&rank) || of.interleave != 0 || !to.addr().is_multiple_of(64) {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller vouches for the lengths.
        let (extents, strides, steps) =
            unsafe { (copied(of.extents, rank)?, copied(of.strides, rank - 1)?, copied(of.steps, rank)?) };
        let map = TensorMap {
            element: *ELEMENTS.get(of.element as usize).ok_or(INVALID_VALUE)?,
            address: of.address as u64,
            extents,
            strides,
            window: window?,
            steps,
            swizzle: *SWIZZLES.get(of.swizzle as usize).ok_or(INVALID_VALUE)?,
            fill: *FILLS.get(of.fill as usize).ok_or(INVALID_VALUE)?,
        };
        let bytes = d.machine.tensor_map(&map).map_err(|_| INVALID_VALUE)?;
        let outermost = map.strides.last().copied().unwrap_or(map.element.size());
        d.tensor_maps.insert(bytes, (map.address, outermost * map.extents[rank - 1]));
        // SAFETY: the caller vouches for `to`.
        unsafe { give(to, bytes) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeTiled(
    to: *mut [u8; 128],
    element: c_uint,
    rank: c_uint,
    address: *mut c_void,
    extents: *const u64,
    strides: *const u64,
    window: *const u32,
    steps: *const u32,
    interleave: c_uint,
    swizzle: c_uint,
    _promotion: c_uint,
    fill: c_uint,
) -> c_int {
    let of = Described { element, rank, address, extents, strides, steps, interleave, swizzle, fill };
    // SAFETY: the header's contract is that of `encode`, and the box has an extent for each axis.
    unsafe {
        let window = copied(window, rank.min(5) as usize).map(|extent| Window::Tiled { extent });
        encode("cuTensorMapEncodeTiled", to, &of, window)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeIm2col(
    to: *mut [u8; 128],
    element: c_uint,
    rank: c_uint,
    address: *mut c_void,
    extents: *const u64,
    strides: *const u64,
    lower: *const c_int,
    upper: *const c_int,
    channels: c_uint,
    pixels: c_uint,
    steps: *const u32,
    interleave: c_uint,
    swizzle: c_uint,
    _promotion: c_uint,
    fill: c_uint,
) -> c_int {
    let of = Described { element, rank, address, extents, strides, steps, interleave, swizzle, fill };
    let spatial = (rank.min(5) as usize).saturating_sub(2);
    // SAFETY: as above; corners have an element for each axis between channels and samples.
    unsafe {
        let corners = copied(lower, spatial).and_then(|lower| Ok((lower, copied(upper, spatial)?)));
        let window = corners.map(|(lower, upper)| Window::Im2col { lower, upper, channels, pixels });
        encode("cuTensorMapEncodeIm2col", to, &of, window)
    }
}
