//! The one device and its state.

use crate::work::{Event, Stream, Work};
use crate::{INVALID_HANDLE, INVALID_VALUE};
use ptxsim::{Config, Machine, Module};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Arguments;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// A function of a module, and the dynamic shared memory it was granted.
pub struct Function {
    pub module: Arc<Module>,
    pub entry: String,
    pub granted: u32,
}

pub struct Device {
    pub machine: Machine,
    /// Handles are keys of these maps, and are never reused.
    next: usize,
    pub modules: HashMap<usize, Arc<Module>>,
    pub functions: HashMap<usize, Function>,
    pub streams: HashMap<usize, Stream>,
    pub events: HashMap<usize, Event>,
    pub graphs: HashMap<usize, Vec<Work>>,
    /// Device memory: bytes by address.
    pub allocations: BTreeMap<u64, u64>,
    /// Tensor maps that were encoded, and the memory of their tensors: address and bytes.
    pub tensor_maps: HashMap<[u8; 128], (u64, u64)>,
    /// Page-locked memory: bytes by address.
    pub page_locked: BTreeMap<usize, usize>,
    /// Bytes of device memory that are free.
    pub left: u64,
    /// Warp instructions so far.
    pub clock: u64,
    /// Whether work is executed; otherwise it is only logged, and memory has addresses and no content.
    pub executes: bool,
    /// The code of the fault after which every call fails.
    pub fault: Option<i32>,
    log: Option<File>,
}

/// A variable of the environment as a number.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// The compute capability, major and minor.
pub fn capability() -> (i32, i32) {
    let text = std::env::var("SIMCUDA_CAPABILITY").unwrap_or_default();
    let numbers = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    numbers.unwrap_or((8, 0))
}

/// The release of CUDA that the driver is of: 12040 for 12.4.
pub fn release() -> u32 {
    setting("SIMCUDA_VERSION", 12040) as u32
}

/// That of the simulator, which executes for 8.0 and newer.
fn simulated() -> (u32, u32) {
    let (major, minor) = capability();
    if major < 8 { (8, 0) } else { (major as u32, minor as u32) }
}

/// Bytes of shared memory that a block can be granted.
pub fn grantable() -> u32 {
    if simulated() >= (9, 0) { 227 << 10 } else { 163 << 10 }
}

/// Handle of the default stream: null.
pub const DEFAULT_STREAM: usize = 0;

/// The device, to this thread alone.
pub fn device() -> MutexGuard<'static, Device> {
    static DEVICE: OnceLock<Mutex<Device>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| {
        let log = std::env::var_os("SIMCUDA_LOG");
        Mutex::new(Device {
            machine: Machine::new(Config { capability: simulated(), ..Config::default() }),
            next: 0x1000,
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: HashMap::from([(DEFAULT_STREAM, Stream::default())]),
            events: HashMap::new(),
            graphs: HashMap::new(),
            allocations: BTreeMap::new(),
            tensor_maps: HashMap::new(),
            page_locked: BTreeMap::new(),
            left: setting("SIMCUDA_MEMORY", 64 << 30),
            clock: 0,
            executes: setting("SIMCUDA_EXECUTE", 1) != 0,
            fault: None,
            log: log.and_then(|path| File::options().create(true).append(true).open(path).ok()),
        })
    });
    device.lock().unwrap_or_else(|e| e.into_inner())
}

impl Device {
    /// A new handle.
    pub fn handle(&mut self) -> usize {
        self.next += 0x10;
        self.next
    }

    pub fn stream(&mut self, handle: usize) -> Result<&mut Stream, i32> {
        self.streams.get_mut(&handle).ok_or(INVALID_HANDLE)
    }

    pub fn event(&mut self, handle: usize) -> Result<&mut Event, i32> {
        self.events.get_mut(&handle).filter(|event| !event.destroyed).ok_or(INVALID_HANDLE)
    }

    /// Memory, in the simulator if work is executed.
    pub fn allocate(&mut self, bytes: u64) -> Option<u64> {
        if self.executes {
            return self.machine.alloc(bytes).ok();
        }
        let end = self.allocations.last_key_value().map_or(1 << 45, |(at, bytes)| at + bytes);
        Some(end.next_multiple_of(256))
    }

    /// Checks that `bytes` bytes at `at` belong to one allocation.
    pub fn spans(&self, at: u64, bytes: usize) -> Result<(), i32> {
        let within = self.allocations.range(..=at).next_back();
        let fits = within.is_some_and(|(start, length)| at + bytes as u64 <= start + length);
        if fits || bytes == 0 { Ok(()) } else { Err(INVALID_VALUE) }
    }

    /// Whether `bytes` bytes at `at` are page-locked.
    pub fn is_page_locked(&self, at: usize, bytes: usize) -> bool {
        self.page_locked.range(..=at).next_back().is_some_and(|(start, length)| at + bytes <= start + length)
    }

    /// Writes a line to the log.
    pub fn note(&mut self, line: Arguments) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{line}"); // a full disk is not this program's matter
        }
    }
}
