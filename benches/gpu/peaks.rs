//! The peaks of this GPU, measured with three kernels of `cuda/peaks.cu`: the denominators of every share, and what
//! `cargo xtask model --calibrate` takes from a record.

use tubelet::driver::{Access, Arg, FunctionId, Gpu, Launch, Region, Spread};
use tubelet::error::Result;

const PTX: &str = include_str!("../../ptx/peaks.sm_80.ptx");

/// Threads per block.
const BLOCK: u32 = 256;

/// Rates per second.
#[derive(Clone, Copy, Debug)]
pub struct Peaks {
    /// Bytes read and written by a copy.
    pub copy: f64,
    /// Operations of f32 multiply-adds, two each.
    pub f32: f64,
    /// Operations of bf16 matrix products (`mma.sync`), two per multiply-add.
    pub bf16: f64,
    /// Bytes read and written by a copy within the second-level cache.
    pub cached: f64,
    /// Seconds per launch of an empty grid in a stream: the slower of host and device.
    pub launch: f64,
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
        let module = driver.load(PTX)?;
        let probe = |entry: &str, blocks: u32| -> Result<Probe> {
            let function = driver.function(module, entry, 0)?;
            Ok(Probe { gpu, function, spread: Spread::line(blocks, BLOCK) })
        };
        let launch = launch(gpu, &probe)?;
        Ok(Peaks {
            copy: copy(gpu, &probe, 1 << 30, 1)?,
            cached: cached(gpu, &probe)?,
            launch,
            f32: arithmetic(gpu, &probe("peaks_fma_f32", BLOCKS)?, 2 * 16 * u64::from(BLOCK))?,
            // Eight products of 16x8x16 per warp and iteration.
            bf16: arithmetic(gpu, &probe("peaks_mma_bf16", BLOCKS)?, 2 * 8 * 16 * 8 * 16 * u64::from(BLOCK / 32))?,
        })
    }
}

/// Enough blocks for any GPU; a multiple of many numbers of multiprocessors.
const BLOCKS: u32 = 132 * 108;

/// Rate of copies of `bytes`, `times` in a row.
fn copy<'a>(gpu: &'a Gpu, probe: &impl Fn(&str, u32) -> Result<Probe<'a>>, bytes: usize, times: u32) -> Result<f64> {
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
    Ok(f64::from(times) * 2.0 * bytes as f64 / probe.best(&args, times)?)
}

/// Rate of a copy within the second-level cache. A launch is not much longer than the pause before the next one, so it is the
/// difference between two sizes that is timed; both copies of the larger fit in the 40 MB of an A100.
fn cached<'a>(gpu: &'a Gpu, probe: &impl Fn(&str, u32) -> Result<Probe<'a>>) -> Result<f64> {
    let [small, large] = [8_usize << 20, 16 << 20];
    let seconds = |bytes: usize| Ok::<_, tubelet::error::Error>(2.0 * bytes as f64 / copy(gpu, probe, bytes, 100)?);
    Ok(2.0 * (large - small) as f64 / (seconds(large)? - seconds(small)?))
}

/// Seconds per launch of a kernel that does nothing, of many in a row.
fn launch<'a>(gpu: &'a Gpu, probe: &impl Fn(&str, u32) -> Result<Probe<'a>>) -> Result<f64> {
    let (bytes, times) = (16, 1000);
    let (from, to) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?);
    let args = [
        Arg::Pointer(Region { ptr: from.ptr(), bytes, access: Access::Read }),
        Arg::Pointer(Region { ptr: to.ptr(), bytes, access: Access::Scratch }),
        Arg::Value(&0_u32.to_ne_bytes()),
    ];
    Ok(probe("peaks_copy_f32", 1)?.best(&args, times)? / f64::from(times))
}

fn arithmetic(gpu: &Gpu, probe: &Probe, of_block_and_round: u64) -> Result<f64> {
    let bytes = (BLOCKS * BLOCK * 4) as usize;
    let sums = gpu.alloc(bytes)?;
    let rounds = 2000_u32;
    let args =
        [Arg::Pointer(Region { ptr: sums.ptr(), bytes, access: Access::Write }), Arg::Value(&rounds.to_ne_bytes())];
    let operations = u64::from(BLOCKS) * u64::from(rounds) * of_block_and_round;
    Ok(operations as f64 / probe.best(&args, 1)?)
}

impl Probe<'_> {
    /// Seconds of the fastest of several rounds of `times` launches.
    fn best(&self, args: &[Arg], times: u32) -> Result<f64> {
        let launch = Launch { spread: self.spread, args, reached: &[] };
        let mut best = f64::INFINITY;
        for _ in 0..10 {
            let start = self.gpu.record_event()?;
            for _ in 0..times {
                // SAFETY: the arguments are those of the entry in cuda/peaks.cu, over memory of the lengths they name.
                unsafe { self.gpu.raw_driver().launch(self.function, &launch)? };
            }
            let end = self.gpu.record_event()?;
            best = best.min(f64::from(self.gpu.elapsed_ms(start, end)?) * 1e-3);
        }
        Ok(best)
    }
}
