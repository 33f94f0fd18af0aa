//! The launches of a planned pass, on device addresses: no tensors, no allocation.

use super::super::Conv3d;
use super::plan::{Pass, Path, Plan};
use super::problem::{Conv, Divisor};
use crate::driver::{Declared, Gpu, In, Kernel, Module, Out, Pod, Spread};
use crate::error::Result;
use crate::tensor::DType;

static FPROP_FILE: Module = Module::new("conv3d_fprop", include_str!("../../../../ptx/conv3d_fprop.sm_80.ptx"));
static DGRAD_FILE: Module = Module::new("conv3d_dgrad", include_str!("../../../../ptx/conv3d_dgrad.sm_80.ptx"));
static WGRAD_FILE: Module = Module::new("conv3d_wgrad", include_str!("../../../../ptx/conv3d_wgrad.sm_80.ptx"));
static STEM_FILE: Module = Module::new("conv3d_stem", include_str!("../../../../ptx/conv3d_stem.sm_80.ptx"));
static EXACT_FILE: Module = Module::new("conv3d_exact", include_str!("../../../../ptx/conv3d_exact.sm_80.ptx"));
static GROUPED_FILE: Module = Module::new("conv3d_grouped", include_str!("../../../../ptx/conv3d_grouped.sm_80.ptx"));

/// `x w y sums shift`, or `x w y` of the exact path; likewise below.
type Forward = Kernel<(In, In, Out, Out, In, Pod<Conv>)>;
type Backward = Kernel<(In, In, Out, Out, In, In, In, In, Pod<Conv>)>;
type Plain = Kernel<(In, In, Out, Pod<Conv>)>;

/// By tile, as in `plan`.
static FPROP: Forward =
    Kernel::new(&FPROP_FILE, &["conv3d_fprop_128x128_bf16", "conv3d_fprop_128x64_bf16", "conv3d_fprop_64x64_bf16"]);
static DGRAD: Backward = Kernel::new(&DGRAD_FILE, &["conv3d_dgrad_128x128_bf16", "conv3d_dgrad_64x64_bf16"]);
static WGRAD: Plain = Kernel::new(&WGRAD_FILE, &["conv3d_wgrad_128x128_bf16", "conv3d_wgrad_64x64_bf16"]);
static WGRAD_SUM: Kernel<(In, Out, u32, u32, u32, u32)> = Kernel::new(&WGRAD_FILE, &["conv3d_wgrad_sum_f32"]);

static FPROP_STEM: Forward = Kernel::new(&STEM_FILE, &["conv3d_fprop_stem_bf16"]);
static WGRAD_STEM: Plain = Kernel::new(&STEM_FILE, &["conv3d_wgrad_stem_bf16"]);
static PAD: Kernel<(In, Out, u32, u32, Pod<Divisor>)> = Kernel::new(&STEM_FILE, &["conv3d_pad_bf16"]);

/// By pass: f32 tensors, then bf16.
static EXACT: [Plain; 2] = [
    Kernel::new(&EXACT_FILE, &["conv3d_fprop_exact_f32", "conv3d_dgrad_exact_f32", "conv3d_wgrad_exact_f32"]),
    Kernel::new(&GROUPED_FILE, &["conv3d_fprop_exact_bf16", "conv3d_dgrad_exact_bf16", "conv3d_wgrad_exact_bf16"]),
];

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![
        FPROP.declared(),
        DGRAD.declared(),
        WGRAD.declared(),
        WGRAD_SUM.declared(),
        FPROP_STEM.declared(),
        WGRAD_STEM.declared(),
        PAD.declared(),
        EXACT[0].declared(),
        EXACT[1].declared(),
    ]
}

const NOTHING_IN: In = In(0, 0);
const NOTHING_OUT: Out = Out(0, 0);

/// One planned pass, ready to be launched: where it runs, what it is, and working space of `plan.workspace()` bytes.
pub(super) struct Work<'a> {
    pub gpu: &'a Gpu,
    pub problem: &'a Conv3d,
    pub dtype: DType,
    pub plan: Plan,
    /// Device address, aligned to 256 bytes.
    pub space: u64,
}

impl Work<'_> {
    /// `from`, or the copy in working space number `slot` with rows padded from `channels` to `to`.
    fn rows(&self, from: In, channels: usize, to: Option<usize>, slot: usize) -> Result<In> {
        let Some(to) = to else { return Ok(from) };
        let rows = from.1 / (2 * channels);
        let at = self.space + self.plan.space[..slot].iter().sum::<usize>() as u64;
        let bytes = rows * to * 2;
        let args = (from, Out(at, bytes), rows as u32, channels as u32, Pod(Divisor::new(to / 4)));
        PAD.launch(self.gpu, 0, Spread::cover(rows * to / 4, 256), args)?;
        Ok(In(at, bytes))
    }

    /// `y` from `x` and `w`. `sums`: the shift per channel, and where the statistics of each tile go; not on the exact
    /// path.
    pub fn fprop(&self, x: In, w: In, y: Out, sums: Option<(In, Out)>) -> Result<()> {
        let (p, plan) = (self.problem, &self.plan);
        let conv = Pod(plan.conv);
        if plan.path == Path::Exact {
            return EXACT[self.dtype.index()].launch(self.gpu, Pass::Fprop as usize, plan.spread, (x, w, y, conv));
        }
        let x = self.rows(x, p.c, plan.padded[0], 0)?;
        let w = self.rows(w, p.c, plan.padded[0], 1)?;
        let (shift, sums) = sums.unwrap_or((NOTHING_IN, NOTHING_OUT));
        let kernel = if plan.path == Path::Stem { &FPROP_STEM } else { &FPROP };
        kernel.launch(self.gpu, plan.entry, plan.spread, (x, w, y, sums, shift, conv))
    }

    /// `dx` from `dy` and `w`.
    pub fn dgrad(&self, dy: In, w: In, dx: Out) -> Result<()> {
        let (p, plan) = (self.problem, &self.plan);
        let conv = Pod(plan.conv);
        if plan.path == Path::Exact {
            return EXACT[self.dtype.index()].launch(self.gpu, Pass::Dgrad as usize, plan.spread, (dy, w, dx, conv));
        }
        let dy = self.rows(dy, p.k, plan.padded[1], 0)?;
        let w = self.rows(w, p.c, plan.padded[0], 1)?;
        let no = NOTHING_IN;
        DGRAD.launch(self.gpu, plan.entry, plan.spread, (dy, w, dx, NOTHING_OUT, no, no, no, no, conv))
    }

    /// `dw` (f32) from `x` and `dy`.
    pub fn wgrad(&self, x: In, dy: In, dw: Out) -> Result<()> {
        let (p, plan) = (self.problem, &self.plan);
        let part = self.space + (plan.space[0] + plan.space[1]) as u64;
        let product = if plan.sums_after { Out(part, plan.space[2]) } else { dw };
        let conv = Pod(plan.conv);
        if plan.path == Path::Exact {
            EXACT[self.dtype.index()].launch(self.gpu, Pass::Wgrad as usize, plan.spread, (x, dy, product, conv))?;
        } else {
            let x = self.rows(x, p.c, plan.padded[0], 0)?;
            let dy = self.rows(dy, p.k, plan.padded[1], 1)?;
            let kernel = if plan.path == Path::Stem { &WGRAD_STEM } else { &WGRAD };
            kernel.launch(self.gpu, plan.entry, plan.spread, (x, dy, product, conv))?;
        }
        if !plan.sums_after {
            return Ok(());
        }
        let (rows, c) = (p.k * p.taps(), p.c_group());
        let c_row = if plan.path == Path::Exact { c } else { plan.conv.c_row as usize };
        let args = (In(part, plan.space[2]), dw, plan.splits as u32, rows as u32, c as u32, c_row as u32);
        WGRAD_SUM.launch(self.gpu, 0, Spread::cover(rows * c, 256), args)
    }
}
