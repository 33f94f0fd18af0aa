//! Predictions for kernels and training steps of others, by the functions and constants that price this crate's launches,
//! beside what their authors measured: the test of the model. Tiles and passes are from their sources.

use super::cost::Demand;
use super::device::Device;
use super::floor::{self, Fusion, Kind, Op};
use super::gemm::Tile;
use tubelet::error::Result;
use tubelet::nn::{Net, P3d};

/// Something measured by others.
#[derive(Clone, Debug)]
pub struct Known {
    pub name: &'static str,
    pub device: &'static str,
    /// Unit of the figures; in `ms` less is better.
    pub unit: &'static str,
    pub measured: f64,
    pub predicted: f64,
    /// Where the measurement is published, and what is assumed of the kernels.
    pub source: &'static str,
    /// Why the prediction is off, where it is.
    pub why: &'static str,
}

/// Largest deviation of a prediction that counts as reproduced.
pub const WITHIN: f64 = 0.2;

impl Known {
    /// Predicted over measured.
    pub fn ratio(&self) -> f64 {
        self.predicted / self.measured
    }

    /// Whether the prediction is within [`WITHIN`].
    pub fn reproduced(&self) -> bool {
        (self.ratio() - 1.0).abs() <= WITHIN
    }
}

/// Every one, on the devices of the table.
///
/// # Errors
/// None in practice: the networks fit their clips.
pub fn all() -> Result<Vec<Known>> {
    let [_, h100, a100] = Device::all();
    let large = |n: usize| {
        let bytes = (n * n * 2) as f64;
        let demand = Tile::hopper(128, 256).demand([n; 3], 1, 3.0 * bytes, bytes);
        2.0 * (n as f64).powi(3) / demand.on(&h100).seconds * 1e-12
    };
    let gemm = |name, n, measured, source| Known {
        name,
        device: "h100",
        unit: "TFLOP/s",
        measured,
        predicted: large(n),
        source,
        why: "",
    };
    let best = "fast.cu README, kernel 11; 128x256 tiles, clusters of two";
    let library = "fast.cu README, cuBLAS; taken to have the same tiles";
    Ok(vec![
        gemm("bf16 GEMM 4096, fast.cu", 4096, 763.0, best),
        gemm("bf16 GEMM 8192, fast.cu", 8192, 808.0, best),
        gemm("bf16 GEMM 4096, cuBLAS", 4096, 716.0, library),
        gemm("bf16 GEMM 8192, cuBLAS", 8192, 795.0, library),
        fprop(&a100),
        stem_wgrad(&a100),
        Known {
            name: "ResNet-50 training, MLPerf v3.0",
            device: "h100",
            unit: "img/s",
            measured: 7006.0,
            predicted: resnet(Fusion::Mainloop, &h100, true, 400)?,
            source: "training_results_v3.0, NVIDIA MXNet, resnet-v1b-mainloop-fl, 8 GPUs; statistics in \
                     epilogues, normalisation in main loops, sums of gradients in dgrad",
            why: "every convolution is taken to run at a limit of the device, which other kernels miss by half (above), and a run on \
                  eight devices also exchanges gradients and reads pictures",
        },
        Known {
            name: "ResNet-50 training, MXNet",
            device: "a100",
            unit: "img/s",
            measured: 3410.0,
            predicted: resnet(Fusion::Compiled, &a100, false, 256)?,
            source: "DeepLearningExamples MxNet RN50v1.5; batch norm, addition and ReLU fused as a compiler does",
            why: "",
        },
        Known {
            name: "ResNet-50 training, PyTorch",
            device: "a100",
            unit: "img/s",
            measured: 2470.0,
            predicted: resnet(Fusion::Eager, &a100, false, 256)?,
            source: "DeepLearningExamples PyTorch resnet50v1.5, AMP; every operation by itself",
            why: "every convolution is taken to run at a limit of the device, which other kernels miss by half (above); the host's \
                  gaps and the casts of AMP are not in the list",
        },
    ])
}

/// CUTLASS's `s16816fprop_optimized_f16_128x128_32x5_nhwc` on n8 224² c128 k128 3x3, results in f32.
fn fprop(device: &Device) -> Known {
    let (rows, k, c) = (8 * 224 * 224, 128, 128);
    let depth = 9 * c;
    let [input, written] = [(rows * c * 2) as f64, (rows * k * 4) as f64];
    let demand = Tile::ampere(128, 128).demand([rows, k, depth], 1, input + written, written);
    Known {
        name: "fprop 3x3 c128 k128 224², CUTLASS 2.x",
        device: "a100",
        unit: "TFLOP/s",
        measured: 166.5,
        predicted: 2.0 * (rows * k * depth) as f64 / demand.on(device).seconds * 1e-12,
        source: "NVIDIA/cutlass README, profiler, 128x128x32 tiles of 64x64 warp tiles",
        why: "the kernel reaches 53 % of its tensor cores' peak although no rate in the table bounds it; the model takes waiting \
              for fragments and at barriers to overlap with products, and this kernel has four warps per block to do so",
    }
}

/// CUTLASS's best wgrad of a stem of 4 channels on n128 224² k64 7x7 stride 2.
fn stem_wgrad(device: &Device) -> Known {
    let (n, k, columns, pixels) = (128_usize, 64_usize, 49 * 4_usize, 112 * 112_usize);
    let hbm = (n * 224 * 224 * 4 * 2 + n * pixels * k * 2) as f64;
    let tile = Tile { vector: 8, ..Tile::ampere(64, 64) };
    let splits = device.processors as usize * 3 / columns.div_ceil(64);
    let partial = (splits * k * columns * 4) as f64;
    let demand = tile.demand([k, columns, n * pixels], splits, hbm + 2.0 * partial, 2.0 * partial);
    Known {
        name: "stem wgrad n128 224² c4 k64 7x7/2, CUTLASS",
        device: "a100",
        unit: "ms",
        measured: 1.31,
        predicted: demand.on(device).seconds * 1e3,
        source: "cutlass issue 793, best of CUTLASS (cuDNN's own kernel: 0.459 ms); 64x64x32 tiles are assumed",
        why: "copies are of 8 bytes, and their addresses are computed tap by tap; the model has no rate for requests of memory, \
              and counts few instructions per copy",
    }
}

/// Images per second of a training step of ResNet-50 v1.5 with `fusion`.
fn resnet(fusion: Fusion, device: &Device, graph: bool, batch: usize) -> Result<f64> {
    let net: Net = P3d::default().image()?;
    let ops = floor::ops(&net, [1, 224, 224], fusion, true)?;
    let gap = if graph { device.gap_in_graph } else { device.gap };
    let update = Demand { blocks: 1.0, resident: 1, hbm: 36.0 * 25.6e6, ..Demand::default() };
    let steps: f64 = ops.iter().map(|op| of_op(op, device, batch) + gap).sum();
    Ok(batch as f64 / (steps + update.on(device).seconds))
}

/// Seconds of one operation on `batch` clips, with the tile that is fastest.
fn of_op(op: &Op, device: &Device, batch: usize) -> f64 {
    let hbm = op.bytes * batch as f64;
    let [pixels, filters, depth] = op.product;
    let pixels = pixels * batch;
    // Rows, columns and depth of the pass's product; wgrad's depth is divided until every multiprocessor is busy.
    let extents = match op.kind {
        Kind::Traffic => {
            let pass = Demand { blocks: 1.0, resident: 1, hbm, l2: hbm, ..Demand::default() };
            return pass.on(device).seconds;
        }
        Kind::Fprop => [pixels, filters, depth],
        Kind::Dgrad => [pixels, depth / op.taps, filters * op.taps],
        Kind::Wgrad => [filters, depth, pixels],
    };
    let tiles = [[128, 256], [256, 128], [128, 128], [128, 64], [64, 64], [64, 128], [64, 256]];
    let of_tile = |[m, n]: [usize; 2]| {
        let tile = if device.wgmma > device.mma { Tile::hopper(m, n) } else { Tile::ampere(m, n) };
        let blocks = extents[0].div_ceil(m) * extents[1].div_ceil(n);
        let splits = match op.kind {
            Kind::Wgrad => (device.processors as usize / blocks).max(1),
            _ => 1,
        };
        let partial = if splits > 1 { (splits * extents[0] * extents[1] * 8) as f64 } else { 0.0 };
        tile.demand(extents, splits, hbm + partial, partial).on(device).seconds
    };
    tiles.into_iter().map(of_tile).fold(f64::INFINITY, f64::min)
}
