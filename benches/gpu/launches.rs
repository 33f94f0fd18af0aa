//! The time of every kernel of a training step: an event before and after each launch, on a driver that passes everything on to
//! the GPU's own. Events take part of a microsecond each, so the sum is more than the step takes.

use super::methods::METHODS;
use super::record::Record;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tubelet::driver::{Driver, EncodedMap, EventId, FunctionId, Gpu, GraphId, Launch, ModuleId, TensorMap};
use tubelet::error::Result;
use tubelet::tensor::Device;

/// What was launched.
#[derive(Default)]
struct Log {
    names: HashMap<FunctionId, String>,
    /// Whether launches are timed.
    on: bool,
    spans: Vec<(FunctionId, EventId, EventId)>,
}

/// A driver on a GPU that times launches.
struct Timed {
    gpu: Gpu,
    log: Arc<Mutex<Log>>,
}

fn locked(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(|e| e.into_inner())
}

impl Timed {
    fn inner(&self) -> &dyn Driver {
        // SAFETY: addresses come from this driver's own users, who promise for them what the GPU's own would.
        unsafe { self.gpu.raw_driver() }
    }
}

impl Driver for Timed {
    fn name(&self) -> String {
        self.inner().name()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.inner().compute_capability()
    }

    fn stream(&self) -> u64 {
        self.inner().stream()
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.inner().alloc(bytes)
    }

    fn free(&self, ptr: u64) {
        self.inner().free(ptr);
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.inner().upload(to, bytes)
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.inner().download(from, bytes)
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.inner().copy(to, from, bytes)
    }

    fn clear(&self, ptr: u64, bytes: usize) -> Result<()> {
        self.inner().clear(ptr, bytes)
    }

    fn forget(&self, ptr: u64, bytes: usize) {
        self.inner().forget(ptr, bytes);
    }

    fn load(&self, ptx: &'static str) -> Result<ModuleId> {
        self.inner().load(ptx)
    }

    unsafe fn load_cubin(&self, cubin: &[u8]) -> Result<ModuleId> {
        // SAFETY: the caller's promise.
        unsafe { self.inner().load_cubin(cubin) }
    }

    fn function(&self, module: ModuleId, entry: &str, shared: u32) -> Result<FunctionId> {
        let function = self.inner().function(module, entry, shared)?;
        locked(&self.log).names.insert(function, entry.to_owned());
        Ok(function)
    }

    fn tensor_map(&self, map: &TensorMap) -> Result<EncodedMap> {
        self.inner().tensor_map(map)
    }

    unsafe fn launch(&self, function: FunctionId, launch: &Launch) -> Result<()> {
        if !locked(&self.log).on {
            // SAFETY: the caller's promise.
            return unsafe { self.inner().launch(function, launch) };
        }
        let from = self.record_event()?;
        // SAFETY: the caller's promise.
        unsafe { self.inner().launch(function, launch) }?;
        let to = self.record_event()?;
        locked(&self.log).spans.push((function, from, to));
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        self.inner().synchronize()
    }

    fn record_event(&self) -> Result<EventId> {
        self.inner().record_event()
    }

    fn destroy_event(&self, event: EventId) {
        self.inner().destroy_event(event);
    }

    fn elapsed_ms(&self, from: EventId, to: EventId) -> Result<f32> {
        self.inner().elapsed_ms(from, to)
    }

    fn begin_graph(&self) -> Result<()> {
        self.inner().begin_graph()
    }

    fn end_graph(&self) -> Result<GraphId> {
        self.inner().end_graph()
    }

    fn replay(&self, graph: GraphId) -> Result<()> {
        self.inner().replay(graph)
    }

    fn destroy_graph(&self, graph: GraphId) {
        self.inner().destroy_graph(graph);
    }
}

/// Times the kernels of each method's step that is not in the record, into its `step_kernels`: launches and milliseconds by name.
pub fn measure(gpu: &Gpu, record: &mut Record, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    let mut all = record.object("step_kernels");
    for method in METHODS {
        if all.contains_key(method.name) {
            continue;
        }
        if Instant::now() >= end {
            println!("{} and what follows are left for another run", method.name);
            break;
        }
        let log = Arc::new(Mutex::new(Log::default()));
        let timed = super::with_cubins(Gpu::new(Timed { gpu: gpu.clone(), log: log.clone() }))?;
        let device = Device::Cuda(timed);
        let mut run = method.run(&device)?;
        // Modules are loaded, and memory is in the pool.
        run()?;
        run()?;
        gpu.synchronize()?;
        locked(&log).on = true;
        run()?;
        locked(&log).on = false;
        let kernels = kernels(gpu, &log)?;
        println!("{}: {}", method.name, Value::Object(kernels.clone()));
        all.insert(method.name.to_owned(), Value::Object(kernels));
        record.set("step_kernels", Value::Object(all.clone()))?;
    }
    Ok(())
}

/// The times of all launches by kernel, and removes them from the log.
fn kernels(gpu: &Gpu, log: &Mutex<Log>) -> Result<Map<String, Value>> {
    // SAFETY: no addresses are passed to it.
    let driver = unsafe { gpu.raw_driver() };
    let spans = std::mem::take(&mut locked(log).spans);
    let mut sums: BTreeMap<String, (u32, f64)> = BTreeMap::new();
    for (function, from, to) in spans {
        let ms = f64::from(driver.elapsed_ms(from, to)?);
        driver.destroy_event(from);
        driver.destroy_event(to);
        let name = locked(log).names.get(&function).cloned().unwrap_or_default();
        let sum = sums.entry(name).or_default();
        *sum = (sum.0 + 1, sum.1 + ms);
    }
    let row = |launches, ms| json!({"launches": launches, "ms": super::milliseconds(ms)});
    Ok(sums.into_iter().map(|(name, (launches, ms))| (name, row(launches, ms))).collect())
}
