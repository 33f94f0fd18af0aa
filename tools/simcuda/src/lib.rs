//! A `libcuda.so` whose device is the PTX simulator.
//!
//! Programs load it in place of NVIDIA's driver (`LD_LIBRARY_PATH` names a folder where it lies as `libcuda.so`), so
//! tests execute the host side of a GPU too: the probe, contexts, streams, events, graphs, modules, launches. It is
//! as strict and as late as the interface's documentation allows a driver to be:
//!
//! * every call but the first few needs a current context on its thread, and every stream, event, module and address must
//!   exist;
//! * work is executed when somebody waits for it, and not before: a stream that is not waited for has done nothing, and a
//!   page-locked source that is changed too early gives the changed bytes;
//! * a fault of a kernel is an error of the call that waits, and of every call afterwards;
//! * what cannot be captured in a graph is refused while a stream is captured, and what any thread submits to that stream
//!   becomes part of the graph.
//!
//! Sources in pageable memory are read before the call returns, as drivers do that copy through a staging buffer.
//! Memory that a launch may access is what its arguments point to, in their bytes: allocations as a whole, since the
//! interface does not say more. Times are simulated: a nanosecond for each warp instruction.
//!
//! With `SIMCUDA_EXECUTE=0` launches and copies are only logged, and downloads give zeros: a rehearsal of what a program asks
//! of a device, at the full size of its data and at the host's speed.
//!
//! Environment: `SIMCUDA_LOG` names a file that receives a line for each call, `SIMCUDA_DEVICES` the number of devices
//! (1), `SIMCUDA_MEMORY` the bytes of each (64 GiB), `SIMCUDA_CAPABILITY` its compute
//! capability (`8.0`), `SIMCUDA_VERSION` the release of the interface (`12040`), and `SIMCUDA_PTX_COMPILER=0` takes the compiler away.

mod api;
mod device;
mod work;

/// `CUDA_ERROR_INVALID_VALUE`.
const INVALID_VALUE: i32 = 1;
/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: i32 = 2;
/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: i32 = 100;
/// `CUDA_ERROR_INVALID_DEVICE`.
const INVALID_DEVICE: i32 = 101;
/// `CUDA_ERROR_INVALID_CONTEXT`.
const INVALID_CONTEXT: i32 = 201;
/// `CUDA_ERROR_INVALID_PTX`.
const INVALID_PTX: i32 = 218;
/// `CUDA_ERROR_JIT_COMPILER_NOT_FOUND`.
const JIT_COMPILER_NOT_FOUND: i32 = 221;
/// `CUDA_ERROR_INVALID_HANDLE`.
const INVALID_HANDLE: i32 = 400;
/// `CUDA_ERROR_NOT_FOUND`.
const NOT_FOUND: i32 = 500;
/// `CUDA_ERROR_NOT_READY`.
const NOT_READY: i32 = 600;
/// `CUDA_ERROR_LAUNCH_FAILED`: any fault that the simulator finds.
const LAUNCH_FAILED: i32 = 719;
/// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`.
const CAPTURE_UNSUPPORTED: i32 = 900;

/// A call's result: `Err` with the code of the interface.
type Answer = Result<(), i32>;

/// The text of a code.
fn text(code: i32) -> Option<&'static std::ffi::CStr> {
    Some(match code {
        0 => c"no error",
        INVALID_VALUE => c"invalid argument",
        OUT_OF_MEMORY => c"out of memory",
        NO_DEVICE => c"no CUDA-capable device is detected",
        INVALID_DEVICE => c"invalid device ordinal",
        INVALID_CONTEXT => c"invalid device context",
        INVALID_PTX => c"a PTX JIT compilation failed",
        JIT_COMPILER_NOT_FOUND => c"PTX JIT compiler library not found",
        INVALID_HANDLE => c"invalid resource handle",
        NOT_FOUND => c"named symbol not found",
        NOT_READY => c"device not ready",
        LAUNCH_FAILED => c"unspecified launch failure",
        CAPTURE_UNSUPPORTED => c"operation not permitted when stream is capturing",
        _ => return None,
    })
}
