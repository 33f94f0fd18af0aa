//! A driver with a memory pool and a cache of loaded modules.

#[cfg(feature = "testing")]
use super::ModuleId;
use super::modules::{Loaded, LoadedModule};
use super::pool::{Pool, block_for};
use super::{Driver, FunctionId, GraphId, Launch};
use crate::error::{Error, ErrorKind, Result};
use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

/// A GPU and one stream on it. Clones share both; [`Gpu::fork`] makes another stream.
#[derive(Clone)]
pub struct Gpu(pub(super) Arc<Inner>);

pub(super) struct Inner {
    driver: Box<dyn Driver>,
    pool: Mutex<Pool>,
    /// The first stream, of which this one was forked: it has the context and the modules. It goes after `driver`.
    root: Option<Gpu>,
    /// Of the first stream: what all its streams share.
    shared: Shared,
}

/// What the streams of one device share.
#[derive(Default)]
pub(super) struct Shared {
    loaded: Mutex<Loaded>,
    forks: Mutex<Vec<Weak<Inner>>>,
    /// The answer of [`Gpu::once`].
    answer: OnceLock<bool>,
}

/// A captured graph that can be replayed with one launch. See [`Gpu::graph`].
#[derive(Debug)]
pub struct Graph {
    gpu: Gpu,
    id: GraphId,
    /// Memory used only by the graph's own launches.
    used: Vec<Memory>,
}

impl Graph {
    /// Replays the graph once.
    ///
    /// # Errors
    /// `Driver`.
    pub fn replay(&self) -> Result<()> {
        self.gpu.driver().replay(self.id)
    }

    /// Bytes the graph keeps for its launches.
    pub fn bytes(&self) -> usize {
        self.used.iter().map(Memory::bytes).sum()
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.gpu.driver().destroy_graph(self.id);
    }
}

/// Ends capturing when a panic passes, so that the stream works again.
struct Capturing<'a>(Option<&'a Gpu>);

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        if let Some(gpu) = self.0.take() {
            if let Ok(id) = gpu.driver().end_graph() {
                gpu.driver().destroy_graph(id);
            }
            let blocks = gpu.pool().end_capture();
            blocks.into_iter().for_each(|(ptr, block)| gpu.recycle(ptr, block));
        }
    }
}

/// Memory of a [`Gpu`], in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In use now.
    pub live: usize,
    /// Peak of what was in use.
    pub peak: usize,
    /// Allocated from the driver: in use, or free in the pool.
    pub held: usize,
    /// Number of allocations from the driver. It stays constant once training steps repeat.
    pub allocations: u64,
}

impl Gpu {
    /// A GPU on a driver.
    pub fn new(driver: impl Driver + 'static) -> Self {
        Self::of(Box::new(driver), None)
    }

    /// A stream of its own, or one that was forked of `root`.
    pub(super) fn of(driver: Box<dyn Driver>, root: Option<Gpu>) -> Self {
        Gpu(Arc::new(Inner { driver, pool: Mutex::default(), root, shared: Shared::default() }))
    }

    /// The first stream of the device, of which the others were forked.
    pub(super) fn root(&self) -> &Gpu {
        self.0.root.as_ref().unwrap_or(self)
    }

    pub(super) fn forks(&self) -> MutexGuard<'_, Vec<Weak<Inner>>> {
        self.0.shared.forks.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The same, with modules taken from the cubins in `folder` instead of being compiled from PTX by the driver, for all streams of
    /// the device. `cargo xtask cubins` of this project writes such folders. A module that the folder does not have for this device,
    /// or whose cubin the driver refuses (it is older than ptxas, say), is compiled all the same: [`Gpu::modules`] tells which.
    ///
    /// The assembler inside the driver may be of another release than ptxas, and fuse other multiplications and additions, so
    /// results may round differently than without cubins.
    ///
    /// # Safety
    /// The files of the folder are as `cargo xtask cubins` wrote them: they are executed on the device.
    ///
    /// # Errors
    /// `Param` when the device has a folder, or loaded a module; `Io`, `Data` and `Format` when the folder or its list cannot
    /// be read. A cubin of other PTX than the library's, or one that was damaged, is `Format` in the operation that first needs it.
    pub unsafe fn with_cubins(self, folder: impl AsRef<Path>) -> Result<Gpu> {
        self.loaded().take_cubins(folder.as_ref(), self.compute_capability())?;
        Ok(self)
    }

    /// The modules loaded so far on this device, by name.
    #[must_use]
    pub fn modules(&self) -> Vec<LoadedModule> {
        self.loaded().list()
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.driver.name()
    }

    /// Compute capability, major and minor.
    #[must_use]
    pub fn compute_capability(&self) -> (u32, u32) {
        self.0.driver.compute_capability()
    }

    /// Uninitialised memory.
    ///
    /// # Errors
    /// `OutOfMemory` when the device has not that much left, even after all free blocks were returned to it; `Driver`.
    pub fn alloc(&self, bytes: usize) -> Result<Memory> {
        if bytes == 0 {
            return Ok(Memory::borrowed(self.clone(), 0, 0, None));
        }
        let block = block_for(bytes);
        if let Some(ptr) = self.pool().take(block) {
            return Ok(Memory::owned(self.clone(), ptr, bytes, block));
        }
        let ptr = match self.0.driver.alloc(block) {
            Ok(ptr) => ptr,
            Err(e) if matches!(e.kind(), ErrorKind::OutOfMemory { .. }) => {
                self.trim()?;
                self.trim_others();
                self.0.driver.alloc(block).map_err(|e| self.with_usage(e))?
            }
            Err(e) => return Err(e),
        };
        let mut pool = self.pool();
        (pool.held, pool.allocations) = (pool.held + block, pool.allocations + 1);
        pool.used(block);
        Ok(Memory::owned(self.clone(), ptr, bytes, block))
    }

    /// Memory of the caller, who keeps it alive (or `owner` does) and orders accesses to it with this GPU's stream.
    pub(crate) fn borrow(&self, ptr: u64, bytes: usize, owner: Option<Arc<dyn Any + Send + Sync>>) -> Memory {
        Memory::borrowed(self.clone(), ptr, bytes, owner)
    }

    fn with_usage(&self, e: Error) -> Error {
        match e.kind() {
            ErrorKind::OutOfMemory { device, asked, .. } => {
                ErrorKind::OutOfMemory { device: device.clone(), asked: *asked, live: self.usage().live }.into()
            }
            _ => e,
        }
    }

    fn recycle(&self, ptr: u64, block: usize) {
        self.0.driver.forget(ptr, block);
        self.pool().give(ptr, block);
    }

    /// Memory of this stream in use and held.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let p = self.pool();
        Usage { live: p.live, peak: p.peak, held: p.held, allocations: p.allocations }
    }

    /// Returns free blocks to the driver. Graphs captured before must not be replayed afterwards.
    ///
    /// # Errors
    /// `Driver`, also for earlier work that failed.
    pub fn trim(&self) -> Result<()> {
        self.synchronize()?;
        let blocks = self.pool().drain();
        blocks.into_iter().for_each(|ptr| self.0.driver.free(ptr));
        Ok(())
    }

    /// Synchronises: waits until all work submitted so far is done.
    ///
    /// # Errors
    /// `Driver`, also for an earlier launch that failed.
    pub fn synchronize(&self) -> Result<()> {
        self.0.driver.synchronize()
    }

    /// Records the work that `work` submits instead of executing it. Run the same work once before: modules must be loaded
    /// and memory must be available in the pool, because neither is possible while capturing.
    ///
    /// The graph uses the same addresses on every replay. It keeps the temporary memory of `work`; the caller keeps alive what
    /// `work` reads from outside and the results it leaves.
    ///
    /// # Errors
    /// What `work` returns; `Driver` when something in it cannot be captured.
    pub fn graph(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.0.driver.begin_graph()?;
        self.pool().start_capture();
        let mut capturing = Capturing(Some(self));
        let done = work();
        capturing.0 = None;
        let id = self.0.driver.end_graph(); // also after a failure, so that the stream works again
        let blocks = self.pool().end_capture();
        let used = blocks.into_iter().map(|(ptr, block)| Memory::owned(self.clone(), ptr, block, block)).collect();
        done?;
        Ok(Graph { gpu: self.clone(), id: id?, used })
    }

    /// The driver itself, to load and launch other PTX in the same stream.
    ///
    /// # Safety
    /// Addresses passed to it are valid memory of this device for the number of bytes moved, and are not accessed by
    /// others without ordering by its stream; only memory from its [`Driver::alloc`] is freed, once.
    #[must_use]
    pub unsafe fn raw_driver(&self) -> &dyn Driver {
        self.driver()
    }

    pub(crate) fn driver(&self) -> &dyn Driver {
        &*self.0.driver
    }

    /// What `ask` found out about this device when it was first called and did not fail: it launches kernels and waits for
    /// their results, which is impossible while a graph is recorded. The answer is no until then.
    pub(crate) fn once(&self, ask: impl FnOnce() -> Result<bool>) -> bool {
        let answer = &self.root().0.shared.answer;
        if let Some(found) = answer.get() {
            return *found;
        }
        if self.pool().is_capturing() {
            return false;
        }
        // A failure, such as memory that another program has now, says nothing about the device.
        ask().is_ok_and(|found| *answer.get_or_init(|| found))
    }

    /// A tensor for TMA, as a kernel's argument.
    pub(crate) fn tensor_map(&self, map: &super::TensorMap) -> Result<super::Map> {
        map.check()?;
        self.0.driver.tensor_map(map).map(super::Map)
    }

    /// An entry point of the module of this name, which is loaded at first use.
    pub(super) fn function(
        &self,
        module: (&'static str, &'static str),
        entry: &'static str,
        shared: u32,
    ) -> Result<FunctionId> {
        self.loaded().function(self.root().driver(), module, entry, shared)
    }

    /// Loads a module, given by its name and PTX, unless it is loaded.
    #[cfg(feature = "testing")]
    pub(super) fn load(&self, (name, ptx): (&'static str, &'static str)) -> Result<ModuleId> {
        self.loaded().module(self.root().driver(), name, ptx)
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.root().0.shared.loaded.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn launch(&self, function: FunctionId, launch: &Launch) -> Result<()> {
        // SAFETY: kernels are launched through `Kernel`, whose arguments have the types of the entry's parameters (a
        // test compares both), with regions owned by live tensors; that the kernels stay inside them is verified in the
        // simulator.
        unsafe { self.0.driver.launch(function, launch) }
    }

    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let pool = self.pool.get_mut().unwrap_or_else(|e| e.into_inner());
        for ptr in pool.drain() {
            self.driver.free(ptr);
        }
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gpu {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match &self.0.root {
            None => Ok(()),
            Some(_) => write!(f, " (stream {:#x})", self.0.driver.stream()),
        }
    }
}

/// Device memory: an owned block that returns to the pool of its [`Gpu`] when dropped, or a borrowed address of a caller.
pub struct Memory {
    gpu: Gpu,
    ptr: u64,
    bytes: usize,
    /// Size of the underlying block; `None` for memory of a caller.
    block: Option<usize>,
    /// Owner of borrowed memory, where it can be kept.
    _kept: Option<Arc<dyn Any + Send + Sync>>,
    /// Whether it is memory of another stream, which may read it too.
    pub(super) is_lent: bool,
}

impl Memory {
    fn owned(gpu: Gpu, ptr: u64, bytes: usize, block: usize) -> Self {
        Memory { gpu, ptr, bytes, block: Some(block), _kept: None, is_lent: false }
    }

    /// Borrowed memory that outlives this value, or that `owner` keeps alive.
    fn borrowed(gpu: Gpu, ptr: u64, bytes: usize, owner: Option<Arc<dyn Any + Send + Sync>>) -> Self {
        Memory { gpu, ptr, bytes, block: None, _kept: owner, is_lent: false }
    }

    /// The GPU it is on.
    #[must_use]
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Device address; 0 for empty memory.
    #[must_use]
    pub fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it is memory of another stream, which may read it too.
    pub(crate) fn is_lent(&self) -> bool {
        self.is_lent
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(block) = self.block {
            self.gpu.recycle(self.ptr, block);
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}", self.bytes, self.ptr)
    }
}
