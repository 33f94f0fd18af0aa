//! The simulator as a driver: the same PTX that a GPU gets, executed and checked on the CPU.
//!
//! A fault of a kernel is an error of its launch, so a test that unwraps has proven that there is none.

use ptxsim::{Config, Machine, Order, Sums, Swizzled};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock};
use tubelet::driver::{
    Access, Arg, Driver, EncodedMap, EventId, FunctionId, Gpu, GraphId, Launch, ModuleId, TensorMap, TensorWindow,
};
use tubelet::error::{ErrorKind, Result};
use tubelet::tensor::Device;

/// A simulated GPU, with its machine at hand for counters.
pub struct Sim {
    /// As operations see it.
    pub gpu: Gpu,
    /// What executes.
    pub machine: Arc<Machine>,
    /// How often the host has waited.
    pub waits: Arc<AtomicU64>,
}

impl Sim {
    /// One whose warps and blocks run in this order.
    pub fn new(order: Order) -> Sim {
        Self::with_memory(order, usize::MAX)
    }

    /// One with this much memory.
    pub fn with_memory(order: Order, bytes: usize) -> Sim {
        Self::configured(Config { order, ..Config::default() }, bytes)
    }

    /// One whose tensor cores add so.
    pub fn adding(sums: Sums) -> Sim {
        Self::configured(Config { sums, ..Config::default() }, usize::MAX)
    }

    /// One that executes only the last blocks of each launch, on memory that is zero until it is stored to.
    pub fn of_last_blocks(blocks: u64) -> Sim {
        Self::configured(Config { last_blocks: Some(blocks), ..Config::default() }, usize::MAX)
    }

    /// A Hopper, with TMA and wgmma, whose warps and blocks run in this order and whose tensor cores add so.
    pub fn hopper(order: Order, sums: Sums) -> Sim {
        Self::configured(Config { order, sums, capability: (9, 0), ..Config::default() }, usize::MAX)
    }

    /// A Hopper with this much memory.
    pub fn hopper_with_memory(bytes: usize) -> Sim {
        Self::configured(Config { capability: (9, 0), ..Config::default() }, bytes)
    }

    /// A Hopper whose wgmma reads operands in another way than the kernels with halos assume: the pattern of the swizzle begins
    /// where the operand does.
    pub fn reading_by_operand() -> Sim {
        let config = Config { capability: (9, 0), swizzled: Swizzled::ByOperand, ..Config::default() };
        Self::configured(config, usize::MAX)
    }

    fn configured(config: Config, bytes: usize) -> Sim {
        // A mistake on purpose may loop for ever.
        let max_instructions = if crate::device::seeded_faults::seeded() { 1 << 26 } else { config.max_instructions };
        let (order, capability) = (config.order, config.capability);
        let config = Config { max_instructions, registers: REGISTERS.clone(), ..config };
        let machine = Arc::new(Machine::new(config));
        let loaded = Mutex::new(Loaded { left: bytes, ..Loaded::default() });
        let waits = Arc::new(AtomicU64::new(0));
        let driver = SimDriver { machine: machine.clone(), order, capability, loaded, waits: waits.clone() };
        Sim { gpu: Gpu::new(driver), machine, waits }
    }

    /// As a device for tensors.
    pub fn device(&self) -> Device {
        Device::Cuda(self.gpu.clone())
    }
}

/// The GPU that `TUBELET_TEST_DEVICE=cuda:N` names, if the variable is set. All tests share it, one at a time, since graphs are
/// recorded on its stream; its memory is NaN until it is written. Its modules are cubins, if `TUBELET_TEST_CUBINS` names a folder.
fn gpu_of_environment() -> Option<MutexGuard<'static, Gpu>> {
    static GPU: OnceLock<Mutex<Gpu>> = OnceLock::new();
    let name = std::env::var("TUBELET_TEST_DEVICE").ok()?;
    let ordinal = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).expect("TUBELET_TEST_DEVICE is cuda:N");
    let open = || match std::env::var_os("TUBELET_TEST_CUBINS") {
        // SAFETY: who sets the variable names a folder of `cargo xtask cubins`.
        Some(folder) => unsafe { Gpu::cuda_full_of_nan(ordinal)?.with_cubins(folder) },
        None => Gpu::cuda_full_of_nan(ordinal),
    };
    let gpu = GPU.get_or_init(|| Mutex::new(open().unwrap()));
    Some(gpu.lock().unwrap_or_else(|e| e.into_inner()))
}

/// Runs `test` on the device of the environment: both orders of the simulator, or twice on the GPU named by
/// `TUBELET_TEST_DEVICE=cuda:N`. What does not depend on the order must have the same bits in both.
pub fn on_gpu<T: PartialEq + std::fmt::Debug>(mut test: impl FnMut(&Device) -> T) -> T {
    if let Some(gpu) = gpu_of_environment() {
        let device = Device::Cuda(gpu.clone());
        let (first, second) = (test(&device), test(&device));
        assert_eq!(first, second, "the same test has other bits when it is repeated");
        return first;
    }
    let forward = test(&Sim::new(Order::Forward).device());
    let reverse = test(&Sim::new(Order::Reverse).device());
    assert_eq!(forward, reverse, "the result depends on the order of the warps");
    forward
}

/// Runs `test` as [`on_gpu`] does, and in the simulator also with sums of tensor cores that are cut off, whose bits may differ.
pub fn on_tensor_cores<T: PartialEq + std::fmt::Debug>(mut test: impl FnMut(&Device) -> T) -> T {
    if std::env::var_os("TUBELET_TEST_DEVICE").is_none() {
        test(&Sim::adding(Sums::Truncated).device());
    }
    on_gpu(test)
}

/// Runs `test` on the GPU of the environment if that is a Hopper, or else as [`on_tensor_cores`] does on the simulator's
/// Hopper, whose warps also run in a random order: those that copy, multiply and store are ordered by barriers alone.
pub fn on_hopper<T: PartialEq + std::fmt::Debug>(mut test: impl FnMut(&Device) -> T) -> T {
    if gpu_of_environment().is_some_and(|gpu| gpu.compute_capability() == (9, 0)) {
        return on_gpu(test);
    }
    test(&Sim::hopper(Order::Forward, Sums::Truncated).device());
    let forward = test(&Sim::hopper(Order::Forward, Sums::Nearest).device());
    for order in [Order::Reverse, Order::Shuffled(5)] {
        let other = test(&Sim::hopper(order, Sums::Nearest).device());
        assert_eq!(forward, other, "the result depends on the order of the warps: {order:?}");
    }
    forward
}

/// As [`on_hopper`], of which the simulator's runs once, in ascending order: for what takes long and consists of kernels whose
/// other orders have tests of their own.
pub fn once_on_hopper<T>(test: impl FnOnce(&Device) -> T) -> T {
    match gpu_of_environment().filter(|gpu| gpu.compute_capability() == (9, 0)) {
        Some(gpu) => test(&Device::Cuda(gpu.clone())),
        None => test(&Sim::hopper(Order::Forward, Sums::Nearest).device()),
    }
}

/// Registers of a thread of every kernel, from the manifests of the PTX: what NVIDIA's assemblers gave it, at most.
pub static REGISTERS: LazyLock<Arc<BTreeMap<String, u32>>> = LazyLock::new(|| {
    let families = xtask::device::families(crate::root()).unwrap_or_default();
    let manifests = families.iter().filter_map(|name| xtask::device::read_manifest(crate::root(), name).ok());
    Arc::new(manifests.flat_map(|manifest| manifest.registers).collect())
});

struct SimDriver {
    machine: Arc<Machine>,
    order: Order,
    capability: (u32, u32),
    loaded: Mutex<Loaded>,
    waits: Arc<AtomicU64>,
}

#[derive(Default)]
struct Loaded {
    modules: Vec<Arc<ptxsim::Module>>,
    functions: Vec<(usize, String)>,
    graphs: Vec<Vec<Recorded>>,
    recording: Option<Vec<Recorded>>,
    events: u64,
    /// Bytes not given out, and those that were by their address.
    left: usize,
    given: HashMap<u64, usize>,
}

/// Work noted in a graph.
#[derive(Clone)]
enum Recorded {
    Launch { function: FunctionId, spread: tubelet::driver::Spread, args: Vec<Held>, reached: Vec<ptxsim::Region> },
    Copy { to: u64, from: u64, bytes: usize },
    Clear { at: u64, bytes: usize },
}

#[derive(Clone)]
enum Held {
    Pointer(ptxsim::Region),
    Value(Vec<u8>),
    TensorMap(EncodedMap),
}

fn region(r: &tubelet::driver::Region) -> ptxsim::Region {
    let access = match r.access {
        Access::Read => ptxsim::Access::Read,
        Access::Write => ptxsim::Access::Write,
        Access::ReadWrite => ptxsim::Access::ReadWrite,
        Access::Scratch => ptxsim::Access::Scratch,
    };
    ptxsim::Region { ptr: r.ptr, bytes: r.bytes as u64, access }
}

fn refused(action: &'static str) -> impl FnOnce(ptxsim::Fault) -> tubelet::error::Error {
    move |fault| ErrorKind::Driver { action, what: fault.to_string() }.into()
}

impl SimDriver {
    fn loaded(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Notes `work` where a graph is being recorded, else does it.
    fn give(&self, work: Recorded) -> Result<()> {
        if let Some(recording) = &mut self.loaded().recording {
            recording.push(work);
            return Ok(());
        }
        self.perform(&work)
    }

    fn perform(&self, work: &Recorded) -> Result<()> {
        match work {
            Recorded::Copy { to, from, bytes } => self.machine.copy(*to, *from, *bytes as u64).map_err(refused("copy")),
            Recorded::Clear { at, bytes } => self.machine.fill(*at, 0, *bytes as u64).map_err(refused("clear memory")),
            Recorded::Launch { function, spread, args, reached } => {
                let (module, entry) = {
                    let loaded = self.loaded();
                    let (module, entry) = &loaded.functions[function.0 as usize];
                    (loaded.modules[*module].clone(), entry.clone())
                };
                let params: Vec<ptxsim::Param> = args
                    .iter()
                    .map(|arg| match arg {
                        Held::Pointer(region) => ptxsim::Param::Pointer(*region),
                        Held::Value(bytes) => ptxsim::Param::Bytes(bytes),
                        Held::TensorMap(map) => ptxsim::Param::TensorMap(&map.bytes, region(&map.region)),
                    })
                    .collect();
                let launch = ptxsim::Launch {
                    grid: spread.grid,
                    block: spread.block,
                    shared: spread.shared,
                    params: &params,
                    extra: reached,
                };
                self.machine.launch(&module, &entry, &launch).map_err(refused("launch a kernel"))?;
                crate::device::coverage::note(&entry, self.order);
                Ok(())
            }
        }
    }
}

impl Driver for SimDriver {
    fn name(&self) -> String {
        "the simulator".into()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.capability
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        if self.loaded().recording.is_some() {
            let what = "memory was asked for while a graph is recorded".into();
            return Err(ErrorKind::Driver { action: "allocate", what }.into());
        }
        let mut loaded = self.loaded();
        let Some(left) = loaded.left.checked_sub(bytes) else {
            return Err(ErrorKind::OutOfMemory { device: self.name(), asked: bytes, live: 0 }.into());
        };
        let ptr = self.machine.alloc(bytes as u64).map_err(refused("allocate"))?;
        loaded.left = left;
        loaded.given.insert(ptr, bytes);
        Ok(ptr)
    }

    fn free(&self, ptr: u64) {
        self.machine.free(ptr).expect("what is freed was allocated");
        let mut loaded = self.loaded();
        loaded.left += loaded.given.remove(&ptr).expect("it was given out");
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        if self.loaded().recording.is_some() {
            let what = "an upload in a graph would repeat today's bytes".into();
            return Err(ErrorKind::Driver { action: "upload", what }.into());
        }
        self.machine.write(to, bytes).map_err(refused("upload"))
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        if self.loaded().recording.is_some() {
            let what = "a download waits, and a graph being recorded does nothing".into();
            return Err(ErrorKind::Driver { action: "download", what }.into());
        }
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.machine.read(from, bytes).map_err(refused("download"))
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.give(Recorded::Copy { to, from, bytes })
    }

    fn clear(&self, ptr: u64, bytes: usize) -> Result<()> {
        self.give(Recorded::Clear { at: ptr, bytes })
    }

    fn forget(&self, ptr: u64, bytes: usize) {
        // While a graph is recorded its launches have not happened yet: they name what they overwrite themselves.
        if self.loaded().recording.is_none() {
            self.machine.forget(ptr, bytes as u64).expect("what is forgotten was allocated");
        }
    }

    fn load(&self, ptx: &'static str) -> Result<ModuleId> {
        let module = self
            .machine
            .load(&crate::device::seeded_faults::edited(ptx))
            .map_err(|e| ErrorKind::Driver { action: "load a module", what: e.to_string() })?;
        let mut loaded = self.loaded();
        loaded.modules.push(module);
        Ok(ModuleId(loaded.modules.len() as u64 - 1))
    }

    fn function(&self, module: ModuleId, entry: &str, shared: u32) -> Result<FunctionId> {
        let mut loaded = self.loaded();
        // As the CUDA driver: where the launch's own memory does not exceed the default, nothing is asked for.
        if shared > 48 << 10 {
            let granted = self.machine.grant_shared(&loaded.modules[module.0 as usize], entry, shared);
            granted.map_err(refused("give a kernel its shared memory"))?;
        }
        loaded.functions.push((module.0 as usize, entry.to_owned()));
        Ok(FunctionId(loaded.functions.len() as u64 - 1))
    }

    fn tensor_map(&self, map: &TensorMap) -> Result<EncodedMap> {
        let (window, steps) = match &map.window {
            TensorWindow::Tiled(extent) | TensorWindow::Words(extent) => {
                (ptxsim::Window::Tiled { extent: extent.clone() }, vec![1; map.extents.len()])
            }
            TensorWindow::Im2col { lower, upper, strides: [w, h, t], channels, pixels } => {
                let (lower, upper) = (lower.to_vec(), upper.to_vec());
                (ptxsim::Window::Im2col { lower, upper, channels: *channels, pixels: *pixels }, vec![1, *w, *h, *t, 1])
            }
        };
        let (element, swizzle) = match map.window {
            TensorWindow::Words(_) => (ptxsim::Element::U64, ptxsim::Swizzle::None),
            _ => (ptxsim::Element::Bf16, ptxsim::Swizzle::B128),
        };
        let encoded = self.machine.tensor_map(&ptxsim::TensorMap {
            element,
            address: map.ptr,
            extents: map.extents.clone(),
            strides: map.strides(),
            window,
            steps,
            swizzle,
            fill: ptxsim::Fill::Zero,
        });
        let region = tubelet::driver::Region { ptr: map.ptr, bytes: map.bytes(), access: Access::Read };
        Ok(EncodedMap { bytes: encoded.map_err(refused("encode a tensor map"))?, region })
    }

    unsafe fn launch(&self, function: FunctionId, launch: &Launch) -> Result<()> {
        let args = launch.args.iter().map(|arg| match arg {
            Arg::Pointer(r) => Held::Pointer(region(r)),
            Arg::Value(bytes) => Held::Value(bytes.to_vec()),
            Arg::TensorMap(map) => Held::TensorMap(**map),
        });
        let reached = launch.reached.iter().map(region).collect();
        self.give(Recorded::Launch { function, spread: launch.spread, args: args.collect(), reached })
    }

    fn synchronize(&self) -> Result<()> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn record_event(&self) -> Result<EventId> {
        let mut loaded = self.loaded();
        loaded.events += 1;
        Ok(EventId(loaded.events))
    }

    fn elapsed_ms(&self, from: EventId, to: EventId) -> Result<f32> {
        Ok((to.0 - from.0) as f32) // the simulator has no clock
    }

    fn begin_graph(&self) -> Result<()> {
        self.loaded().recording = Some(Vec::new());
        Ok(())
    }

    fn end_graph(&self) -> Result<GraphId> {
        let mut loaded = self.loaded();
        let recorded = loaded.recording.take().expect("recording was started");
        loaded.graphs.push(recorded);
        Ok(GraphId(loaded.graphs.len() as u64 - 1))
    }

    fn replay(&self, graph: GraphId) -> Result<()> {
        let work = self.loaded().graphs[graph.0 as usize].clone();
        work.iter().try_for_each(|work| self.perform(work))
    }
}
