//! The seam between operations and a GPU: what an operation needs of a device, and nothing more.
//!
//! [`Driver`] is implemented by the CUDA driver behind the feature `cuda` (found at run time, no toolkit, no link) and, in
//! this project's tests, by a simulator that executes the very same PTX on the CPU. [`Gpu`] is a driver with what every
//! user of one needs: recycled memory, modules loaded once, and typed kernels (`Kernel`).
//!
//! ```
//! use tubelet::tensor::{Device, Tensor};
//! let (device, reason) = Device::auto(); // the first GPU, or the CPU and why
//! let x = Tensor::full([3], 2.0).to(&device)?;
//! let y = tubelet::ops::arith::apply_scale(&x, 0.5)?; // computed where x is
//! assert_eq!(y.load()?[..], [1.0; 3]);
//! if let Device::Cuda(gpu) = &device {
//!     println!("{}: at most {} bytes were in use", gpu.name(), gpu.usage().peak);
//! }
//! # Ok::<(), tubelet::error::Error>(())
//! ```
//!
//! Work is ordered: everything given to one [`Gpu`] happens in the order it was given, on one stream.

#[cfg(feature = "cuda")]
mod cuda;
mod gpu;
mod kernel;
mod memory;

pub use gpu::{Gpu, Graph, Usage};
pub use kernel::{Declared, Parameter};
pub(crate) use kernel::{In, InOut, Kernel, Module, Out, Pod, Scratch};
pub use memory::Memory;

use crate::error::Result;

/// What a launch does with a span of device memory. The simulator holds the kernel to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only loads.
    Read,
    /// Every byte is stored; what was there before is never loaded.
    Write,
    /// Loads and stores of content that was there before.
    ReadWrite,
    /// Space for the launch's own use: content arbitrary before, not looked at after unless handed on as
    /// [`Access::Read`], and not necessarily written whole.
    Scratch,
}

/// A span of device memory that a launch may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Device address.
    pub ptr: u64,
    /// Length in bytes.
    pub bytes: usize,
    /// What the launch does with it.
    pub access: Access,
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A device pointer.
    Pointer(Region),
    /// A number or a plain struct, by its bytes.
    Value(&'a [u8]),
}

/// How a kernel is spread: blocks, threads of a block, dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared: u32,
}

impl Spread {
    /// `blocks` blocks of `threads` threads along x, without dynamic shared memory.
    pub fn line(blocks: u32, threads: u32) -> Self {
        Spread { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
    }

    /// As many blocks of `threads` threads as cover `items` items one by one; at least one.
    pub fn cover(items: usize, threads: u32) -> Self {
        Self::line(items.div_ceil(threads as usize).max(1) as u32, threads)
    }

    /// The same with `bytes` of dynamic shared memory a block.
    pub fn with_shared(self, bytes: u32) -> Self {
        Spread { shared: bytes, ..self }
    }
}

/// One launch: everything the driver is told.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Blocks and threads.
    pub spread: Spread,
    /// The arguments in the order of the kernel's parameters.
    pub args: &'a [Arg<'a>],
    /// Memory the kernel reaches through pointers that are not arguments (tables of pointers).
    pub reached: &'a [Region],
}

/// A loaded module, as its driver numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(pub u64);

/// An entry point of a module, as its driver numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub u64);

/// A point in the order of work, as its driver numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub u64);

/// A recorded sequence of launches that can be repeated, as its driver numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub u64);

/// What an operation needs of a device. All work goes into one stream, in order.
///
/// Addresses are plain `u64`, so implementations for any binding of the CUDA driver are short.
pub trait Driver: Send + Sync {
    /// The device's name, for people.
    fn name(&self) -> String;

    /// Compute capability, major and minor.
    fn compute_capability(&self) -> (u32, u32);

    /// `bytes` (above 0) of device memory, aligned to 256 bytes, of arbitrary content.
    ///
    /// # Errors
    /// `OutOfMemory`; `Driver`.
    fn alloc(&self, bytes: usize) -> Result<u64>;

    /// Gives memory of [`Driver::alloc`] back once the work given so far is done. Called from destructors, so a failure
    /// has nobody to tell and is dropped.
    fn free(&self, ptr: u64);

    /// Copies `bytes` to the device; they may be dropped when this returns.
    ///
    /// # Errors
    /// `Driver`.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;

    /// Waits for the work given so far and copies from the device.
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

    /// Told that the content of this memory is of no further use, which lets a checking driver notice who reads it all
    /// the same.
    fn forget(&self, ptr: u64, bytes: usize) {
        let _ = (ptr, bytes);
    }

    /// Loads a module of PTX.
    ///
    /// # Errors
    /// `Driver` with the driver's log.
    fn load(&self, ptx: &'static str) -> Result<ModuleId>;

    /// An entry point of a module, allowed `shared` bytes of dynamic shared memory from now on.
    ///
    /// # Errors
    /// `Driver` when the module has no such entry, or the device not that much shared memory.
    fn function(&self, module: ModuleId, entry: &str, shared: u32) -> Result<FunctionId>;

    /// Appends a launch to the work.
    ///
    /// # Safety
    /// The arguments fit the entry's parameters, and the kernel touches only the regions named.
    ///
    /// # Errors
    /// `Driver`.
    unsafe fn launch(&self, function: FunctionId, launch: &Launch) -> Result<()>;

    /// Waits until everything given so far is done.
    ///
    /// # Errors
    /// `Driver`, also for an earlier launch that failed.
    fn synchronize(&self) -> Result<()>;

    /// Marks this point in the order of work.
    ///
    /// # Errors
    /// `Driver`.
    fn record(&self) -> Result<EventId>;

    /// Milliseconds between two marks; waits for the later one.
    ///
    /// # Errors
    /// `Driver`.
    fn elapsed_ms(&self, from: EventId, to: EventId) -> Result<f32>;

    /// Starts recording: what is given from now on is noted, not done.
    ///
    /// # Errors
    /// `Driver`, also where the stream cannot be recorded.
    fn begin_graph(&self) -> Result<()>;

    /// Ends recording.
    ///
    /// # Errors
    /// `Driver`, also when something was given meanwhile that cannot be recorded (allocation, download).
    fn end_graph(&self) -> Result<GraphId>;

    /// Does everything a graph holds, once more.
    ///
    /// # Errors
    /// `Driver`.
    fn replay(&self, graph: GraphId) -> Result<()>;
}
