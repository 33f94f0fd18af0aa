//! Opening a device: one of its own stream, or the stream of a caller.

use super::super::Gpu;
use super::{Cuda, Kept, Owned, check, probe};
use crate::error::{Error, ErrorKind, Result};
use cudarc::driver::sys;
use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::{Arc, Mutex};

impl Gpu {
    /// Device number `ordinal` and a new stream on it.
    ///
    /// # Errors
    /// `NoDriver` when there is no driver, no device, or no device of that number; `Driver`.
    pub fn cuda(ordinal: usize) -> Result<Gpu> {
        Cuda::open(ordinal).map(Gpu::new)
    }

    /// As [`Gpu::cuda`], for tests: memory has all bits set, which is NaN in every type, whenever it is allocated or given
    /// back, so that a kernel that reads what it should not is noticed.
    ///
    /// # Errors
    /// As [`Gpu::cuda`].
    #[cfg(any(test, feature = "testing"))]
    pub fn cuda_full_of_nan(ordinal: usize) -> Result<Gpu> {
        let mut cuda = Cuda::open(ordinal)?;
        cuda.fills = true;
        Ok(Gpu::new(cuda))
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// `NoDriver`.
    pub fn count() -> Result<usize> {
        Ok(probe::probe()?.devices as usize)
    }

    /// The device and stream of a caller: `stream` is a `CUstream` of the device's primary context, as cudarc, cust and
    /// the CUDA runtime create them. Everything is submitted to that stream; downloads wait for it, and so do uploads of more than 16 MiB.
    ///
    /// # Safety
    /// `stream` is a live stream, and stays so for as long as the result and every tensor on it.
    ///
    /// # Errors
    /// `NoDriver`; `Param` when `stream` is null, the default stream, and no context is current on this thread; `Driver`.
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
            let made = check("use the device's context", sys::cuCtxSetCurrent(context))
                // 1: not synchronised with the null stream, which others may use.
                .and_then(|()| check("make a stream", sys::cuStreamCreate(&mut stream, 1)))
                .and_then(|()| Self::new(found, device, context, stream, None));
            match made {
                Ok(mut cuda) => {
                    cuda.owned = Owned::StreamAndContext;
                    Ok(cuda)
                }
                Err(error) => {
                    // No value owns what was acquired.
                    if !stream.is_null() {
                        sys::cuStreamDestroy_v2(stream);
                    }
                    sys::cuDevicePrimaryCtxRelease_v2(device);
                    Err(error)
                }
            }
        }
    }

    /// Another stream in the context of `self`, which must live longer: the context is current, and remains its.
    pub(super) fn beside(&self) -> Result<Cuda> {
        let mut stream = ptr::null_mut();
        // SAFETY: the result goes to a local.
        check("make a stream", unsafe { sys::cuStreamCreate(&mut stream, 1) })?;
        Ok(Cuda {
            device: self.device,
            context: self.context,
            stream,
            owned: Owned::Stream,
            name: self.name.clone(),
            capability: self.capability,
            elapsed_time: self.elapsed_time,
            _kept: None,
            made: Mutex::default(),
            fills: self.fills,
            staging: Mutex::default(),
            capturing: Mutex::new(None),
        })
    }

    /// # Safety
    /// As [`Gpu::on_stream`].
    unsafe fn borrow(stream: sys::CUstream, kept: Kept) -> Result<Cuda> {
        let found = probe::probe()?;
        let (mut device, mut context) = (0, ptr::null_mut());
        if stream.is_null() {
            // SAFETY: the probe has found the function; the result goes to a local.
            check("find the current context", unsafe { sys::cuCtxGetCurrent(&mut context) })?;
            if context.is_null() {
                let reason = "the default stream is that of the context which is current on this thread, and none is";
                return Err(Error::param("on_stream", "stream", "null", reason));
            }
        }
        // SAFETY: the probe has found these functions; the caller vouches for the stream.
        unsafe {
            check("find the stream's context", sys::cuStreamGetCtx(stream, &mut context))?;
            check("use the stream's context", sys::cuCtxSetCurrent(context))?;
            check("find the stream's device", sys::cuCtxGetDevice(&mut device))?;
        }
        Self::new(found, device, context, stream, kept)
    }

    /// A value that does not own the context and the stream.
    fn new(
        found: probe::Found,
        device: sys::CUdevice,
        context: sys::CUcontext,
        stream: sys::CUstream,
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
            owned: Owned::Nothing,
            name,
            capability,
            elapsed_time,
            _kept: kept,
            made,
            fills: false,
            staging: Mutex::default(),
            capturing: Mutex::new(None),
        };
        if capability < (8, 0) {
            let (major, minor) = capability;
            let what = format!("{} has compute capability {major}.{minor}, and 8.0 is needed", cuda.name);
            return Err(ErrorKind::NoDriver { what }.into());
        }
        Ok(cuda)
    }
}
