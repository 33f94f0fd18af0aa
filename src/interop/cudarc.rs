//! cudarc's streams and slices: its stream does our work, its memory is our tensors, and nothing is copied.

use crate::driver::Gpu;
use crate::error::{Error, ErrorKind, Result};
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use std::sync::Arc;

/// An element type of a cudarc slice that tensors support: `f32`, and `u16` for the bits of bf16.
pub trait Stored: DeviceRepr + Send + Sync + 'static {
    /// The data type of the tensor.
    const DTYPE: DType;
}

impl Stored for f32 {
    const DTYPE: DType = DType::F32;
}

impl Stored for u16 {
    const DTYPE: DType = DType::BF16;
}

impl Gpu {
    /// The device and stream of cudarc. Everything is given to that stream, in order with what you give to it.
    ///
    /// Ask [`Gpu::count`] before you make a cudarc context: where there is no driver it answers with an error, and cudarc
    /// panics.
    ///
    /// # Errors
    /// `NoDriver` when the device is older than compute capability 8.0; `Driver`.
    pub fn on_cudarc(stream: &Arc<CudaStream>) -> Result<Gpu> {
        // SAFETY: the stream lives as long as the `Arc` that the result keeps.
        unsafe { Gpu::on_kept_stream(stream.cu_stream().cast(), Some(stream.clone())) }
    }
}

/// Refuses another stream than that of `gpu`: what is submitted to the two has no order.
fn same_stream(op: &'static str, gpu: &Gpu, stream: &CudaStream) -> Result<()> {
    if gpu.driver().stream() == stream.cu_stream() as u64 {
        return Ok(());
    }
    Err(Error::param(op, "stream", "another stream", "it must be the stream of the tensor's Gpu (Gpu::on_cudarc)"))
}

fn refused(e: cudarc::driver::DriverError) -> Error {
    ErrorKind::Driver { action: "use a slice of cudarc", what: e.to_string() }.into()
}

impl Tensor {
    /// A tensor over a slice of cudarc's, which both keep alive: `f32`, or `u16` for the bits of bf16. The slice cannot
    /// be written while it is shared ([`Arc::get_mut`] refuses).
    ///
    /// # Errors
    /// `Shape` when the slice has not `shape.len()` elements; `Param` when `stream`, or the stream the slice was allocated
    /// on, is not that of `gpu`; `Driver` when work that the slice waits for failed.
    pub fn share_cudarc<T: Stored>(
        gpu: &Gpu,
        stream: &CudaStream,
        slice: &Arc<CudaSlice<T>>,
        shape: impl Into<Shape>,
    ) -> Result<Tensor> {
        let shape = shape.into().check("share_cudarc", "shape")?;
        same_stream("share_cudarc", gpu, stream)?;
        // When the slice is dropped, cudarc frees it in order with the slice's own stream alone.
        same_stream("share_cudarc", gpu, slice.stream())?;
        if shape.len() != slice.len() {
            let want = format!("{} elements for shape {shape}", shape.len());
            return Err(Error::shape("share_cudarc", "slice", want, slice.len()));
        }
        // Has `stream` wait for writes that other streams were given.
        let (ptr, _) = slice.device_ptr(stream);
        stream.context().check_err().map_err(refused)?;
        Ok(Tensor::keeping(gpu, ptr, T::DTYPE, shape, slice.clone()))
    }

    /// Copies the elements into a slice of cudarc's, on the device, in order.
    ///
    /// # Errors
    /// `Shape` when the slice has another length; `DType` when it holds other numbers; `Device` when this tensor is on no
    /// GPU; `Param` when `stream` is not that of the tensor's `Gpu`; `Driver`.
    pub fn copy_to_cudarc<T: Stored>(&self, stream: &CudaStream, slice: &mut CudaSlice<T>) -> Result<()> {
        self.expect("copy_to_cudarc", "self", T::DTYPE)?;
        if self.shape().len() != slice.len() {
            return Err(Error::shape(
                "copy_to_cudarc",
                "slice",
                format!("{} elements", self.shape().len()),
                slice.len(),
            ));
        }
        let Some(gpu) = self.gpu() else {
            return Err(Error::device("copy_to_cudarc", "self", "a GPU", self.device()));
        };
        same_stream("copy_to_cudarc", gpu, stream)?;
        let (bytes, from) = (slice.num_bytes(), self.input());
        let (to, _recorded) = slice.device_ptr_mut(stream);
        if bytes > 0 {
            gpu.driver().copy(to, from.0, bytes)?;
        }
        Ok(())
    }
}
