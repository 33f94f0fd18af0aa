//! Checks for a usable driver and device before cudarc is used. cudarc would panic in each of these cases: no library, a stub
//! or incomplete library, one that is too old, or no device.

use crate::error::{ErrorKind, Result};
use libloading::Library;
use std::ffi::{c_int, c_uint};
use std::sync::OnceLock;

/// The functions that [`super::Cuda`] calls. A library that lacks one is refused with its name.
const NEEDED: &[&str] = &[
    "cuGetErrorString",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamGetCtx",
    "cuCtxGetDevice",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemHostAlloc",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuTensorMapEncodeTiled",
    "cuTensorMapEncodeIm2col",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
];

/// `cuEventElapsedTime`, for which cudarc's newest declarations use another name than drivers before 12.8.
pub type ElapsedTime = unsafe extern "C" fn(*mut f32, *mut std::ffi::c_void, *mut std::ffi::c_void) -> c_int;

/// A driver that can be used.
#[derive(Clone, Copy)]
pub struct Found {
    pub devices: u32,
    pub elapsed_time: ElapsedTime,
}

/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: c_int = 100;

/// The driver, probed once per process.
///
/// # Errors
/// `NoDriver`, in one sentence.
pub fn probe() -> Result<Found> {
    static ANSWER: OnceLock<Result<Found, String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(look);
    answer.clone().map_err(|what| ErrorKind::NoDriver { what }.into())
}

fn look() -> Result<Found, String> {
    let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };
    // SAFETY: the initialisers of the driver's library may run in any process that loads it.
    let found = names.iter().find_map(|name| Some((*name, unsafe { Library::new(*name) }.ok()?)));
    let Some((name, library)) = found else {
        return Err(format!("there is no {} on this machine; install NVIDIA's driver, or use the CPU", names[0]));
    };
    // Never unloaded: cudarc opens the same library, and unloading the driver is not safe.
    let library: &'static Library = Box::leak(Box::new(library));
    // SAFETY (of this block): the symbols have these types in every version of the driver's interface.
    unsafe {
        let incomplete = |symbol: &str| {
            format!("{name} lacks {symbol}: it is a stub or older than CUDA 12; install NVIDIA's driver 550 or newer")
        };
        if let Some(lacking) = NEEDED.iter().find(|s| library.get::<*const ()>(s.as_bytes()).is_err()) {
            return Err(incomplete(lacking));
        }
        let init: libloading::Symbol<unsafe extern "C" fn(c_uint) -> c_int> =
            library.get(b"cuInit").map_err(|_| incomplete("cuInit"))?;
        let count: libloading::Symbol<unsafe extern "C" fn(*mut c_int) -> c_int> =
            library.get(b"cuDeviceGetCount").map_err(|_| incomplete("cuDeviceGetCount"))?;
        let elapsed_time =
            *library.get::<ElapsedTime>(b"cuEventElapsedTime").map_err(|_| incomplete("cuEventElapsedTime"))?;
        let none = || format!("{name} is here, but it finds no device");
        match init(0) {
            0 => {}
            NO_DEVICE => return Err(none()),
            code => return Err(format!("{name} is here, but it does not start (cuInit returned {code})")),
        }
        let mut devices = 0;
        match count(&mut devices) {
            0 if devices > 0 => Ok(Found { devices: devices as u32, elapsed_time }),
            0 | NO_DEVICE => Err(none()),
            code => Err(format!("{name} is here, but it does not count its devices (it returned {code})")),
        }
    }
}
