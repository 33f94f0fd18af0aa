//! The CUDA driver. cudarc declares its functions; [`probe`] checks first which of them exist.
//!
//! Everything is submitted to one stream of the device's primary context, the context that cudarc, cust and the CUDA runtime
//! use, so a kernel can access tensors and a caller's memory alike.

mod probe;

use super::{Arg, Driver, EventId, FunctionId, Gpu, GraphId, Launch, ModuleId};

use crate::error::{Error, ErrorKind, Result};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A device, its primary context, and a stream.
pub(super) struct Cuda {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Whether this value acquired context and stream, and has to release them; otherwise they are the caller's.
    owned: bool,
    name: String,
    capability: (u32, u32),
    elapsed_time: probe::ElapsedTime,
    /// Owner of a borrowed stream, where it can be kept.
    _kept: Kept,
    made: Mutex<Made>,
    /// Whether a graph is being recorded.
    recording: AtomicBool,
}

/// An owner that is only kept alive.
pub(crate) type Kept = Option<Arc<dyn std::any::Any + Send + Sync>>;

/// Objects that are destroyed with the driver.
#[derive(Default)]
struct Made {
    modules: Vec<sys::CUmodule>,
    events: Vec<sys::CUevent>,
    graphs: Vec<(sys::CUgraph, sys::CUgraphExec)>,
}

// SAFETY: the driver's functions may be called from any thread; each call here first makes the context current.
unsafe impl Send for Cuda {}
// SAFETY: as above; the mutable state of this value is behind a lock.
unsafe impl Sync for Cuda {}

impl Gpu {
    /// Device number `ordinal` and a new stream on it.
    ///
    /// # Errors
    /// `NoDriver` when there is no driver, no device, or no device of that number; `Driver`.
    pub fn cuda(ordinal: usize) -> Result<Gpu> {
        Cuda::open(ordinal).map(Gpu::new)
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// `NoDriver`.
    pub fn count() -> Result<usize> {
        Ok(probe::probe()?.devices as usize)
    }

    /// The device and stream of a caller: `stream` is a `CUstream` of the device's primary context, as cudarc, cust and
    /// the CUDA runtime create them. Everything is submitted to that stream; only downloads synchronise with it.
    ///
    /// # Safety
    /// `stream` is a live stream, and stays so for as long as the result and every tensor on it.
    ///
    /// # Errors
    /// `NoDriver`; `Driver`.
    pub unsafe fn on_stream(stream: *mut c_void) -> Result<Gpu> {
        // SAFETY: as this function asks.
        unsafe { Gpu::on_kept_stream::<()>(stream, None) }
    }

    /// As [`Gpu::on_stream`], keeping the stream's owner alive.
    ///
    /// # Safety
    /// `stream` is a live stream, and stays so for as long as the result and every tensor on it, or `owner` lives.
    pub(crate) unsafe fn on_kept_stream<T: Send + Sync + 'static>(
        stream: *mut c_void,
        owner: Option<Arc<T>>,
    ) -> Result<Gpu> {
        // SAFETY: as this function asks.
        unsafe { Cuda::borrow(stream.cast(), owner.map(|o| o as Arc<dyn std::any::Any + Send + Sync>)) }.map(Gpu::new)
    }
}

/// The driver's message for a result other than success.
fn check(action: &'static str, result: CUresult) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(ErrorKind::Driver { action, what: words(result) }.into())
}

fn words(result: CUresult) -> String {
    let mut text = ptr::null();
    // SAFETY: the probe has found the function; the text it returns is static.
    let known = unsafe { sys::cuGetErrorString(result, &mut text) } == CUresult::CUDA_SUCCESS && !text.is_null();
    // SAFETY: a C string of the driver.
    let text = if known { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() } else { String::new() };
    format!("{text} (code {})", result as u32)
}

impl Cuda {
    fn open(ordinal: usize) -> Result<Cuda> {
        let found = probe::probe()?;
        if ordinal >= found.devices as usize {
            let what = format!("device {ordinal} was asked for, and there are {}, counted from 0", found.devices);
            return Err(ErrorKind::NoDriver { what }.into());
        }
        let (mut device, mut context, mut stream) = (0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: the probe has found these functions and started the driver; each result goes to a local.
        unsafe {
            check("find the device", sys::cuDeviceGet(&mut device, ordinal as i32))?;
            check("take the device's context", sys::cuDevicePrimaryCtxRetain(&mut context, device))?;
            check("use the device's context", sys::cuCtxSetCurrent(context))?;
            // 1: not synchronised with the null stream, which others may use.
            check("make a stream", sys::cuStreamCreate(&mut stream, 1))?;
        }
        Self::new(found, device, context, stream, true, None)
    }

    /// # Safety
    /// As [`Gpu::on_stream`].
    unsafe fn borrow(stream: sys::CUstream, kept: Kept) -> Result<Cuda> {
        let found = probe::probe()?;
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: the probe has found these functions; the caller vouches for the stream.
        unsafe {
            check("find the stream's context", sys::cuStreamGetCtx(stream, &mut context))?;
            check("use the stream's context", sys::cuCtxSetCurrent(context))?;
            check("find the stream's device", sys::cuCtxGetDevice(&mut device))?;
        }
        Self::new(found, device, context, stream, false, kept)
    }

    fn new(
        found: probe::Found,
        device: sys::CUdevice,
        context: sys::CUcontext,
        stream: sys::CUstream,
        owned: bool,
        kept: Kept,
    ) -> Result<Cuda> {
        use sys::CUdevice_attribute_enum as Attribute;
        let mut name = [0; 256];
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: the probe has found the function; the result goes to a local.
            let result = unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) };
            check("describe the device", result).map(|()| value as u32)
        };
        // SAFETY: as above; the name is cut to the buffer and ends with a 0.
        check("name the device", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device) })?;
        // SAFETY: the driver wrote a C string.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let (elapsed_time, made) = (found.elapsed_time, Mutex::default());
        let cuda = Cuda {
            device,
            context,
            stream,
            owned,
            name,
            capability,
            elapsed_time,
            _kept: kept,
            made,
            recording: AtomicBool::new(false),
        };
        if capability < (8, 0) {
            let (major, minor) = capability;
            let what = format!("{} has compute capability {major}.{minor}, and 8.0 is needed", cuda.name);
            return Err(ErrorKind::NoDriver { what }.into());
        }
        Ok(cuda)
    }

    /// Makes the context current on this thread, as every call of the driver requires.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        check("use the device's context", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Like [`Cuda::enter`], for operations a graph could not replay correctly: allocations, host memory.
    fn enter_outside_of_graphs(&self, action: &'static str) -> Result<()> {
        if self.recording.load(Ordering::Relaxed) {
            return Err(Error::driver(action, "a graph is being recorded, and this cannot be part of one"));
        }
        self.enter()
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Driver for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.capability
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.enter_outside_of_graphs("allocate")?;
        let mut at = 0;
        // SAFETY: the result goes to a local.
        match unsafe { sys::cuMemAllocAsync(&mut at, bytes, self.stream) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(ErrorKind::OutOfMemory { device: self.name.clone(), asked: bytes, live: 0 }.into())
            }
            result => check("allocate", result).map(|()| at),
        }
    }

    fn free(&self, at: u64) {
        if self.enter().is_ok() {
            // SAFETY: the block came from `alloc`, and its users precede this in the stream.
            let _ = unsafe { sys::cuMemFreeAsync(at, self.stream) };
        }
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.enter_outside_of_graphs("upload")?;
        // SAFETY: the caller owns that much at `to`; from pageable memory the call returns with the source read.
        check("upload", unsafe { sys::cuMemcpyHtoDAsync_v2(to, bytes.as_ptr().cast(), bytes.len(), self.stream) })
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.enter_outside_of_graphs("download")?;
        // SAFETY: the caller owns that much at `from`; the target outlives the wait.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), from, bytes.len(), self.stream) };
        check("download", copied)?;
        self.synchronize()
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller owns both spans.
        check("copy", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream) })
    }

    fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller owns the span.
        check("clear memory", unsafe { sys::cuMemsetD8Async(at, 0, bytes, self.stream) })
    }

    fn load(&self, ptx: &'static str) -> Result<ModuleId> {
        use sys::CUjit_option_enum as Jit;
        self.enter()?;
        let text = CString::new(ptx).map_err(|_| Error::driver("load a module", "its text holds a zero byte"))?;
        let mut log = vec![0u8; 16 << 10];
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        // Numeric options are passed by value in place of the pointer.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(log.len())];
        let mut module = ptr::null_mut();
        // SAFETY: text, options and log outlive the call, and their lengths are passed.
        let result = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if result != CUresult::CUDA_SUCCESS {
            let end = log.iter().position(|&b| b == 0).unwrap_or(0);
            let said = String::from_utf8_lossy(&log[..end]);
            return Err(Error::driver("load a module", format!("{}: {}", words(result), said.trim())));
        }
        self.made().modules.push(module);
        Ok(ModuleId(module as u64))
    }

    fn function(&self, module: ModuleId, entry: &str, shared: u32) -> Result<FunctionId> {
        use sys::CUfunction_attribute_enum as Attribute;
        self.enter()?;
        let name = CString::new(entry).map_err(|_| Error::driver("find a kernel", "its name holds a zero byte"))?;
        let mut function = ptr::null_mut();
        // SAFETY: the module is one of `load`'s, and lives as long as `self`.
        unsafe {
            let found = sys::cuModuleGetFunction(&mut function, module.0 as sys::CUmodule, name.as_ptr());
            check("find a kernel", found)?;
            // Above this size a kernel must be granted dynamic shared memory explicitly.
            if shared > 48 << 10 {
                let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                let allowed = sys::cuFuncSetAttribute(function, dynamic, shared as i32);
                check("give a kernel its shared memory", allowed)?;
            }
        }
        Ok(FunctionId(function as u64))
    }

    unsafe fn launch(&self, function: FunctionId, launch: &Launch) -> Result<()> {
        self.enter()?;
        let mut args: Vec<*mut c_void> = launch
            .args
            .iter()
            .map(|arg| match arg {
                Arg::Pointer(region) => ptr::from_ref(&region.ptr).cast_mut().cast(),
                Arg::Value(bytes) => bytes.as_ptr().cast_mut().cast(),
            })
            .collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.spread.grid, launch.spread.block);
        // SAFETY: the function is one of `function`'s; the driver copies the arguments before it returns; that they fit
        // is the caller's promise.
        let result = unsafe {
            sys::cuLaunchKernel(
                function.0 as sys::CUfunction,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                launch.spread.shared,
                self.stream,
                args.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check("launch a kernel", result)
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        check("finish its work", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    fn record_event(&self) -> Result<EventId> {
        self.enter()?;
        let mut event = ptr::null_mut();
        // SAFETY: the result goes to a local, kept until `self` goes.
        unsafe {
            check("make an event", sys::cuEventCreate(&mut event, 0))?;
            self.made().events.push(event);
            check("record an event", sys::cuEventRecord(event, self.stream))?;
        }
        Ok(EventId(event as u64))
    }

    fn elapsed_ms(&self, from: EventId, to: EventId) -> Result<f32> {
        self.enter()?;
        let mut ms = 0.0;
        // SAFETY: both are events of `record`.
        unsafe {
            check("wait for an event", sys::cuEventSynchronize(to.0 as sys::CUevent))?;
            match (self.elapsed_time)(&mut ms, from.0 as *mut c_void, to.0 as *mut c_void) {
                0 => Ok(ms),
                code => Err(Error::driver("read its clock", format!("code {code}"))),
            }
        }
    }

    fn begin_graph(&self) -> Result<()> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        check("start recording", unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) })?;
        self.recording.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn end_graph(&self) -> Result<GraphId> {
        self.enter()?;
        self.recording.store(false, Ordering::Relaxed);
        let (mut graph, mut ready) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the results go to locals, kept until `self` goes.
        unsafe {
            check("end recording", sys::cuStreamEndCapture(self.stream, &mut graph))?;
            let result = sys::cuGraphInstantiateWithFlags(&mut ready, graph, 0);
            if let Err(e) = check("prepare a graph", result) {
                sys::cuGraphDestroy(graph);
                return Err(e);
            }
        }
        self.made().graphs.push((graph, ready));
        Ok(GraphId(ready as u64))
    }

    fn replay(&self, graph: GraphId) -> Result<()> {
        self.enter()?;
        // SAFETY: the graph is one of `end_graph`'s.
        check("run a graph", unsafe { sys::cuGraphLaunch(graph.0 as sys::CUgraphExec, self.stream) })
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let _ = self.synchronize();
        let made = std::mem::take(&mut *self.made());
        // SAFETY: each was created by this value, its users are done, and no handle to it remains.
        unsafe {
            for (graph, ready) in made.graphs {
                sys::cuGraphExecDestroy(ready);
                sys::cuGraphDestroy(graph);
            }
            for event in made.events {
                sys::cuEventDestroy_v2(event);
            }
            for module in made.modules {
                sys::cuModuleUnload(module);
            }
            if self.owned {
                sys::cuStreamDestroy_v2(self.stream);
                sys::cuDevicePrimaryCtxRelease_v2(self.device);
            }
        }
    }
}
