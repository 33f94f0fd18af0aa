//! The simulated device: its memory, loaded modules, and counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::counters::Counters;
use crate::device;
use crate::exec::{self, Job, Region as Seen, Tags};
use crate::fault::{Fault, ParseError, Site};
use crate::memory::Buffer;
use crate::module::Module;
use crate::tensor_map::TensorMap;
use crate::types::Space;

/// The order in which blocks, and the warps of a block, run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first block and warp first.
    Forward,
    /// The last block and warp first; also lanes of atomic operations.
    Reverse,
    /// In a random order, from a seed.
    Shuffled(u64),
}

/// How the tensor cores add products to an f32 accumulator. NVIDIA does not specify it; PTX promises at least f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sums {
    /// One product after another, each sum rounded to the nearest f32.
    Nearest,
    /// As measured on an A100 (Fasi, Higham, Mikaitis and Pranesh, PeerJ Computer Science 7:e330, 2021): the accumulator and
    /// eight products (four of tf32) are aligned to the largest exponent among them, cut off behind the f32 significand and
    /// one more bit, added exactly, and cut off to f32. More bits were seen on later devices, whose errors are smaller.
    Truncated,
}

/// Where the swizzle of an operand of `wgmma` in shared memory has its origin. PTX does not say it of operands that begin within
/// a pattern (of 1024 bytes for the 128-byte swizzle).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzled {
    /// A chunk is placed by its address, as the copy that wrote it has placed it.
    ByAddress,
    /// The pattern begins with the row at which the operand begins.
    ByOperand,
}

/// How a machine runs launches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Order of blocks and warps.
    pub order: Order,
    /// Host threads; 0 for all cores.
    pub threads: usize,
    /// Warp instructions of a launch before it counts as an endless loop.
    pub max_instructions: u64,
    /// Whether to detect races in shared and global memory.
    pub races: bool,
    /// How `mma.sync` adds.
    pub sums: Sums,
    /// How `wgmma` reads operands from shared memory.
    pub swizzled: Swizzled,
    /// Compute capability, 8.0 or newer: how much shared memory a block may be granted.
    pub capability: (u32, u32),
    /// Registers of a thread by entry, as an assembler reports them; a launch of another entry is not checked for them.
    pub registers: Arc<BTreeMap<String, u32>>,
    /// Executes only the last so many blocks of each launch, for tensors that are too large to compute. Then all memory is zero
    /// until something else is stored, takes space on the host only where it is stored to, and is never uninitialised.
    pub last_blocks: Option<u64>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            order: Order::Forward,
            threads: 0,
            max_instructions: 1 << 34,
            races: true,
            sums: Sums::Nearest,
            swizzled: Swizzled::ByAddress,
            capability: (8, 0),
            registers: Arc::default(),
            last_blocks: None,
        }
    }
}

/// How a launch may access a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only.
    Read,
    /// Uninitialised before the launch; every byte must be written by it.
    Write,
    /// Loads and stores.
    ReadWrite,
    /// Uninitialised before the launch, and discarded after it.
    Scratch,
}

/// Device memory that a launch may access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first address.
    pub ptr: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// How it may be accessed.
    pub access: Access,
}

/// A parameter of a launch.
#[derive(Clone, Copy, Debug)]
pub enum Param<'a> {
    /// A pointer, and the memory accessed through it.
    Pointer(Region),
    /// A scalar or a structure, as bytes.
    Bytes(&'a [u8]),
    /// A tensor map (`__grid_constant__ const CUtensorMap`) from [`Machine::tensor_map`], and the memory that may be accessed
    /// through it.
    TensorMap(&'a [u8; 128], Region),
}

impl Param<'_> {
    /// The memory accessed through the parameter.
    pub(crate) fn region(&self) -> Option<&Region> {
        match self {
            Param::Pointer(r) | Param::TensorMap(_, r) => Some(r),
            Param::Bytes(_) => None,
        }
    }
}

/// The arguments of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Blocks of the grid.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// One per parameter of the entry.
    pub params: &'a [Param<'a>],
    /// Memory that is accessed in other ways than through a parameter, such as through tables of pointers. Regions that
    /// are stored to must not overlap others, here or among the parameters.
    pub extra: &'a [Region],
}

#[derive(Default)]
struct State {
    order: Option<Order>,
    /// Whether memory is zero until it is stored to, instead of uninitialised.
    zeroed: bool,
    allocations: Vec<Option<Arc<Buffer>>>,
    totals: BTreeMap<String, Counters>,
}

/// A simulated device.
pub struct Machine {
    config: Config,
    state: Mutex<State>,
}

/// The first address of the first allocation, and the distance between allocations.
const BASE: u64 = 1 << 44;
const STRIDE: u64 = 1 << 34;

impl State {
    fn place(&mut self, bytes: u64) -> Arc<Buffer> {
        // Addresses are not reused, so that a use after `free` is always a fault.
        let base = BASE + self.allocations.len() as u64 * STRIDE;
        let buffer = Arc::new(Buffer::new(base, bytes, self.zeroed));
        self.allocations.push(Some(buffer.clone()));
        buffer
    }

    fn find(&self, ptr: u64, n: u64) -> Result<(&Arc<Buffer>, u64), Fault> {
        let fault = |m: String| {
            let site = Site { address: Some(ptr), detail: m, ..Site::default() };
            Err(Fault::OutOfBounds(Space::Global, Box::new(site)))
        };
        let i = ptr.wrapping_sub(BASE) / STRIDE;
        let slot = if ptr < BASE { None } else { self.allocations.get(i as usize) };
        match slot {
            Some(Some(b)) => {
                let off = ptr - b.base();
                if off.checked_add(n).is_none_or(|e| e > b.len()) {
                    return fault(format!("{n} bytes at offset {off} of an allocation of {} bytes", b.len()));
                }
                Ok((b, off))
            }
            Some(None) => fault("the allocation was freed".into()),
            None => fault("there is no allocation".into()),
        }
    }
}

impl Machine {
    /// A device with empty memory.
    pub fn new(config: Config) -> Machine {
        let state = State { zeroed: config.last_blocks.is_some(), ..State::default() };
        Machine { config, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Changes the order of subsequent launches.
    pub fn set_order(&self, order: Order) {
        self.lock().order = Some(order);
    }

    /// Allocates memory, aligned to 256 bytes and far from all other; it is uninitialised.
    pub fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        if bytes > STRIDE / 2 {
            return Err(Fault::Host(format!("an allocation of {bytes} bytes")));
        }
        Ok(self.lock().place(bytes).base())
    }

    /// Frees memory. Its addresses are not reused.
    pub fn free(&self, ptr: u64) -> Result<(), Fault> {
        let mut s = self.lock();
        let (b, off) = s.find(ptr, 0)?;
        if off != 0 {
            return Err(Fault::Host(format!("{ptr:#x} is not the beginning of the allocation at {:#x}", b.base())));
        }
        s.allocations[((ptr - BASE) / STRIDE) as usize] = None;
        Ok(())
    }

    /// Writes memory.
    pub fn write(&self, ptr: u64, bytes: &[u8]) -> Result<(), Fault> {
        let s = self.lock();
        let (b, off) = s.find(ptr, bytes.len() as u64)?;
        b.write(off, bytes);
        Ok(())
    }

    /// Reads memory. Uninitialised bytes are a fault.
    pub fn read(&self, ptr: u64, out: &mut [u8]) -> Result<(), Fault> {
        let s = self.lock();
        let n = out.len() as u64;
        let (b, off) = s.find(ptr, n)?;
        if let Some(at) = b.first_unwritten(off, n) {
            let m = format!("byte {} of {n} was never written", at - off);
            let site = Site { address: Some(b.base() + at), detail: m, ..Site::default() };
            return Err(Fault::Uninitialised(Space::Global, Box::new(site)));
        }
        b.read(off, out);
        Ok(())
    }

    /// Sets `n` bytes.
    pub fn fill(&self, ptr: u64, byte: u8, n: u64) -> Result<(), Fault> {
        let s = self.lock();
        let (b, off) = s.find(ptr, n)?;
        b.fill(off, byte, n);
        Ok(())
    }

    /// Copies `n` bytes, including whether they are initialised.
    pub fn copy(&self, dst: u64, src: u64, n: u64) -> Result<(), Fault> {
        let s = self.lock();
        let (from, from_off) = s.find(src, n)?;
        let (to, off) = s.find(dst, n)?;
        to.copy(off, from, from_off, n);
        Ok(())
    }

    /// Marks `n` bytes as uninitialised.
    pub fn forget(&self, ptr: u64, n: u64) -> Result<(), Fault> {
        let s = self.lock();
        let (b, off) = s.find(ptr, n)?;
        b.mark(off, n, 0);
        Ok(())
    }

    /// Parses and checks a file of PTX.
    pub fn load(&self, ptx: &str) -> Result<Arc<Module>, ParseError> {
        let mut s = self.lock();
        crate::decode::load(ptx, |bytes| s.place(bytes)).map(Arc::new)
    }

    /// The 128 bytes of a tensor map, after checking the limits that `cuda.h` states for `cuTensorMapEncodeTiled` and
    /// `cuTensorMapEncodeIm2col`. The bytes are opaque.
    pub fn tensor_map(&self, map: &TensorMap) -> Result<[u8; 128], Fault> {
        map.encode()
    }

    /// Grants an entry dynamic shared memory, as `cuFuncSetAttribute` does. A block that has more than 48 KiB, static and
    /// dynamic, is refused without.
    pub fn grant_shared(&self, m: &Module, entry: &str, bytes: u32) -> Result<(), Fault> {
        let e = m.entry(entry).ok_or_else(|| Fault::Launch(format!("there is no entry `{entry}`")))?;
        device::grant(&self.config, e, bytes)
    }

    /// The counters of every entry so far.
    pub fn totals(&self) -> BTreeMap<String, Counters> {
        self.lock().totals.clone()
    }

    /// Runs a kernel to completion, in clusters of the size that its text requires, or of single blocks.
    pub fn launch(&self, m: &Module, entry: &str, l: &Launch) -> Result<Counters, Fault> {
        let cluster = m.entry(entry).and_then(|e| e.cluster()).unwrap_or([1; 3]);
        self.launch_cluster(m, entry, l, cluster)
    }

    /// Runs a kernel in clusters of blocks, as the launch attribute `CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION` says.
    pub fn launch_cluster(&self, m: &Module, entry: &str, l: &Launch, cluster: [u32; 3]) -> Result<Counters, Fault> {
        let e = m.entry(entry).ok_or_else(|| Fault::Launch(format!("there is no entry `{entry}`")))?;
        device::clusters(&self.config, e, l, cluster)?;
        let mut state = self.lock();
        device::check(&self.config, m, e, l)?;
        let params = device::pack(e, l.params)?;
        let order = state.order.unwrap_or(self.config.order);
        let blocks = l.grid.iter().map(|&g| g as u64).product::<u64>();
        let races = self.config.races;
        let mut regions = Vec::new();
        let pointers = l.params.iter().filter_map(Param::region);
        for r in pointers.chain(l.extra).filter(|r| r.bytes > 0) {
            let (b, off) = state.find(r.ptr, r.bytes)?;
            if matches!(r.access, Access::Write | Access::Scratch) {
                b.mark(off, r.bytes, 0);
            }
            regions.push((r.ptr, r.bytes, r.access, b.clone()));
        }
        for (b, writable) in &m.variables {
            let access = if *writable { Access::ReadWrite } else { Access::Read };
            regions.push((b.base(), b.len(), access, b.clone()));
        }
        let regions = regions.into_iter().map(|(lo, bytes, access, buffer)| {
            let off = lo - buffer.base();
            let full = access == Access::Read && buffer.first_unwritten(off, bytes).is_none();
            let tags = (access != Access::Read && races && blocks > 1).then(|| Tags::new(bytes, e.granule[0]));
            Seen { lo, hi: lo + bytes, access, buffer, full, tags }
        });
        let job = Job {
            entry: e,
            grid: l.grid,
            block: l.block,
            dynamic: l.shared,
            params,
            regions: regions.collect(),
            races,
            order,
            sums: self.config.sums,
            swizzled: self.config.swizzled,
            cluster,
            registers: device::registers_per_thread(&self.config, e, l),
            first: blocks.saturating_sub(self.config.last_blocks.unwrap_or(blocks)),
            limit: self.config.max_instructions,
            used: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        let threads = match self.config.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let counters = exec::run(&job, threads)?;
        for r in job.regions.iter().filter(|r| r.access == Access::Write) {
            let off = r.lo - r.buffer.base();
            if let Some(at) = r.buffer.first_unwritten(off, r.hi - r.lo) {
                let detail = format!("byte {} of {}", at - off, r.hi - r.lo);
                let site = Site {
                    entry: e.name.clone(),
                    line: e.line,
                    address: Some(r.buffer.base() + at),
                    detail,
                    ..Site::default()
                };
                return Err(Fault::NotWritten(Box::new(site)));
            }
        }
        state.totals.entry(e.name.clone()).or_default().add(&counters);
        Ok(counters)
    }
}
