//! Convolutions on Hopper that normalise what they read: which ones there are kernels for, and their launches.
//!
//! A tile normalises its part of `x` between shared memory and the tensor cores, half of a k-block while the products of the
//! other half are computed, and again for each tile of filters. A k-block has 64 numbers of each row of `x`: in the machine
//! code of sm_90a 233 instructions of each of eight warps for 128 rows, 353 for 256, so 470 and 710 cycles of a
//! multiprocessor. The products take 640 cycles at least; with 64 filters those of 256 rows take as long, and their operands
//! more than twice as long to come from the second-level cache. So a pass over `x` is saved, and nothing is taken to be lost.

use super::super::{Conv3d, Operator};
use super::plan::{Path, Plan};
use super::problem::Conv;
use crate::driver::{Declared, Gpu, In, Kernel, Map, Module, Out, Pod};
use crate::error::Result;

static FPROP_FILE: Module =
    Module::new("conv3d_fprop_norm_sm90", include_str!("../../../../ptx/conv3d_fprop_norm_sm90.sm_90a.ptx"));
static WGRAD_FILE: Module =
    Module::new("conv3d_wgrad_norm_sm90", include_str!("../../../../ptx/conv3d_wgrad_norm_sm90.sm_90a.ptx"));

static DGRAD_FILE: Module =
    Module::new("conv3d_dgrad_affine_sm90", include_str!("../../../../ptx/conv3d_dgrad_affine_sm90.sm_90a.ptx"));

/// `x w y sums shift mean inv_std gamma beta`, the number of tiles, and the parts of the norm.
type Fprop = Kernel<(Map, Map, Out, Out, In, In, In, In, In, Pod<Conv>, u32, u32)>;
/// `x dy dw mean inv_std gamma beta`, the number of tiles, and the pixels of a part.
type Wgrad = Kernel<(Map, Map, Out, In, In, In, In, Pod<Conv>, u32, u32)>;

/// `dz x w dx dy sums`, the epilogue's `add signs normed mean inv_std gamma beta`, `mean inv_std gamma slopes`, the number of
/// tiles, and the parts of the norm.
type Dgrad = Kernel<(Map, Map, Map, Out, Out, Out, In, In, In, In, In, In, In, In, In, In, In, Pod<Conv>, u32, u32)>;

/// Indexed by tile, as the kernels of [`Path::Warpgroup`].
static FPROP: Fprop = Kernel::new(
    &FPROP_FILE,
    &[
        "conv3d_fprop_norm_sm90_128x256_bf16",
        "conv3d_fprop_norm_sm90_256x128_bf16",
        "conv3d_fprop_norm_sm90_128x128_bf16",
        "conv3d_fprop_norm_sm90_256x64_bf16",
        "conv3d_fprop_norm_sm90_128x256_pair_bf16",
    ],
);
static WGRAD: Wgrad = Kernel::new(
    &WGRAD_FILE,
    &[
        "conv3d_wgrad_norm_sm90_128x256_bf16",
        "conv3d_wgrad_norm_sm90_256x128_bf16",
        "conv3d_wgrad_norm_sm90_128x128_bf16",
        "conv3d_wgrad_norm_sm90_64x256_bf16",
        "conv3d_wgrad_norm_sm90_128x256_pair_bf16",
    ],
);

static DGRAD: Dgrad = Kernel::new(
    &DGRAD_FILE,
    &[
        "conv3d_dgrad_affine_sm90_128x256_bf16",
        "conv3d_dgrad_affine_sm90_256x128_bf16",
        "conv3d_dgrad_affine_sm90_128x128_bf16",
        "conv3d_dgrad_affine_sm90_256x64_bf16",
        "conv3d_dgrad_affine_sm90_128x256_pair_bf16",
    ],
);
/// Their shared memory: fewer stages, each with two tiles of rows.
const DGRAD_SHARED: [u32; 5] = [216064, 185344, 216064, 168960, 216064];

pub(super) fn declared() -> [Declared; 3] {
    [FPROP.declared(), WGRAD.declared(), DGRAD.declared()]
}

/// The most channels of fprop, whose numbers are kept in shared memory, and bytes of one.
const CHANNELS: usize = 1024;
const OF_CHANNEL: usize = 12;

/// Pixels of a k-block of wgrad, which is of one part of the samples.
const K_BLOCK: usize = 64;

/// A batch norm on device addresses: mean and inverse deviation of each of `parts` parts of the samples and channel, scale
/// and shift of each channel.
#[derive(Clone, Copy)]
pub(in crate::ops::conv3d) struct Numbers {
    pub mean: In,
    pub inv_std: In,
    pub gamma: In,
    pub beta: In,
    pub parts: usize,
}

/// Whether `x` is rows of channels that are read as they are: no padding, whose zeros would be normalised.
pub(super) fn reads_rows(p: &Conv3d) -> bool {
    let window = &p.geometry.window;
    let [one, zero] = [1, 0].map(|n| [n; 3]);
    p.kernel == one && window.stride == one && window.pad == zero && p.geometry.groups == 1 && p.c.is_multiple_of(8)
}

impl Plan {
    /// This plan of `pass` with the kernel that normalises `x` by statistics of `parts` parts of the samples, if there is
    /// one. Tiles, their order and the order of sums stay the same, and with them every bit of the result.
    pub fn normalising(mut self, p: &Conv3d, pass: Operator, parts: usize) -> Option<Plan> {
        let pixels = p.n * p.out.iter().product::<usize>();
        let fits = match pass {
            // A tile is of one part: of all samples, or of the group that it takes statistics of.
            Operator::Fprop => p.c <= CHANNELS && (parts == 1 || parts == self.sums[0]),
            Operator::Wgrad => parts == 1 || (pixels / parts).is_multiple_of(K_BLOCK),
            Operator::Dgrad => false,
        };
        if self.path != Path::Warpgroup || !reads_rows(p) || !fits {
            return None;
        }
        if pass == Operator::Fprop {
            self.spread.shared += (CHANNELS * OF_CHANNEL) as u32;
        }
        Some(self)
    }

    /// This plan of dgrad with the kernel that forms the gradient of a norm of `parts` parts of the samples as it loads it, if
    /// there is one, with the same tiles and order of sums.
    pub fn forming(mut self, p: &Conv3d, parts: usize) -> Option<Plan> {
        let fits = p.k.is_multiple_of(8) && (parts == 1 || parts == self.sums[0]);
        if self.path != Path::Warpgroup || !reads_rows(p) || !fits {
            return None;
        }
        self.spread.shared = DGRAD_SHARED[self.entry];
        Some(self)
    }
}

/// The batch norm whose gradient dgrad forms.
pub(in crate::ops::conv3d) struct Forming {
    /// Its input.
    pub x: In,
    /// Its numbers, of which the shifts have no part in the gradient.
    pub norm: Numbers,
    /// Two numbers for each part and channel.
    pub slopes: In,
    /// Receives the gradient.
    pub dy: Out,
}

/// dgrad of a plan that forms its gradient of `dz`, with the arrays of an epilogue.
pub(super) fn dgrad(
    gpu: &Gpu,
    plan: &Plan,
    [dz, x, w]: [Map; 3],
    (dx, sums): (Out, Out),
    [add, signs, normed, mean, inv_std, gamma, beta]: [In; 7],
    of: &Forming,
) -> Result<()> {
    let [tiles, parts] = [plan.tiles, of.norm.parts].map(|v| v as u32);
    let Numbers { mean: of_mean, inv_std: of_inv_std, gamma: of_gamma, .. } = of.norm;
    let (numbers, conv) = ([of_mean, of_inv_std, of_gamma, of.slopes], Pod(plan.conv));
    let [n0, n1, n2, n3] = numbers;
    let args =
        (dz, x, w, dx, of.dy, sums, add, signs, normed, mean, inv_std, gamma, beta, n0, n1, n2, n3, conv, tiles, parts);
    DGRAD.launch(gpu, plan.entry, plan.spread, args)
}

/// fprop of a plan that normalises: `of_tiles` receives the sums about `shift`, if they are taken.
pub(super) fn fprop(
    gpu: &Gpu,
    plan: &Plan,
    [x, w]: [Map; 2],
    y: Out,
    (of_tiles, shift): (Out, In),
    norm: &Numbers,
) -> Result<()> {
    let Numbers { mean, inv_std, gamma, beta, parts } = *norm;
    let [tiles, parts] = [plan.tiles, parts].map(|v| v as u32);
    let args = (x, w, y, of_tiles, shift, mean, inv_std, gamma, beta, Pod(plan.conv), tiles, parts);
    FPROP.launch(gpu, plan.entry, plan.spread, args)
}

/// wgrad of a plan that normalises, over so many pixels.
pub(super) fn wgrad(gpu: &Gpu, plan: &Plan, [x, dy]: [Map; 2], dw: Out, norm: &Numbers, pixels: usize) -> Result<()> {
    let Numbers { mean, inv_std, gamma, beta, parts } = *norm;
    let [tiles, part] = [plan.tiles, pixels / parts].map(|v| v as u32);
    let args = (x, dy, dw, mean, inv_std, gamma, beta, Pod(plan.conv), tiles, part);
    WGRAD.launch(gpu, plan.entry, plan.spread, args)
}
