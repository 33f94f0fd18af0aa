//! The exported functions, with the names and signatures of `cuda.h`: here those of devices and contexts.
//!
//! Handles are plain numbers. Pointers are the caller's, valid for what the interface says about each argument: that is what every
//! `unsafe` block here relies on, with `give` for results.

mod memory;
mod modules;
mod streams;
mod tensor_maps;

use crate::device::{Device, capability, device, grantable, release, setting};
use crate::{Answer, CAPTURE_UNSUPPORTED, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, text};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint};

/// Handle of the device's primary context.
const CONTEXT: usize = 0xc0de;

thread_local! {
    /// The current context of this thread; 0 for none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

fn code(answer: Answer) -> c_int {
    answer.err().unwrap_or(0)
}

/// A call that needs a current context.
fn inside(name: &str, call: impl FnOnce(&mut Device) -> Answer) -> c_int {
    let mut device = device();
    let answer = match (CURRENT.get(), device.fault) {
        (_, Some(fault)) => Err(fault),
        (CONTEXT, None) => call(&mut device),
        _ => Err(INVALID_CONTEXT),
    };
    device.note(format_args!("{name} -> {}", code(answer)));
    code(answer)
}

/// As [`inside`], of work in a stream, whose handle the log names.
fn in_stream(name: &str, stream: usize, call: impl FnOnce(&mut Device) -> Answer) -> c_int {
    inside(&format!("{name} in {stream:#x}"), call)
}

/// As [`inside`], refused while any stream is captured: what a graph could not repeat.
fn outside_of_graphs(name: &str, call: impl FnOnce(&mut Device) -> Answer) -> c_int {
    inside(name, |d| if d.streams.values().any(|s| s.captured.is_some()) { Err(CAPTURE_UNSUPPORTED) } else { call(d) })
}

/// Writes a result.
///
/// # Safety
/// `to` is null or valid for a write.
unsafe fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: it is not null, and the caller vouches for the rest.
    unsafe { to.write(value) };
    Ok(())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuInit(_flags: c_uint) -> c_int {
    if setting("SIMCUDA_DEVICES", 1) == 0 { NO_DEVICE } else { 0 }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    code(unsafe { give(version, release() as c_int) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(error: c_int, to: *mut *const c_char) -> c_int {
    code(match text(error) {
        Some(words) => unsafe { give(to, words.as_ptr()) },
        None => Err(INVALID_VALUE),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(error: c_int, to: *mut *const c_char) -> c_int {
    unsafe { cuGetErrorString(error, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    code(unsafe { give(count, setting("SIMCUDA_DEVICES", 1) as c_int) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(to: *mut c_int, ordinal: c_int) -> c_int {
    let there = (0..setting("SIMCUDA_DEVICES", 1) as c_int).contains(&ordinal);
    code(if there { unsafe { give(to, ordinal) } } else { Err(INVALID_DEVICE) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> c_int {
    let words = c"simulated GPU".to_bytes_with_nul();
    let bytes = words.len().min(length.max(0) as usize);
    // SAFETY: the caller's array has `length` bytes.
    unsafe { name.copy_from_nonoverlapping(words.as_ptr().cast(), bytes) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(to: *mut c_int, attribute: c_int, device: c_int) -> c_int {
    let (major, minor) = capability();
    let value = match attribute {
        1 => 1024,                  // threads per block
        10 => 32,                   // warp size
        16 => 108,                  // multiprocessors
        33 => device + 1,           // bus of PCI
        75 => major,                // compute capability
        76 => minor,                //
        97 => grantable() as c_int, // shared memory per block that a function can be granted
        115 => 1,                   // memory pools
        _ => 0,
    };
    code(unsafe { give(to, value) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(to: *mut usize, _device: c_int) -> c_int {
    code(unsafe { give(to, CONTEXT) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> c_int {
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSetCurrent(context: usize) -> c_int {
    CURRENT.set(context);
    code(if context == CONTEXT || context == 0 { Ok(()) } else { Err(INVALID_CONTEXT) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(to: *mut usize) -> c_int {
    code(unsafe { give(to, CURRENT.get()) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetDevice(to: *mut c_int) -> c_int {
    inside("cuCtxGetDevice", |_| unsafe { give(to, 0) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSynchronize() -> c_int {
    outside_of_graphs("cuCtxSynchronize", |d| {
        let streams: Vec<usize> = d.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| d.finish(stream))
    })
}
