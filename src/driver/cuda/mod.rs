//! The CUDA driver. cudarc declares its functions; [`probe`] checks first which of them exist.
//!
//! Everything is submitted to one stream of the device's primary context, the context that cudarc, cust and the CUDA runtime
//! use, so a kernel can access tensors and a caller's memory alike.

mod open;
mod probe;
mod staging;
mod tensor_map;

use super::{Arg, Driver, EncodedMap, EventId, FunctionId, GraphId, Launch, ModuleId, TensorMap};

use crate::error::{Error, ErrorKind, Result};
use cudarc::driver::sys::{self, CUresult};
use staging::Staging;
use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

/// A device, its primary context, and a stream.
pub(super) struct Cuda {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// What this value acquired, and has to release; the rest is the caller's.
    owned: Owned,
    name: String,
    capability: (u32, u32),
    elapsed_time: probe::ElapsedTime,
    /// Owner of a borrowed stream, where it can be kept.
    _kept: Kept,
    made: Mutex<Made>,
    /// Whether memory is filled with NaN when it is allocated and given back.
    fills: bool,
    staging: Mutex<Staging>,
    /// The thread that captures a graph.
    capturing: Mutex<Option<ThreadId>>,
}

/// What a [`Cuda`] acquired itself.
#[derive(Clone, Copy, PartialEq)]
enum Owned {
    Nothing,
    Stream,
    StreamAndContext,
}

/// An owner that is only kept alive.
pub(crate) type Kept = Option<Arc<dyn std::any::Any + Send + Sync>>;

/// Objects that are destroyed with the driver.
#[derive(Default)]
struct Made {
    modules: Vec<sys::CUmodule>,
    graphs: Vec<sys::CUgraphExec>,
}

// SAFETY: the driver's functions may be called from any thread; each call here first makes the context current.
unsafe impl Send for Cuda {}
// SAFETY: as above; the mutable state of this value is behind a lock.
unsafe impl Sync for Cuda {}

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
    /// Makes the context current on this thread, as every call of the driver requires.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        check("use the device's context", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Like [`Cuda::enter`], before work is submitted. What other threads submit while one captures a graph would become
    /// part of the graph. Hold the result until the work is submitted, so that no capture begins meanwhile.
    fn enter_to_submit(&self, action: &'static str) -> Result<Submitting<'_>> {
        let capturing = lock(&self.capturing);
        if capturing.is_some_and(|thread| thread != thread::current().id()) {
            return Err(Error::driver(action, "another thread is recording a graph on the same stream"));
        }
        self.enter()?;
        Ok(capturing)
    }

    /// Like [`Cuda::enter_to_submit`], for operations a graph could not replay correctly: allocations, host memory, waiting.
    fn enter_outside_of_graphs(&self, action: &'static str) -> Result<Submitting<'_>> {
        let capturing = lock(&self.capturing);
        if capturing.is_some() {
            return Err(Error::driver(action, "a graph is being recorded, and this cannot be part of one"));
        }
        self.enter()?;
        Ok(capturing)
    }

    /// Waits for the stream. The context is current.
    fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        check("finish its work", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    /// Loads a module.
    ///
    /// # Safety
    /// The image is PTX that ends with a zero byte, or a whole cubin.
    unsafe fn load_image(&self, image: *const c_void) -> Result<ModuleId> {
        use sys::CUjit_option_enum as Jit;
        self.enter()?;
        let mut log = vec![0u8; 16 << 10];
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        // Numeric options are passed by value in place of the pointer.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(log.len())];
        let mut module = ptr::null_mut();
        // SAFETY: options and log outlive the call, and their lengths are passed; the image is as the caller promises.
        let result = unsafe {
            let (names, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            sys::cuModuleLoadDataEx(&mut module, image, options.len() as u32, names, values)
        };
        if result != CUresult::CUDA_SUCCESS {
            let end = log.iter().position(|&b| b == 0).unwrap_or(0);
            let said = String::from_utf8_lossy(&log[..end]);
            let hint = match result {
                CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => {
                    "; the driver's PTX compiler, libnvidia-ptxjitcompiler.so.1, is not on this machine: install it with \
                     the driver, and let containers have it, or use cubins (`Gpu::with_cubins`)"
                }
                CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => "; a driver of CUDA 12.4 (550) or newer is needed",
                _ => "",
            };
            return Err(Error::driver("load a module", format!("{}: {}{hint}", words(result), said.trim())));
        }
        self.made().modules.push(module);
        Ok(ModuleId(module as u64))
    }

    /// Sets all bits, if this value is to do so. The context is current.
    fn fill(&self, at: u64, bytes: usize) {
        if self.fills {
            // SAFETY: the span is a block of `alloc`, in use by nobody whose work does not precede this in the stream.
            let _ = unsafe { sys::cuMemsetD8Async(at, 0xff, bytes, self.stream) };
        }
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        lock(&self.made)
    }
}

/// The thread that captures a graph, if one does; nobody begins or ends to while this is held.
type Submitting<'a> = MutexGuard<'a, Option<ThreadId>>;

/// A lock whose holder may have panicked: what it protects is complete between calls of the driver.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Driver for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.capability
    }

    fn bus(&self) -> Option<String> {
        use sys::CUdevice_attribute_enum as Attribute;
        let number = |which| {
            let mut value = 0;
            // SAFETY: the probe has found the function; the result goes to a local.
            let result = unsafe { sys::cuDeviceGetAttribute(&mut value, which, self.device) };
            (result == CUresult::CUDA_SUCCESS).then_some(value)
        };
        let domain = number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let device = number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        Some(format!("{domain:04x}:{bus:02x}:{device:02x}"))
    }

    fn make_current(&self) -> Result<()> {
        self.enter()
    }

    fn stream(&self) -> u64 {
        self.stream as u64
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let _submitting = self.enter_outside_of_graphs("allocate")?;
        let mut at = 0;
        // SAFETY: the result goes to a local.
        match unsafe { sys::cuMemAllocAsync(&mut at, bytes, self.stream) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                return Err(ErrorKind::OutOfMemory { device: self.name.clone(), asked: bytes, live: 0 }.into());
            }
            result => check("allocate", result)?,
        }
        self.fill(at, bytes);
        Ok(at)
    }

    fn forget(&self, at: u64, bytes: usize) {
        if let Ok(_submitting) = self.enter_outside_of_graphs("fill memory") {
            self.fill(at, bytes);
        }
    }

    fn free(&self, at: u64) {
        if self.enter().is_ok() {
            // SAFETY: the block came from `alloc`, and its users precede this in the stream.
            let _ = unsafe { sys::cuMemFreeAsync(at, self.stream) };
        }
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.upload_all(to, &[bytes])
    }

    fn upload_all(&self, to: u64, parts: &[&[u8]]) -> Result<()> {
        let _submitting = self.enter_outside_of_graphs("upload")?;
        let by = staging::By { context: self.context, stream: self.stream };
        // SAFETY: the context is current; the caller owns that much at `to`.
        unsafe { lock(&self.staging).upload(to, parts, by) }
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        let _submitting = self.enter_outside_of_graphs("download")?;
        // SAFETY: the caller owns that much at `from`; the target outlives the wait.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), from, bytes.len(), self.stream) };
        check("download", copied)?;
        self.wait()
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let _submitting = self.enter_to_submit("copy")?;
        // SAFETY: the caller owns both spans.
        check("copy", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream) })
    }

    fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        let _submitting = self.enter_to_submit("clear memory")?;
        // SAFETY: the caller owns the span.
        check("clear memory", unsafe { sys::cuMemsetD8Async(at, 0, bytes, self.stream) })
    }

    fn load(&self, ptx: &'static str) -> Result<ModuleId> {
        let text = CString::new(ptx).map_err(|_| Error::driver("load a module", "its text holds a zero byte"))?;
        // SAFETY: the text ends with a zero byte.
        unsafe { self.load_image(text.as_ptr().cast()) }
    }

    unsafe fn load_cubin(&self, cubin: &[u8]) -> Result<ModuleId> {
        // SAFETY: the caller's promise.
        unsafe { self.load_image(cubin.as_ptr().cast()) }
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

    fn tensor_map(&self, map: &TensorMap) -> Result<EncodedMap> {
        self.enter()?;
        tensor_map::encode(map)
    }

    unsafe fn launch(&self, function: FunctionId, launch: &Launch) -> Result<()> {
        let _submitting = self.enter_to_submit("launch a kernel")?;
        let mut args: Vec<*mut c_void> = launch
            .args
            .iter()
            .map(|arg| match arg {
                Arg::Pointer(region) => ptr::from_ref(&region.ptr).cast_mut().cast(),
                Arg::Value(bytes) => bytes.as_ptr().cast_mut().cast(),
                Arg::TensorMap(map) => map.bytes.as_ptr().cast_mut().cast(),
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
        // Waiting for a stream that is captured would end the capture.
        drop(self.enter_outside_of_graphs("finish its work")?);
        self.wait()
    }

    fn record_event(&self) -> Result<EventId> {
        let _submitting = self.enter_to_submit("record an event")?;
        let mut event = ptr::null_mut();
        // SAFETY: the result goes to a local.
        check("make an event", unsafe { sys::cuEventCreate(&mut event, 0) })?;
        // SAFETY: the event was just made, and the stream lives as long as `self`.
        let recorded = check("record an event", unsafe { sys::cuEventRecord(event, self.stream) });
        let event = EventId(event as u64);
        if recorded.is_err() {
            self.destroy_event(event);
        }
        recorded.map(|()| event)
    }

    fn wait_event(&self, event: EventId) -> Result<()> {
        // In a graph, the wait would take the other stream into it.
        let _submitting = self.enter_outside_of_graphs("wait for another stream")?;
        // SAFETY: the event is one of `record_event`, and the stream lives as long as `self`.
        check("wait for an event", unsafe { sys::cuStreamWaitEvent(self.stream, event.0 as sys::CUevent, 0) })
    }

    fn fork(&self) -> Result<Box<dyn Driver>> {
        let _submitting = self.enter_outside_of_graphs("make a stream")?;
        Ok(Box::new(self.beside()?))
    }

    fn destroy_event(&self, event: EventId) {
        if self.enter().is_ok() {
            // SAFETY: the event is one of `record_event`, whose only owner is done with it.
            let _ = unsafe { sys::cuEventDestroy_v2(event.0 as sys::CUevent) };
        }
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
        let mut capturing = self.enter_outside_of_graphs("start recording")?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        check("start recording", unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) })?;
        *capturing = Some(thread::current().id());
        Ok(())
    }

    fn end_graph(&self) -> Result<GraphId> {
        self.enter()?;
        let mut capturing = lock(&self.capturing);
        *capturing = None;
        let (mut graph, mut ready) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the results go to locals, kept until `self` goes.
        unsafe {
            check("end recording", sys::cuStreamEndCapture(self.stream, &mut graph))?;
            let result = sys::cuGraphInstantiateWithFlags(&mut ready, graph, 0);
            sys::cuGraphDestroy(graph); // the template; what is replayed is a copy
            check("prepare a graph", result)?;
        }
        self.made().graphs.push(ready);
        Ok(GraphId(ready as u64))
    }

    fn replay(&self, graph: GraphId) -> Result<()> {
        let _submitting = self.enter_to_submit("run a graph")?;
        // SAFETY: the graph is one of `end_graph`'s.
        check("run a graph", unsafe { sys::cuGraphLaunch(graph.0 as sys::CUgraphExec, self.stream) })
    }

    fn destroy_graph(&self, graph: GraphId) {
        let ready = graph.0 as sys::CUgraphExec;
        self.made().graphs.retain(|made| *made != ready);
        if self.enter().is_ok() {
            // SAFETY: the graph is one of `end_graph`'s, whose only owner is done with it. A replay under way goes on.
            let _ = unsafe { sys::cuGraphExecDestroy(ready) };
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let _ = self.enter().and_then(|()| self.wait());
        let made = std::mem::take(&mut *self.made());
        // SAFETY: each was created by this value, its users are done, and no handle to it remains.
        unsafe {
            for ready in made.graphs {
                sys::cuGraphExecDestroy(ready);
            }
            lock(&self.staging).free();
            for module in made.modules {
                sys::cuModuleUnload(module);
            }
            if self.owned != Owned::Nothing {
                sys::cuStreamDestroy_v2(self.stream);
            }
            if self.owned == Owned::StreamAndContext {
                sys::cuDevicePrimaryCtxRelease_v2(self.device);
            }
        }
    }
}
