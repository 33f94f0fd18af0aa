//! The peaks of this GPU, measured with the kernels of `cuda/peaks.cu`: the denominators of every share.

use serde_json::{Value, json};
use tubelet::driver::{Access, Arg, Declared, FunctionId, Gpu, Launch, Region, Spread, TensorMap, TensorWindow};
use tubelet::error::Result;

const HOPPER: Declared = module("peaks_sm90", include_str!("../../ptx/peaks_sm90.sm_90a.ptx"));
const PORTABLE: Declared = module("peaks", include_str!("../../ptx/peaks.sm_80.ptx"));

/// A module whose kernels are launched by name.
const fn module(module: &'static str, ptx: &'static str) -> Declared {
    Declared { module, ptx, entries: &[], parameters: &[] }
}

/// Threads per block.
const BLOCK: u32 = 256;

/// Rates per second.
#[derive(Clone, Copy, Debug)]
pub struct Peaks {
    /// Bytes read and written by a copy.
    pub copy: f64,
    /// Bytes read from the second-level cache, by all multiprocessors the same ones: where the cache has two halves, each
    /// may have its own copy, so that this bounds what a convolution gets.
    pub cache: f64,
    /// Operations of f32 multiply-adds, two each.
    pub f32: f64,
    /// Operations of bf16 matrix products (`mma.sync`), two per multiply-add.
    pub bf16: f64,
    /// Launches a second of a block that does nothing, one after another in a stream: as fast as the slower of host and device.
    pub launches: f64,
    /// Of a Hopper.
    pub hopper: Option<Hopper>,
}

/// What only a Hopper has, per second.
#[derive(Clone, Copy, Debug)]
pub struct Hopper {
    /// Operations of bf16 products of warpgroups (`wgmma`, 64x256x16, both operands in shared memory).
    pub wgmma: f64,
    /// Bytes that TMA loads from the second-level cache, by all multiprocessors the same ones.
    pub tma: f64,
}

/// A kernel and its buffers.
struct Probe<'a> {
    gpu: &'a Gpu,
    function: FunctionId,
    spread: Spread,
}

impl Peaks {
    /// Measures for a fraction of a second.
    pub fn measure(gpu: &Gpu) -> Result<Peaks> {
        // SAFETY: no addresses are passed to it.
        let driver = unsafe { gpu.raw_driver() };
        let module = PORTABLE.load(gpu)?;
        let probe = |entry: &str, blocks: u32| -> Result<Probe> {
            let function = driver.function(module, entry, 0)?;
            Ok(Probe { gpu, function, spread: Spread::line(blocks, BLOCK) })
        };
        Ok(Peaks {
            copy: copy(gpu, &probe)?,
            cache: cache(gpu, &probe("peaks_read_f32", CACHED_BLOCKS)?)?,
            f32: arithmetic(gpu, &probe("peaks_fma_f32", BLOCKS)?, 2 * 16 * u64::from(BLOCK))?,
            // Eight products of 16x8x16 per warp and iteration.
            bf16: arithmetic(gpu, &probe("peaks_mma_bf16", BLOCKS)?, 2 * 8 * 16 * 8 * 16 * u64::from(BLOCK / 32))?,
            launches: launches(gpu, &probe("peaks_fma_f32", 1)?)?,
            hopper: (gpu.compute_capability() == (9, 0)).then(|| Hopper::measure(gpu)).transpose()?,
        })
    }

    /// Operations of bf16 products, by the faster of both instructions.
    pub fn products(&self) -> f64 {
        self.hopper.map_or(self.bf16, |hopper| hopper.wgmma.max(self.bf16))
    }

    /// For a record: terabytes and tera-operations per second, microseconds of a launch.
    pub fn json(&self) -> Value {
        let tera = |n: f64| (n * 1e-10).round() / 100.0;
        json!({
            "copy_tb_per_s": tera(self.copy), "l2_tb_per_s": tera(self.cache), "bf16_tflops": tera(self.bf16),
            "f32_tflops": tera(self.f32), "launch_us": (1e8 / self.launches).round() / 100.0,
            "wgmma_tflops": self.hopper.map(|hopper| tera(hopper.wgmma)),
            "tma_tb_per_s": self.hopper.map(|hopper| tera(hopper.tma)),
        })
    }

    /// Those of a record, if it has all that shares are taken of.
    pub fn read(record: &Value) -> Option<Peaks> {
        let rate = |key: &str| record[key].as_f64().filter(|v| *v > 0.0);
        let hopper = || Some(Hopper { wgmma: 1e12 * rate("wgmma_tflops")?, tma: 1e12 * rate("tma_tb_per_s")? });
        Some(Peaks {
            hopper: hopper(),
            copy: 1e12 * rate("copy_tb_per_s")?,
            cache: 1e12 * rate("l2_tb_per_s")?,
            f32: 1e12 * rate("f32_tflops")?,
            bf16: 1e12 * rate("bf16_tflops")?,
            launches: 1e6 / rate("launch_us")?,
        })
    }
}

/// Enough blocks for any GPU; a multiple of many numbers of multiprocessors.
const BLOCKS: u32 = 132 * 108;

fn copy<'a>(gpu: &'a Gpu, probe: &impl Fn(&str, u32) -> Result<Probe<'a>>) -> Result<f64> {
    let bytes: usize = 1 << 30;
    let (from, to) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?);
    // SAFETY: the memory has that length, and is not in use.
    unsafe { gpu.raw_driver() }.clear(from.ptr(), bytes)?;
    let units = (bytes / 16) as u32;
    let probe = probe("peaks_copy_f32", units.div_ceil(4 * BLOCK))?;
    let args = [
        Arg::Pointer(Region { ptr: from.ptr(), bytes, access: Access::Read }),
        Arg::Pointer(Region { ptr: to.ptr(), bytes, access: Access::Write }),
        Arg::Value(&units.to_ne_bytes()),
    ];
    Ok(2.0 * bytes as f64 / probe.best(&args)?)
}

/// Blocks that read at the same time (four a multiprocessor on an H100), and the bytes they read: less than any second-level
/// cache of compute capability 8.0 and newer holds.
const CACHED_BLOCKS: u32 = 132 * 4;
const CACHED: usize = 2 << 20;

fn cache(gpu: &Gpu, probe: &Probe) -> Result<f64> {
    let (from, sums) = (gpu.alloc(CACHED)?, gpu.alloc((CACHED_BLOCKS * BLOCK * 4) as usize)?);
    // SAFETY: the memory has that length, and is not in use.
    unsafe { gpu.raw_driver() }.clear(from.ptr(), CACHED)?;
    let (units, rounds) = ((CACHED / 16) as u32, 4_u32);
    let args = [
        Arg::Pointer(Region { ptr: from.ptr(), bytes: CACHED, access: Access::Read }),
        Arg::Pointer(Region { ptr: sums.ptr(), bytes: sums.bytes(), access: Access::Write }),
        Arg::Value(&units.to_ne_bytes()),
        Arg::Value(&rounds.to_ne_bytes()),
    ];
    Ok(f64::from(CACHED_BLOCKS) * f64::from(rounds) * CACHED as f64 / probe.best(&args)?)
}

fn launches(gpu: &Gpu, probe: &Probe) -> Result<f64> {
    const EACH: u32 = 200;
    let sums = gpu.alloc((BLOCK * 4) as usize)?;
    let args = [
        Arg::Pointer(Region { ptr: sums.ptr(), bytes: sums.bytes(), access: Access::Write }),
        Arg::Value(&0_u32.to_ne_bytes()),
    ];
    Ok(f64::from(EACH) / probe.best_of(EACH, &args)?)
}

fn arithmetic(gpu: &Gpu, probe: &Probe, of_block_and_round: u64) -> Result<f64> {
    let bytes = (BLOCKS * BLOCK * 4) as usize;
    let sums = gpu.alloc(bytes)?;
    let rounds = 2000_u32;
    let args =
        [Arg::Pointer(Region { ptr: sums.ptr(), bytes, access: Access::Write }), Arg::Value(&rounds.to_ne_bytes())];
    let operations = u64::from(BLOCKS) * u64::from(rounds) * of_block_and_round;
    Ok(operations as f64 / probe.best(&args)?)
}

/// Threads and shared memory of a block, and its operations a round: two tiles of 64x256x64.
const WGMMA: Spread = Spread { grid: [132 * 8, 1, 1], block: [256, 1, 1], shared: 50176 };
const OF_ROUND: u64 = 2 * 2 * 64 * 256 * 64;
/// A warp that copies 128 rows of 128 bytes at a time.
const TMA: Spread = Spread { grid: [132, 1, 1], block: [32, 1, 1], shared: 132_096 };
const ROWS: usize = 128;

impl Hopper {
    fn measure(gpu: &Gpu) -> Result<Hopper> {
        // SAFETY: the addresses passed to it are those of memory allocated here.
        let driver = unsafe { gpu.raw_driver() };
        let module = HOPPER.load(gpu)?;
        let probe = |entry: &str, spread: Spread| -> Result<Probe> {
            Ok(Probe { gpu, function: driver.function(module, entry, spread.shared)?, spread })
        };
        let written = |spread: Spread| {
            let bytes = (4 * spread.grid[0] * spread.block[0]) as usize;
            Ok::<_, tubelet::error::Error>((gpu.alloc(bytes)?, bytes))
        };
        let (sums, bytes) = written(WGMMA)?;
        let rounds = 2000_u32;
        let args =
            [Arg::Pointer(Region { ptr: sums.ptr(), bytes, access: Access::Write }), Arg::Value(&rounds.to_ne_bytes())];
        let operations = u64::from(WGMMA.grid[0]) * u64::from(rounds) * OF_ROUND;
        let wgmma = operations as f64 / probe("peaks_wgmma_sm90_bf16", WGMMA)?.best(&args)?;

        let from = gpu.alloc(CACHED)?;
        driver.clear(from.ptr(), CACHED)?;
        let (mixed, bytes) = written(TMA)?;
        let (copies, rounds) = ((CACHED / ROWS / 128) as u32, 50_u32);
        let extents = vec![64, (CACHED / 128) as u64];
        let window = TensorWindow::Tiled(vec![64, ROWS as u32]);
        let map = driver.tensor_map(&TensorMap { ptr: from.ptr(), extents, window })?;
        let args = [
            Arg::TensorMap(&map),
            Arg::Pointer(Region { ptr: mixed.ptr(), bytes, access: Access::Write }),
            Arg::Value(&copies.to_ne_bytes()),
            Arg::Value(&rounds.to_ne_bytes()),
        ];
        let bytes = f64::from(TMA.grid[0]) * f64::from(rounds) * CACHED as f64;
        Ok(Hopper { wgmma, tma: bytes / probe("peaks_tma_sm90_bf16", TMA)?.best(&args)? })
    }
}

impl Probe<'_> {
    /// Seconds of the fastest of several launches.
    fn best(&self, args: &[Arg]) -> Result<f64> {
        self.best_of(1, args)
    }

    /// Seconds of the fastest of several runs of `each` launches.
    fn best_of(&self, each: u32, args: &[Arg]) -> Result<f64> {
        let launch = Launch { spread: self.spread, args, reached: &[] };
        let mut best = f64::INFINITY;
        for _ in 0..10 {
            let start = self.gpu.record_event()?;
            for _ in 0..each {
                // SAFETY: the arguments are those of the entry in cuda/peaks.cu or peaks_sm90.cu, over memory of the lengths they name.
                unsafe { self.gpu.raw_driver().launch(self.function, &launch)? };
            }
            let end = self.gpu.record_event()?;
            best = best.min(f64::from(self.gpu.elapsed_ms(&start, &end)?) * 1e-3);
        }
        Ok(best)
    }
}
