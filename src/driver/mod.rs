//! The interface between operations and a GPU: only what an operation needs of a device.
//!
//! [`Driver`] is implemented by the CUDA driver (feature `cuda`; opened at run time, so no toolkit and no linking) and, in this
//! project's tests, by a simulator that executes the same PTX on the CPU. [`Gpu`] adds what every user of a driver needs: a
//! memory pool, loaded modules, and typed kernels (`Kernel`).
//!
//! ```
//! use tubelet::tensor::{Device, Tensor};
//! let (device, reason) = Device::auto(); // the first GPU, or the CPU and why
//! let x = Tensor::full([3], 2.0).to(&device)?;
//! let y = tubelet::ops::arith::scale_forward(&x, 0.5)?; // computed where x is
//! assert_eq!(y.load()?[..], [1.0; 3]);
//! if let Device::Cuda(gpu) = &device {
//!     println!("{}: at most {} bytes were in use", gpu.name(), gpu.usage().peak);
//! }
//! # Ok::<(), tubelet::error::Error>(())
//! ```
//!
//! All work of one [`Gpu`] is submitted to one stream and executed in order. [`Gpu::fork`] makes another stream of the same
//! device, and [`Event`]s order the work of the two:
//!
//! ```no_run
//! # use tubelet::{driver::Gpu, ops::arith, tensor::{Device, Tensor}};
//! # fn f(gpu: &Gpu, x: &Tensor) -> tubelet::error::Result<()> {
//! let other = gpu.fork()?; // its work runs beside that of `gpu`, after what `gpu` was given so far
//! let there = x.share(&other)?; // the same memory, for operations on the other stream
//! let y = arith::scale_forward(&there, 2.0)?; // runs on the other stream
//! let y = y.share(gpu)?; // `gpu` waits for it before it goes on
//! # Ok(())
//! # }
//! ```

mod cubins;
#[cfg(feature = "cuda")]
mod cuda;
mod gpu;
mod kernel;
mod modules;
mod pool;
mod streams;
mod tensor_map;

pub use cubins::architecture;
pub use gpu::{Gpu, Graph, Memory, Usage};
pub use kernel::{Declared, Parameter};
pub(crate) use kernel::{In, InOut, Kernel, Map, Module, Out, Pod, Scratch};
pub use modules::{LoadedModule, Origin};
pub use streams::Event;
pub use tensor_map::{EncodedMap, TensorMap, TensorWindow};

use crate::error::{Error, ErrorKind, Result};

/// How a launch accesses a region of device memory. The simulator enforces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read only.
    Read,
    /// Write only: every byte is stored, and the previous content is never loaded.
    Write,
    /// Loads and stores; the previous content matters.
    ReadWrite,
    /// Scratch memory: uninitialised before the launch, unused afterwards unless passed on as [`Access::Read`], and not
    /// necessarily written completely.
    Scratch,
}

/// A region of device memory that a launch may access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Device address.
    pub ptr: u64,
    /// Length in bytes.
    pub bytes: usize,
    /// Kind of access.
    pub access: Access,
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A device pointer.
    Pointer(Region),
    /// A number or a plain struct, as bytes.
    Value(&'a [u8]),
    /// A tensor that TMA reads, by [`Driver::tensor_map`].
    TensorMap(&'a EncodedMap),
}

/// Launch configuration: grid, block, dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads per block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory per block, in bytes.
    pub shared: u32,
}

impl Spread {
    /// `blocks` blocks of `threads` threads in x, without dynamic shared memory.
    #[must_use]
    pub fn line(blocks: u32, threads: u32) -> Self {
        Spread { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
    }

    /// Enough blocks of `threads` threads for one thread per item; at least one.
    #[must_use]
    pub fn cover(items: usize, threads: u32) -> Self {
        Self::line(items.div_ceil(threads as usize).max(1) as u32, threads)
    }

    /// The same with `bytes` of dynamic shared memory per block.
    #[must_use]
    pub fn with_shared(self, bytes: u32) -> Self {
        Spread { shared: bytes, ..self }
    }
}

/// One launch, as passed to the driver.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Grid and block.
    pub spread: Spread,
    /// The arguments in the order of the kernel's parameters.
    pub args: &'a [Arg<'a>],
    /// Memory the kernel accesses through pointers that are not arguments (pointer tables).
    pub reached: &'a [Region],
}

/// Handle of a loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(pub u64);

/// Handle of an entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub u64);

/// Handle of an event in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub u64);

/// Handle of a captured graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub u64);

/// What an operation needs of a device. All work of one value is submitted to one stream, in order.
///
/// Addresses are plain `u64`, so that an implementation for any CUDA binding is short.
pub trait Driver: Send + Sync {
    /// Name of the device, for display.
    fn name(&self) -> String;

    /// Compute capability, major and minor.
    fn compute_capability(&self) -> (u32, u32);

    /// Where the device is on the bus of its machine: domain, bus and device in hexadecimal, as in `0000:3b:00`.
    fn bus(&self) -> Option<String> {
        None
    }

    /// Makes the device the current one of this thread, for libraries that work on that.
    ///
    /// # Errors
    /// `Driver`.
    fn make_current(&self) -> Result<()> {
        Ok(())
    }

    /// Handle of the stream; 0 where there is none, or for the default stream.
    fn stream(&self) -> u64 {
        0
    }

    /// Allocates `bytes` (above 0) of uninitialised device memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// `OutOfMemory`; `Driver`.
    fn alloc(&self, bytes: usize) -> Result<u64>;

    /// Frees memory of [`Driver::alloc`] once the work submitted so far is done. Called from destructors, so an error cannot be
    /// reported and is ignored.
    fn free(&self, ptr: u64);

    /// Copies `bytes` to the device; they may be dropped when this returns.
    ///
    /// # Errors
    /// `Driver`.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;

    /// Copies `parts` to the device, one after another; they may be dropped when this returns.
    ///
    /// # Errors
    /// `Driver`.
    fn upload_all(&self, to: u64, parts: &[&[u8]]) -> Result<()> {
        let mut at = to;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            self.upload(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Waits for the work submitted so far and copies from the device.
    ///
    /// # Errors
    /// `Driver`, also for an earlier launch that failed.
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()>;

    /// Copies within the device.
    ///
    /// # Errors
    /// `Driver`.
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;

    /// Sets bytes to 0.
    ///
    /// # Errors
    /// `Driver`.
    fn clear(&self, ptr: u64, bytes: usize) -> Result<()>;

    /// Tells the driver that the content of this memory is no longer needed. A checking driver can then detect reads of
    /// it.
    fn forget(&self, ptr: u64, bytes: usize) {
        let _ = (ptr, bytes);
    }

    /// Loads a PTX module.
    ///
    /// # Errors
    /// `Driver` with the driver's log.
    fn load(&self, ptx: &'static str) -> Result<ModuleId>;

    /// Loads a module that is assembled already.
    ///
    /// # Safety
    /// `cubin` is a whole file of ptxas: the driver is not told its length, and reads as far as its tables say.
    ///
    /// # Errors
    /// `Driver` when it is for another architecture or newer than the driver, or this driver takes PTX alone.
    unsafe fn load_cubin(&self, cubin: &[u8]) -> Result<ModuleId> {
        Err(Error::driver(
            "load a cubin",
            format!("{} bytes of machine code: this driver takes PTX alone", cubin.len()),
        ))
    }

    /// An entry point of a module, granted `shared` bytes of dynamic shared memory.
    ///
    /// # Errors
    /// `Driver` when the module has no such entry, or the device not that much shared memory.
    fn function(&self, module: ModuleId, entry: &str, shared: u32) -> Result<FunctionId>;

    /// Encodes a tensor for TMA, on devices of compute capability 9.0 and newer.
    ///
    /// # Errors
    /// `Driver` where the device has no TMA, or the map breaks one of its rules.
    fn tensor_map(&self, map: &TensorMap) -> Result<EncodedMap> {
        let what = format!("{} has no TMA (the tensor is at {:#x})", self.name(), map.ptr);
        Err(ErrorKind::Driver { action: "encode a tensor map", what }.into())
    }

    /// Submits a launch.
    ///
    /// # Safety
    /// The arguments match the entry's parameters, and the kernel accesses only the named regions.
    ///
    /// # Errors
    /// `Driver`.
    unsafe fn launch(&self, function: FunctionId, launch: &Launch) -> Result<()>;

    /// Waits until all work submitted so far is done.
    ///
    /// # Errors
    /// `Driver`, also for an earlier launch that failed.
    fn synchronize(&self) -> Result<()>;

    /// Records an event in the stream.
    ///
    /// # Errors
    /// `Driver`.
    fn record_event(&self) -> Result<EventId>;

    /// Has later work of this stream wait for an event of another stream of the same device.
    ///
    /// # Errors
    /// `Driver`, also where there is one stream only, or a graph is being recorded.
    fn wait_event(&self, event: EventId) -> Result<()> {
        let _ = event;
        Err(Error::driver("wait for an event", "this driver has one stream"))
    }

    /// The same device with another stream. Modules and functions that this value loaded can be launched on it, as long as this
    /// value lives.
    ///
    /// # Errors
    /// `Driver`, also where there is one stream only.
    fn fork(&self) -> Result<Box<dyn Driver>> {
        Err(Error::driver("make a stream", "this driver has one stream"))
    }

    /// Destroys an event of [`Driver::record_event`]. Called from destructors, so an error is ignored.
    fn destroy_event(&self, event: EventId) {
        let _ = event;
    }

    /// Milliseconds between two events; waits for the later one.
    ///
    /// # Errors
    /// `Driver`.
    fn elapsed_ms(&self, from: EventId, to: EventId) -> Result<f32>;

    /// Starts capturing: work submitted from now on is captured and not executed.
    ///
    /// # Errors
    /// `Driver`, also where the stream cannot be captured.
    fn begin_graph(&self) -> Result<()>;

    /// Ends capturing.
    ///
    /// # Errors
    /// `Driver`, also when something was submitted that cannot be captured (allocation, download).
    fn end_graph(&self) -> Result<GraphId>;

    /// Replays a graph once.
    ///
    /// # Errors
    /// `Driver`.
    fn replay(&self, graph: GraphId) -> Result<()>;

    /// Destroys a graph of [`Driver::end_graph`]; a replay that is under way goes on. Called from destructors, so an error is
    /// ignored.
    fn destroy_graph(&self, graph: GraphId) {
        let _ = graph;
    }
}
