//! The launches of a planned pass, on device addresses: no tensors, no allocation.

use super::super::{Conv3d, Operator};
use super::halo::Halo;
use super::norm::{self, Forming, Numbers};
use super::packed::{self, Packed};
use super::plan::{MERGED, Path, Plan, merged_parts};
use super::problem::Conv;
use super::rows;
use super::windows;
use crate::driver::{Declared, Gpu, In, InOut, Kernel, Map, Module, Out, Pod, Spread};
use crate::error::Result;
use crate::ops::divisor::Divisor;
use crate::tensor::DType;

static FPROP_FILE: Module = Module::new("conv3d_fprop", include_str!("../../../../ptx/conv3d_fprop.sm_80.ptx"));
static DGRAD_FILE: Module = Module::new("conv3d_dgrad", include_str!("../../../../ptx/conv3d_dgrad.sm_80.ptx"));
static WGRAD_FILE: Module = Module::new("conv3d_wgrad", include_str!("../../../../ptx/conv3d_wgrad.sm_80.ptx"));
static STEM_FILE: Module = Module::new("conv3d_stem", include_str!("../../../../ptx/conv3d_stem.sm_80.ptx"));
static EXACT_FILE: Module = Module::new("conv3d_exact", include_str!("../../../../ptx/conv3d_exact.sm_80.ptx"));
static PARTS_FILE: Module = Module::new("conv3d_parts", include_str!("../../../../ptx/conv3d_parts.sm_80.ptx"));
static GROUPED_FILE: Module = Module::new("conv3d_grouped", include_str!("../../../../ptx/conv3d_grouped.sm_80.ptx"));
static FPROP_SM90_FILE: Module =
    Module::new("conv3d_fprop_sm90", include_str!("../../../../ptx/conv3d_fprop_sm90.sm_90a.ptx"));
static DGRAD_SM90_FILE: Module =
    Module::new("conv3d_dgrad_sm90", include_str!("../../../../ptx/conv3d_dgrad_sm90.sm_90a.ptx"));
static WGRAD_SM90_FILE: Module =
    Module::new("conv3d_wgrad_sm90", include_str!("../../../../ptx/conv3d_wgrad_sm90.sm_90a.ptx"));
static FPROP_HALO_FILE: Module =
    Module::new("conv3d_fprop_halo_sm90", include_str!("../../../../ptx/conv3d_fprop_halo_sm90.sm_90a.ptx"));
static DGRAD_HALO_FILE: Module =
    Module::new("conv3d_dgrad_halo_sm90", include_str!("../../../../ptx/conv3d_dgrad_halo_sm90.sm_90a.ptx"));
static WGRAD_HALO_FILE: Module =
    Module::new("conv3d_wgrad_halo_sm90", include_str!("../../../../ptx/conv3d_wgrad_halo_sm90.sm_90a.ptx"));

/// `x w bias y sums shift`.
type Forward = Kernel<(In, In, In, Out, Out, In, Pod<Conv>)>;
/// `dy w dx sums add signs normed mean inv_std gamma beta`.
type Backward = Kernel<(In, In, Out, Out, In, In, In, In, In, In, In, Pod<Conv>)>;
/// The same with tensors of TMA, and the number of tiles; of dgrad also the residue class and how many there are.
type ForwardSm90 = Kernel<(Map, Map, In, Out, Out, In, Pod<Conv>, u32)>;
type BackwardSm90 = Kernel<(Map, Map, InOut, InOut, In, In, In, In, In, In, In, Pod<Conv>, u32, u32, u32)>;
type ForwardHalo = Kernel<(Map, Map, In, Out, Out, In, Pod<Conv>, Pod<Halo>, u32)>;
type BackwardHalo = Kernel<(Map, Map, Out, Out, In, In, In, In, In, In, In, Pod<Conv>, Pod<Halo>, u32)>;
type PlainHalo = Kernel<(Map, Map, Out, Pod<Conv>, Pod<Halo>, u32)>;
type PlainSm90 = Kernel<(Map, Map, Out, Pod<Conv>, u32)>;
/// `x w bias y` of the exact path.
type ExactForward = Kernel<(In, In, In, Out, Pod<Conv>)>;
/// Two inputs and the result.
type Plain = Kernel<(In, In, Out, Pod<Conv>)>;

/// Indexed by tile, as in `plan`.
static FPROP: Forward = Kernel::new(
    &FPROP_FILE,
    &["conv3d_fprop_256x128_bf16", "conv3d_fprop_128x128_bf16", "conv3d_fprop_128x64_bf16", "conv3d_fprop_64x64_bf16"],
);
static DGRAD: Backward = Kernel::new(
    &DGRAD_FILE,
    &["conv3d_dgrad_256x128_bf16", "conv3d_dgrad_128x128_bf16", "conv3d_dgrad_128x64_bf16", "conv3d_dgrad_64x64_bf16"],
);
static WGRAD: Plain = Kernel::new(
    &WGRAD_FILE,
    &["conv3d_wgrad_128x256_bf16", "conv3d_wgrad_64x256_bf16", "conv3d_wgrad_128x128_bf16", "conv3d_wgrad_64x64_bf16"],
);

static FPROP_SM90: ForwardSm90 = Kernel::new(
    &FPROP_SM90_FILE,
    &[
        "conv3d_fprop_sm90_128x256_bf16",
        "conv3d_fprop_sm90_256x128_bf16",
        "conv3d_fprop_sm90_128x128_bf16",
        "conv3d_fprop_sm90_256x64_bf16",
        "conv3d_fprop_sm90_128x256_pair_bf16",
    ],
);
static DGRAD_SM90: BackwardSm90 = Kernel::new(
    &DGRAD_SM90_FILE,
    &[
        "conv3d_dgrad_sm90_128x256_bf16",
        "conv3d_dgrad_sm90_256x128_bf16",
        "conv3d_dgrad_sm90_128x128_bf16",
        "conv3d_dgrad_sm90_256x64_bf16",
        "conv3d_dgrad_sm90_128x256_pair_bf16",
    ],
);
static WGRAD_SM90: PlainSm90 = Kernel::new(
    &WGRAD_SM90_FILE,
    &[
        "conv3d_wgrad_sm90_128x256_bf16",
        "conv3d_wgrad_sm90_256x128_bf16",
        "conv3d_wgrad_sm90_128x128_bf16",
        "conv3d_wgrad_sm90_64x256_bf16",
        "conv3d_wgrad_sm90_128x256_pair_bf16",
    ],
);

static FPROP_HALO: ForwardHalo = Kernel::new(
    &FPROP_HALO_FILE,
    &[
        "conv3d_fprop_halo_sm90_128x256_bf16",
        "conv3d_fprop_halo_sm90_256x128_bf16",
        "conv3d_fprop_halo_sm90_128x128_bf16",
        "conv3d_fprop_halo_sm90_256x64_bf16",
        "conv3d_fprop_halo_sm90_256x144_bf16",
        "conv3d_fprop_halo_sm90_128x128_pair_bf16",
        "conv3d_fprop_halo_sm90_256x64_pair_bf16",
    ],
);
static DGRAD_HALO: BackwardHalo = Kernel::new(
    &DGRAD_HALO_FILE,
    &[
        "conv3d_dgrad_halo_sm90_128x256_bf16",
        "conv3d_dgrad_halo_sm90_256x128_bf16",
        "conv3d_dgrad_halo_sm90_128x128_bf16",
        "conv3d_dgrad_halo_sm90_256x64_bf16",
        "conv3d_dgrad_halo_sm90_128x128_pair_bf16",
        "conv3d_dgrad_halo_sm90_256x64_pair_bf16",
    ],
);
static WGRAD_HALO: PlainHalo = Kernel::new(
    &WGRAD_HALO_FILE,
    &[
        "conv3d_wgrad_halo_sm90_64x576_bf16",
        "conv3d_wgrad_halo_sm90_128x192_bf16",
        "conv3d_wgrad_halo_sm90_64x432_bf16",
    ],
);

static FPROP_STEM: Forward = Kernel::new(&STEM_FILE, &["conv3d_fprop_stem_bf16"]);
static WGRAD_STEM: Plain = Kernel::new(&STEM_FILE, &["conv3d_wgrad_stem_bf16"]);

/// For f32 tensors, then bf16.
static FPROP_EXACT: [ExactForward; 2] =
    [Kernel::new(&EXACT_FILE, &["conv3d_fprop_exact_f32"]), Kernel::new(&GROUPED_FILE, &["conv3d_fprop_exact_bf16"])];
static DGRAD_EXACT: [Plain; 2] =
    [Kernel::new(&EXACT_FILE, &["conv3d_dgrad_exact_f32"]), Kernel::new(&GROUPED_FILE, &["conv3d_dgrad_exact_bf16"])];
static WGRAD_EXACT: [Plain; 2] =
    [Kernel::new(&EXACT_FILE, &["conv3d_wgrad_exact_f32"]), Kernel::new(&GROUPED_FILE, &["conv3d_wgrad_exact_bf16"])];

static PAD: Kernel<(In, Out, u32, u32, Pod<Divisor>)> = Kernel::new(&PARTS_FILE, &["conv3d_pad_bf16"]);
static SPLITS: Kernel<(In, Out, u32, u32, u32, u32)> = Kernel::new(&PARTS_FILE, &["conv3d_merge_splits_f32"]);
static STATISTICS: Kernel<(In, Out, u32, u32, u32)> = Kernel::new(&PARTS_FILE, &["conv3d_merge_statistics_f32"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    let mut all = vec![
        FPROP.declared(),
        DGRAD.declared(),
        WGRAD.declared(),
        FPROP_SM90.declared(),
        DGRAD_SM90.declared(),
        WGRAD_SM90.declared(),
        FPROP_HALO.declared(),
        DGRAD_HALO.declared(),
        WGRAD_HALO.declared(),
        rows::declared(),
        FPROP_STEM.declared(),
        WGRAD_STEM.declared(),
        PAD.declared(),
        SPLITS.declared(),
        STATISTICS.declared(),
    ];
    all.extend(norm::declared());
    all.extend(packed::declared());
    for i in 0..2 {
        all.extend([FPROP_EXACT[i].declared(), DGRAD_EXACT[i].declared(), WGRAD_EXACT[i].declared()]);
    }
    all
}

const NOTHING_IN: In = In(0, 0);
const NOTHING_OUT: Out = Out(0, 0);

/// One planned pass, ready to be launched: its device, its problem, and working space of `plan.workspace()` bytes.
pub(in crate::ops::conv3d) struct Work<'a> {
    pub gpu: &'a Gpu,
    pub problem: &'a Conv3d,
    pub dtype: DType,
    pub plan: Plan,
    /// Device address, aligned to 256 bytes.
    pub space: u64,
}

/// Copies bf16 rows from `channels` to `padded` channels, a multiple of four, of which the last are 0.
pub(super) fn pad(gpu: &Gpu, from: In, to: Out, channels: usize, padded: usize) -> Result<()> {
    let rows = from.1 / (2 * channels);
    let args = (from, to, rows as u32, channels as u32, Pod(Divisor::new(padded / 4)));
    PAD.launch(gpu, 0, Spread::cover(rows * padded / 4, 256), args)
}

impl Work<'_> {
    /// `from`, or a copy of it in working space number `slot`, if there is any, with rows padded from `channels` to `to`.
    fn rows(&self, from: In, channels: usize, to: Option<usize>, slot: usize) -> Result<In> {
        let Some(to) = to.filter(|_| self.plan.space[slot] > 0) else { return Ok(from) };
        let at = self.space + self.plan.space[..slot].iter().sum::<usize>() as u64;
        let bytes = from.1 / channels * to;
        pad(self.gpu, from, Out(at, bytes), channels, to)?;
        Ok(In(at, bytes))
    }

    /// The operand that `pass` gathers, for TMA: `pixels` pixels a copy, of residue class `z`.
    fn windows(&self, rows: In, pass: Operator, z: usize, pixels: usize) -> Result<Map> {
        let conv = &self.plan.conv;
        let channels = if pass == Operator::Dgrad { conv.k_row } else { conv.c_row };
        self.gpu.tensor_map(&windows::windows(self.problem, pass, z, rows.0, channels as usize, pixels))
    }

    /// The operand that `pass` gathers, for TMA: the lines of one tile.
    fn lines(&self, rows: In, pass: Operator, halo: &Halo) -> Result<Map> {
        let conv = &self.plan.conv;
        let channels = if pass == Operator::Dgrad { conv.k_row } else { conv.c_row };
        self.gpu.tensor_map(&windows::lines(self.problem, pass, rows.0, channels as usize, halo))
    }

    /// The filters, for TMA: `filters` a copy.
    fn filters(&self, w: In, filters: usize) -> Result<Map> {
        self.gpu.tensor_map(&windows::filters(self.problem, w.0, self.plan.conv.c_row as usize, filters))
    }

    /// The launches of a stem, if the plan is one of those on packed pixels.
    fn packed(&self) -> Option<Packed<'_>> {
        let stem = self.plan.stem?;
        Some(Packed { gpu: self.gpu, problem: self.problem, plan: &self.plan, stem, space: self.space })
    }

    /// Address and size of the partial results that are to be added up.
    fn part(&self) -> (u64, usize) {
        let [first, second, part] = self.plan.space;
        (self.space + (first + second) as u64, part)
    }

    /// Where the tiles of a pass with statistics write their sums, of `channels` channels: into `sums` if they are few,
    /// which whoever reads these adds up, and otherwise into working space.
    fn of_tiles(&self, channels: usize, sums: Out) -> Out {
        let [groups, tiles] = self.plan.sums;
        merged_parts(tiles).map_or(sums, |_| Out(self.part().0, 4 * groups * tiles * 2 * channels))
    }

    /// `y` from `x` and `w`, with the bias of `f` added if there is one.
    pub fn fprop(&self, x: In, w: In, y: Out, f: &Forwards) -> Result<()> {
        let (p, plan) = (self.problem, &self.plan);
        let (bias, conv) = (f.bias.unwrap_or(NOTHING_IN), Pod(plan.conv));
        if plan.path == Path::Exact {
            return FPROP_EXACT[self.dtype.index()].launch(self.gpu, 0, plan.spread, (x, w, bias, y, conv));
        }
        let (shift, of_tiles) = match f.statistics {
            Some((shift, sums)) => (shift, self.of_tiles(p.k, sums)),
            None => (NOTHING_IN, NOTHING_OUT),
        };
        if let Some(packed) = self.packed() {
            packed.fprop([x, w, bias], y, (of_tiles, shift))?;
            return f.statistics.map_or(Ok(()), |(_, sums)| self.statistics(p.k, sums));
        }
        let x = self.rows(x, p.c, plan.padded[0], 0)?;
        let w = self.rows(w, p.c, plan.padded[0], 1)?;
        // Each block of a cluster copies its share of the filters.
        let share = plan.tile[1] / plan.cluster;
        if let Some(halo) = plan.halo {
            let (x, w) = (self.lines(x, Operator::Fprop, &halo)?, self.filters(w, share)?);
            let args = (x, w, bias, y, of_tiles, shift, conv, Pod(halo), plan.tiles as u32);
            FPROP_HALO.launch(self.gpu, plan.entry, plan.spread, args)?;
        } else if plan.path == Path::Warpgroup {
            let (x, w) = (self.windows(x, Operator::Fprop, 0, plan.tile[0])?, self.filters(w, share)?);
            if let Some(norm) = &f.norm {
                norm::fprop(self.gpu, plan, [x, w], y, (of_tiles, shift), norm)?;
            } else {
                let args = (x, w, bias, y, of_tiles, shift, conv, plan.tiles as u32);
                FPROP_SM90.launch(self.gpu, plan.entry, plan.spread, args)?;
            }
        } else {
            let kernel = if plan.path == Path::Stem { &FPROP_STEM } else { &FPROP };
            kernel.launch(self.gpu, plan.entry, plan.spread, (x, w, bias, y, of_tiles, shift, conv))?;
        }
        f.statistics.map_or(Ok(()), |(_, sums)| self.statistics(p.k, sums))
    }

    /// Adds up the partial sums of many tiles to those of a few parts, so that enough blocks take part.
    fn statistics(&self, channels: usize, sums: Out) -> Result<()> {
        let [groups, tiles] = self.plan.sums;
        let Some(parts) = merged_parts(tiles) else { return Ok(()) };
        let columns = 2 * channels;
        let grid = [columns.div_ceil(32), parts, groups].map(|v| v as u32);
        let [tiles, span, columns] = [tiles, MERGED, columns].map(|v| v as u32);
        let Out(at, bytes) = self.of_tiles(channels, sums);
        let args = (In(at, bytes), sums, tiles, span, columns);
        STATISTICS.launch(self.gpu, 0, Spread { grid, ..Spread::line(1, 256) }, args)
    }

    /// `dx` from `dy` and `w`, with the epilogue `norm_relu` if there is one (not on the exact path). With `forming`, on a plan
    /// that does so, of the gradient that is formed of `dy`.
    pub fn dgrad(&self, dy: In, w: In, dx: Out, norm_relu: Option<&NormRelu>, forming: Option<&Forming>) -> Result<()> {
        let (p, plan) = (self.problem, &self.plan);
        let conv = Pod(plan.conv);
        if plan.path == Path::Exact {
            return DGRAD_EXACT[self.dtype.index()].launch(self.gpu, 0, plan.spread, (dy, w, dx, conv));
        }
        let dy = self.rows(dy, p.k, plan.padded[1], 0)?;
        let w = self.rows(w, p.c, plan.padded[0], 1)?;
        let no = NOTHING_IN;
        let of_tiles = norm_relu.map_or(NOTHING_OUT, |c| self.of_tiles(p.c, c.sums));
        let [add, signs, normed, mean, inv_std, gamma, beta] = norm_relu.map_or([no; 7], |c| {
            [c.add.unwrap_or(no), c.signs.unwrap_or(no), c.normed, c.mean, c.inv_std, c.gamma, c.beta]
        });
        if let Some(halo) = plan.halo {
            let (dy, w) = (self.lines(dy, Operator::Dgrad, &halo)?, self.filters(w, 64 / plan.cluster)?);
            let (conv, halo, tiles) = (conv, Pod(halo), plan.tiles as u32);
            let args = (dy, w, dx, of_tiles, add, signs, normed, mean, inv_std, gamma, beta, conv, halo, tiles);
            DGRAD_HALO.launch(self.gpu, plan.entry, plan.spread, args)?;
        } else if plan.path == Path::Warpgroup {
            let w = self.filters(w, 64)?;
            if let Some(forming) = forming {
                let [dz, x] = [dy, forming.x].map(|rows| self.windows(rows, Operator::Dgrad, 0, plan.tile[0]));
                norm::dgrad(
                    self.gpu,
                    plan,
                    [dz?, x?, w],
                    (dx, of_tiles),
                    [add, signs, normed, mean, inv_std, gamma, beta],
                    forming,
                )?;
                return norm_relu.map_or(Ok(()), |c| self.statistics(p.c, c.sums));
            }
            let classes = p.geometry.window.stride.iter().product::<usize>();
            for z in 0..classes {
                let dy = self.windows(dy, Operator::Dgrad, z, plan.tile[0])?;
                let [tiles, z, classes] = [plan.tiles, z, classes].map(|v| v as u32);
                // Each launch writes the pixels and the sums of its class.
                let (dx, sums) = (InOut(dx.0, dx.1), InOut(of_tiles.0, of_tiles.1));
                let args = (dy, w, dx, sums, add, signs, normed, mean, inv_std, gamma, beta, conv, tiles, z, classes);
                DGRAD_SM90.launch(self.gpu, plan.entry, plan.spread, args)?;
            }
        } else {
            let args = (dy, w, dx, of_tiles, add, signs, normed, mean, inv_std, gamma, beta, conv);
            DGRAD.launch(self.gpu, plan.entry, plan.spread, args)?;
        }
        norm_relu.map_or(Ok(()), |c| self.statistics(p.c, c.sums))
    }

    /// `dw` (f32) from `x` and `dy`; `x` is normalised by `norm`, if there is one, on a plan that does so.
    pub fn wgrad(&self, x: In, dy: In, dw: Out, norm: Option<&Numbers>) -> Result<()> {
        let (p, plan) = (self.problem, &self.plan);
        let (part, bytes) = self.part();
        let product = if plan.sums_after { Out(part, bytes) } else { dw };
        let conv = Pod(plan.conv);
        if plan.path == Path::Exact {
            WGRAD_EXACT[self.dtype.index()].launch(self.gpu, 0, plan.spread, (x, dy, product, conv))?;
        } else {
            let x = if plan.stem.is_some() { x } else { self.rows(x, p.c, plan.padded[0], 0)? };
            let dy = self.rows(dy, p.k, plan.padded[1], 1)?;
            if let Some(packed) = self.packed() {
                packed.wgrad(x, dy, product)?;
            } else if let Some(halo) = plan.halo {
                let gradient = windows::gradient_lines(p, dy.0, plan.conv.k_row as usize, &halo);
                let (x, dy) = (self.lines(x, Operator::Wgrad, &halo)?, self.gpu.tensor_map(&gradient)?);
                WGRAD_HALO.launch(
                    self.gpu,
                    plan.entry,
                    plan.spread,
                    (x, dy, product, conv, Pod(halo), plan.tiles as u32),
                )?;
            } else if plan.path == Path::Warpgroup {
                let gradient = windows::gradient(p, dy.0, plan.conv.k_row as usize);
                let (x, dy) = (self.windows(x, Operator::Wgrad, 0, 64)?, self.gpu.tensor_map(&gradient)?);
                if let Some(norm) = norm {
                    let pixels = p.n * p.out.iter().product::<usize>();
                    norm::wgrad(self.gpu, plan, [x, dy], product, norm, pixels)?;
                } else {
                    let args = (x, dy, product, conv, plan.tiles as u32);
                    WGRAD_SM90.launch(self.gpu, plan.entry, plan.spread, args)?;
                }
            } else {
                let kernel = if plan.path == Path::Stem { &WGRAD_STEM } else { &WGRAD };
                kernel.launch(self.gpu, plan.entry, plan.spread, (x, dy, product, conv))?;
            }
        }
        if !plan.sums_after {
            return Ok(());
        }
        let (rows, c) = (p.k * p.taps(), p.c_group());
        let c_row = if plan.path == Path::Exact { c } else { plan.conv.c_row as usize };
        let args = (In(part, bytes), dw, plan.splits as u32, rows as u32, c as u32, c_row as u32);
        SPLITS.launch(self.gpu, 0, Spread::cover(rows * c, 256), args)
    }
}

/// What fprop does in addition to its product.
#[derive(Clone, Copy, Default)]
pub(in crate::ops::conv3d) struct Forwards {
    /// One f32 per filter, added before rounding.
    pub bias: Option<In>,
    /// For a plan with statistics: the shift per channel (f32), and where Σ (y - shift) and Σ (y - shift)² are written,
    /// `groups tiles 2 k` as [`sums_of`] says.
    pub statistics: Option<(In, Out)>,
    /// The batch norm with ReLU that is applied to `x`, for a plan that normalises. There is no bias then.
    pub norm: Option<Numbers>,
}

/// What dgrad does to `dx` before it is stored, for a plan with statistics. Arrays have the shape of `dx`, or one f32
/// for each group of samples and channel.
pub(in crate::ops::conv3d) struct NormRelu {
    /// What is added to `dx` first: gradients of other branches.
    pub add: Option<In>,
    /// A bit for each element of the output of the ReLU before the convolution, whether it is positive. If absent, it is
    /// recomputed from `normed`.
    pub signs: Option<In>,
    /// The input of the batch norm before that.
    pub normed: In,
    pub mean: In,
    pub inv_std: In,
    /// One f32 for each channel, as `beta`.
    pub gamma: In,
    pub beta: In,
    /// Where Σ dx and Σ dx · (normed - mean) · inv_std are written, `groups tiles 2 c` as [`sums_of`] says.
    pub sums: Out,
}

/// For how many tiles of each group of samples a pass with statistics leaves sums, to be added up by whoever reads them.
pub(in crate::ops::conv3d) fn sums_of(plan: &Plan) -> usize {
    let [_, tiles] = plan.sums;
    merged_parts(tiles).unwrap_or(tiles)
}
