//! Facts about devices. Each is from the device's data sheet, measured by others, or assumed; none was measured with or
//! fitted to this crate's kernels. A calibration file replaces those that a record of `benches/gpu.rs` measures.

use serde_json::Value;

/// A device's rates.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name, as `--device` takes it.
    pub name: &'static str,
    /// Multiprocessors [data sheet].
    pub processors: u32,
    /// Cycles per second under load: the clock at which the data sheet's peaks hold [data sheet].
    pub clock: f64,
    /// Bytes per second of a copy through HBM: 0.90 of the data sheet's on Hopper (RMSNorm on an H200 reaches 3.85 to 4.18
    /// of 4.8 TB/s, cudnn-frontend benchmark/norms; QuACK reaches 3.01 of 3.35 on an H100) and 0.86 on an A100 [assumed].
    pub hbm: f64,
    /// Bytes per second from the second-level cache: 0.63 of 5120 bytes per cycle [assumed; published figures for the
    /// H100 are 5 to 10 TB/s].
    pub l2: f64,
    /// Bytes of that cache [data sheet].
    pub l2_bytes: f64,
    /// Operations per second of bf16 products by `mma.sync`. Hopper: 0.62 of the peak (Luo et al., arXiv 2402.13499,
    /// measure 62.9 % on average). A100: what libraries sustain under its power limit, 270 of 312 T [assumed].
    pub mma: f64,
    /// The same by `wgmma`, sustained under the power limit: what the best GEMMs reach on random data (fast.cu: 808 T,
    /// cuBLAS: 798 T on an H100). Where there is none, `mma`.
    pub wgmma: f64,
    /// Operations per second of f32 multiply-adds: 128 (A100: 64) of two each per multiprocessor and cycle [data sheet].
    pub fma: f64,
    /// Seconds between dependent launches in a stream, on the device: the last block's end to the next one's first
    /// instruction [assumed].
    pub gap: f64,
    /// The same in a CUDA graph [assumed; NVIDIA gives about 1 µs per node].
    pub gap_in_graph: f64,
    /// Seconds of the host per launch in a stream; the host runs ahead of the device [assumed: 2 to 4 µs are usual].
    pub host: f64,
    /// Seconds from a launch's first request to full rate, and from its last operand to its last store: latency of HBM
    /// and of an epilogue, once per launch [assumed].
    pub latency: f64,
}

/// Bytes of shared memory that a multiprocessor reads or writes per cycle [data sheet: 32 banks of 4 bytes].
pub const SHARED_PER_CYCLE: f64 = 128.0;
/// Warp instructions that a multiprocessor issues per cycle [data sheet: four schedulers].
pub const ISSUED_PER_CYCLE: f64 = 4.0;
/// Warps and blocks that a multiprocessor holds at most, and its shared memory in bytes [data sheet; A100: 164 KiB].
pub const WARPS: u32 = 64;
pub const BLOCKS: u32 = 32;

impl Device {
    /// The devices known.
    pub fn all() -> [Device; 3] {
        let hopper = Device {
            name: "h100",
            processors: 132,
            clock: 1.83e9,
            hbm: 3.0e12,
            l2: 5.7e12,
            l2_bytes: 50e6,
            mma: 613e12,
            wgmma: 790e12,
            fma: 132.0 * 256.0 * 1.83e9,
            gap: 1.5e-6,
            gap_in_graph: 1.0e-6,
            host: 3.0e-6,
            latency: 1.5e-6,
        };
        let ampere = Device {
            name: "a100",
            processors: 108,
            clock: 1.41e9,
            hbm: 1.75e12,
            l2: 4.5e12,
            l2_bytes: 40e6,
            mma: 270e12,
            wgmma: 270e12,
            fma: 108.0 * 128.0 * 1.41e9,
            ..hopper.clone()
        };
        [Device { name: "h200", hbm: 4.3e12, ..hopper.clone() }, hopper, ampere]
    }

    /// By name.
    pub fn named(name: &str) -> Option<Device> {
        Device::all().into_iter().find(|device| device.name == name)
    }

    /// Bytes of shared memory of a multiprocessor [data sheet].
    pub fn shared(&self) -> u32 {
        if self.name == "a100" { 164 << 10 } else { 228 << 10 }
    }

    /// With the numbers of a calibration file in place of the table's.
    ///
    /// # Errors
    /// When a number is not positive, or unknown.
    pub fn calibrated(mut self, file: &Value) -> Result<Device, String> {
        for (key, value) in file.as_object().ok_or("a calibration is an object")? {
            let number = || value.as_f64().filter(|v| *v > 0.0).ok_or(format!("{key} must be a positive number"));
            match key.as_str() {
                "hbm_tb_per_s" => self.hbm = number()? * 1e12,
                "l2_tb_per_s" => self.l2 = number()? * 1e12,
                "mma_tflops" => self.mma = number()? * 1e12,
                "wgmma_tflops" => self.wgmma = number()? * 1e12,
                "fma_tflops" => self.fma = number()? * 1e12,
                "launch_us" => {
                    // Launches one after another take as long as the slower of host and device.
                    self.gap = self.gap.min(number()? * 1e-6);
                    self.host = number()? * 1e-6;
                }
                "from" | "machine" => {}
                _ => return Err(format!("{key} is no number of a calibration")),
            }
        }
        Ok(self)
    }
}
