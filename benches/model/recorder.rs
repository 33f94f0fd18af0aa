//! A driver that computes nothing and records every launch, so that the model follows the code: what a training step
//! launches is found by running that step. Addresses have no memory behind them.

use super::ptx::{self, Kernel};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tubelet::driver::{
    Access, Arg, Driver, EncodedMap, EventId, FunctionId, Gpu, GraphId, Launch as Submitted, ModuleId, Region, Spread,
    TensorMap,
};
use tubelet::error::{ErrorKind, Result};
use tubelet::tensor::Device;

/// One launch, or a copy or clearing of memory, which has no kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel's entry, `copy` or `clear`.
    pub name: String,
    /// What its PTX says.
    pub kernel: Option<Arc<Kernel>>,
    /// Grid, block and dynamic shared memory.
    pub spread: Spread,
    /// Memory it may access, in the order of its arguments; absent optional arguments have 0 bytes.
    pub regions: Vec<Region>,
    /// Its arguments that are not pointers, as bytes.
    pub values: Vec<Vec<u8>>,
}

/// The launches recorded so far.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Launch>>>);

impl Log {
    /// Removes and returns them.
    #[must_use]
    pub fn take(&self) -> Vec<Launch> {
        std::mem::take(&mut *locked(&self.0))
    }
}

/// A device that records, and its log.
#[must_use]
pub fn device() -> (Device, Log) {
    let log = Log::default();
    let recorder = Recorder { log: log.clone(), state: Mutex::default() };
    (Device::Cuda(Gpu::new(recorder)), log)
}

struct Recorder {
    log: Log,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The end of what was allocated; nothing is reused, addresses are 64 bits long.
    end: u64,
    modules: Vec<&'static str>,
    functions: Vec<Arc<Kernel>>,
    /// Kernels by module and entry, so that a module is parsed once.
    parsed: BTreeMap<u64, BTreeMap<String, Arc<Kernel>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn unable<T>(action: &'static str, what: &str) -> Result<T> {
    Err(ErrorKind::Driver { action, what: what.to_owned() }.into())
}

impl Recorder {
    fn note(&self, name: &str, regions: Vec<Region>) {
        let launch =
            Launch { name: name.to_owned(), kernel: None, spread: Spread::line(1, 1), regions, values: Vec::new() };
        locked(&self.log.0).push(launch);
    }
}

impl Driver for Recorder {
    fn name(&self) -> String {
        "a recorder of launches".to_owned()
    }

    fn compute_capability(&self) -> (u32, u32) {
        (9, 0)
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let mut state = locked(&self.state);
        let at = state.end.max(1 << 20);
        state.end = at + (bytes as u64).next_multiple_of(256);
        Ok(at)
    }

    fn free(&self, _: u64) {}

    fn upload(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Zeros: a loss of 0 is finite, and 0 is a valid index.
    fn download(&self, _: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let region = |ptr, access| Region { ptr, bytes, access };
        self.note("copy", vec![region(from, Access::Read), region(to, Access::Write)]);
        Ok(())
    }

    fn clear(&self, ptr: u64, bytes: usize) -> Result<()> {
        self.note("clear", vec![Region { ptr, bytes, access: Access::Write }]);
        Ok(())
    }

    fn load(&self, ptx: &'static str) -> Result<ModuleId> {
        let mut state = locked(&self.state);
        state.modules.push(ptx);
        Ok(ModuleId(state.modules.len() as u64 - 1))
    }

    fn function(&self, module: ModuleId, entry: &str, _: u32) -> Result<FunctionId> {
        let state = &mut *locked(&self.state);
        let source = state.modules[module.0 as usize];
        let kernels = state.parsed.entry(module.0).or_insert_with(|| {
            ptx::parse(source).into_iter().map(|kernel| (kernel.name.clone(), Arc::new(kernel))).collect()
        });
        let Some(kernel) = kernels.get(entry) else { return unable("find a kernel", entry) };
        state.functions.push(kernel.clone());
        Ok(FunctionId(state.functions.len() as u64 - 1))
    }

    fn tensor_map(&self, map: &TensorMap) -> Result<EncodedMap> {
        let region = Region { ptr: map.ptr, bytes: map.bytes(), access: Access::Read };
        Ok(EncodedMap { bytes: [0; 128], region })
    }

    unsafe fn launch(&self, function: FunctionId, launch: &Submitted) -> Result<()> {
        let kernel = locked(&self.state).functions[function.0 as usize].clone();
        // Launched once for a device, in no step but the first: it finds out whether the device can have kernels with halos.
        // The zeros of `download` say yes.
        if kernel.name == "conv3d_rows_sm90_bf16" {
            return Ok(());
        }
        let mut recorded = Launch {
            name: kernel.name.clone(),
            kernel: Some(kernel),
            spread: launch.spread,
            regions: Vec::new(),
            values: Vec::new(),
        };
        for arg in launch.args {
            match arg {
                Arg::Pointer(region) => recorded.regions.push(*region),
                Arg::Value(bytes) => recorded.values.push(bytes.to_vec()),
                Arg::TensorMap(map) => recorded.regions.push(map.region),
            }
        }
        recorded.regions.extend(launch.reached);
        locked(&self.log.0).push(recorded);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn record_event(&self) -> Result<EventId> {
        Ok(EventId(0))
    }

    fn elapsed_ms(&self, _: EventId, _: EventId) -> Result<f32> {
        unable("measure a time", "nothing is executed")
    }

    fn begin_graph(&self) -> Result<()> {
        unable("capture a graph", "launches are recorded one by one")
    }

    fn end_graph(&self) -> Result<GraphId> {
        unable("capture a graph", "launches are recorded one by one")
    }

    fn replay(&self, _: GraphId) -> Result<()> {
        unable("replay a graph", "launches are recorded one by one")
    }
}
