//! The peaks of this GPU, measured with three kernels of `cuda/peaks.cu`: the denominators of every share.

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
        Ok(Peaks {
            copy: copy(gpu, &probe)?,
            f32: arithmetic(gpu, &probe("peaks_fma_f32", BLOCKS)?, 2 * 16 * u64::from(BLOCK))?,
            // Eight products of 16x8x16 per warp and iteration.
            bf16: arithmetic(gpu, &probe("peaks_mma_bf16", BLOCKS)?, 2 * 8 * 16 * 8 * 16 * u64::from(BLOCK / 32))?,
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

fn arithmetic(gpu: &Gpu, probe: &Probe, of_block_and_round: u64) -> Result<f64> {
    let bytes = (BLOCKS * BLOCK * 4) as usize;
    let sums = gpu.alloc(bytes)?;
    let rounds = 2000_u32;
    let args =
        [Arg::Pointer(Region { ptr: sums.ptr(), bytes, access: Access::Write }), Arg::Value(&rounds.to_ne_bytes())];
    let operations = u64::from(BLOCKS) * u64::from(rounds) * of_block_and_round;
    Ok(operations as f64 / probe.best(&args)?)
}

impl Probe<'_> {
    /// Seconds of the fastest of several launches.
    fn best(&self, args: &[Arg]) -> Result<f64> {
        let launch = Launch { spread: self.spread, args, reached: &[] };
        let mut best = f64::INFINITY;
        for _ in 0..10 {
            let start = self.gpu.record_event()?;
            // SAFETY: the arguments are those of the entry in cuda/peaks.cu, over memory of the lengths they name.
            unsafe { self.gpu.raw_driver().launch(self.function, &launch)? };
            let end = self.gpu.record_event()?;
            best = best.min(f64::from(self.gpu.elapsed_ms(start, end)?) * 1e-3);
        }
        Ok(best)
    }
}
