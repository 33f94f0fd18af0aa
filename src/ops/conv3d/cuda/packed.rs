//! The launches of stems on Hopper: packing (`cuda/conv3d/pack.cu`), and the kernels that read what was packed.

use super::super::Conv3d;
use super::plan::Plan;
use super::problem::Conv;
use super::stem::{ROWS, Stem, filter_space, packed_shape, pitch, steps};
use crate::driver::{Declared, Gpu, In, Kernel, Map, Module, Out, Pod, Spread, TensorMap, TensorWindow};
use crate::error::Result;
use crate::ops::divisor::Divisor;
use crate::tensor::DType;

static FPROP_FILE: Module =
    Module::new("conv3d_fprop_stem_sm90", include_str!("../../../../ptx/conv3d_fprop_stem_sm90.sm_90a.ptx"));
static WGRAD_FILE: Module =
    Module::new("conv3d_wgrad_stem_sm90", include_str!("../../../../ptx/conv3d_wgrad_stem_sm90.sm_90a.ptx"));
static PACK_FILE: Module = Module::new("conv3d_pack", include_str!("../../../../ptx/conv3d_pack.sm_80.ptx"));

/// `x w bias y sums shift`, and the number of tiles.
type Fprop = Kernel<(Map, Map, In, Out, Out, In, Pod<Conv>, Pod<Stem>, u32)>;
/// `x dy dw`, and the number of tiles.
type Wgrad = Kernel<(Map, Map, Out, Pod<Conv>, Pod<Stem>, u32)>;

/// Indexed by tile, as in `tiles`.
static FPROP: Fprop =
    Kernel::new(&FPROP_FILE, &["conv3d_fprop_stem_sm90_112x64_bf16", "conv3d_fprop_stem_sm90_56x64_bf16"]);
static WGRAD: Wgrad = Kernel::new(&WGRAD_FILE, &["conv3d_wgrad_stem_sm90_64x224_bf16"]);

/// Pixels, where their packed copies go, and their shape.
type PixelArgs = (In, Out, u32, u32, u32, Pod<Divisor>);
/// Filters, where their packed copies go, and their shape.
type FilterArgs = (In, Out, u32, u32, u32, u32, u32, u32);

/// Of bf16, then of f32.
static PIXELS: [Kernel<PixelArgs>; 2] =
    [Kernel::new(&PACK_FILE, &["conv3d_pack_pixels_bf16"]), Kernel::new(&PACK_FILE, &["conv3d_pack_pixels_f32_bf16"])];
static FILTERS: Kernel<FilterArgs> = Kernel::new(&PACK_FILE, &["conv3d_pack_filters_bf16"]);

pub(super) fn declared() -> [Declared; 5] {
    let [bf16, f32] = &PIXELS;
    [FPROP.declared(), WGRAD.declared(), bf16.declared(), f32.declared(), FILTERS.declared()]
}

/// Packs the pixels of `x`, bf16 or f32, which are rounded.
pub(super) fn pack(gpu: &Gpu, p: &Conv3d, dtype: DType, x: In, to: Out) -> Result<()> {
    let lines = p.n * p.input[0] * p.input[1];
    let pairs = pitch(p) / 2;
    let [of_lines, width, channels] = [lines, p.input[2], p.c].map(|v| v as u32);
    let args = (x, to, of_lines, width, channels, Pod(Divisor::new(pairs)));
    PIXELS[usize::from(dtype == DType::F32)].launch(gpu, 0, Spread::cover(lines * pairs, 256), args)
}

/// A planned pass of a stem, with working space at a device address.
pub(super) struct Packed<'a> {
    pub gpu: &'a Gpu,
    pub problem: &'a Conv3d,
    pub plan: &'a Plan,
    pub stem: Stem,
    pub space: u64,
}

impl Packed<'_> {
    /// `x`, packed in working space unless that is its form.
    fn pixels(&self, x: In) -> Result<Map> {
        let (p, stem) = (self.problem, &self.stem);
        let mut ptr = x.0;
        if self.plan.space[0] > 0 {
            ptr = self.space;
            pack(self.gpu, p, DType::BF16, x, Out(ptr, 2 * packed_shape(p).iter().product::<usize>()))?;
        }
        let [t, h, _] = p.input;
        let extents = [pitch(p), h, t, p.n].map(|v| v as u64).to_vec();
        let window = TensorWindow::Words(vec![stem.width, stem.height, 1, 1]);
        self.gpu.tensor_map(&TensorMap { ptr, extents, window })
    }

    /// The packed filters, in copies of a frame of them.
    fn filters(&self, w: In) -> Result<Map> {
        let p = self.problem;
        let (ptr, bytes) = (self.space + self.plan.space[0] as u64, filter_space(p));
        let (lines, pairs) = (p.kernel[0] * p.kernel[1], 2 * steps(p));
        let [k, rows, of_lines, taps, c, of_pairs] = [p.k, ROWS, lines, p.kernel[2], p.c, pairs].map(|v| v as u32);
        let args = (w, Out(ptr, bytes), k, rows, of_lines, taps, c, of_pairs);
        FILTERS.launch(self.gpu, 0, Spread::cover(lines * pairs * ROWS, 256), args)?;
        // Rows of eight numbers of each filter.
        let row = 2 * ROWS;
        let window = TensorWindow::Words(vec![row as u32, (p.kernel[1] * pairs) as u32]);
        self.gpu.tensor_map(&TensorMap { ptr, extents: vec![row as u64, (lines * pairs) as u64], window })
    }

    /// fprop, with a bias and with sums of tiles about a shift where these are not empty.
    pub fn fprop(&self, [x, w, bias]: [In; 3], y: Out, (of_tiles, shift): (Out, In)) -> Result<()> {
        let (x, w) = (self.pixels(x)?, self.filters(w)?);
        let args = (x, w, bias, y, of_tiles, shift, Pod(self.plan.conv), Pod(self.stem), self.plan.tiles as u32);
        FPROP.launch(self.gpu, self.plan.entry, self.plan.spread, args)
    }

    /// wgrad from `dy` with rows of `plan.conv.k_row`, to the partial sums of each split and consumer.
    pub fn wgrad(&self, x: In, dy: In, part: Out) -> Result<()> {
        let (p, plan) = (self.problem, self.plan);
        let [t, h, w] = p.out;
        let dy = self.gpu.tensor_map(&TensorMap {
            ptr: dy.0,
            extents: [plan.conv.k_row as usize, w, h, t, p.n].map(|v| v as u64).to_vec(),
            window: TensorWindow::Tiled(vec![ROWS as u32, self.stem.columns, self.stem.lines, 1, 1]),
        })?;
        let args = (self.pixels(x)?, dy, part, Pod(plan.conv), Pod(self.stem), plan.tiles as u32);
        WGRAD.launch(self.gpu, plan.entry, plan.spread, args)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Geometry, Operator};
    use super::super::plan::{Generation, Path};
    use super::*;
    use crate::shape::Window;

    fn stem(x: [usize; 5], k: usize, kernel: [usize; 3], stride: [usize; 3]) -> Conv3d {
        let w = [k, kernel[0], kernel[1], kernel[2], x[4]];
        let g = Geometry::new(Window::same(kernel).strided(stride));
        Conv3d::new("conv3d", x.into(), w.into(), &g).unwrap()
    }

    /// Those of MaCLR, MCL and the networks.
    #[test]
    fn stems_of_the_methods_take_these_kernels() {
        for (x, k, kernel, stride, columns) in [
            ([32, 8, 224, 224, 3], 64, [5, 7, 7], [2, 2, 2], 112),
            ([32, 16, 224, 224, 3], 8, [1, 7, 7], [2, 2, 2], 112),
            ([32, 16, 224, 224, 3], 64, [4, 7, 7], [4, 2, 2], 112),
            ([64, 16, 112, 112, 3], 45, [1, 7, 7], [1, 2, 2], 56),
        ] {
            let p = stem(x, k, kernel, stride);
            let plan = |pass, on| Plan::new(&p, pass, DType::BF16, on).unwrap();
            let fprop = plan(Operator::Fprop, Generation::HopperWithoutHalos);
            assert_eq!((fprop.path, fprop.tile[0]), (Path::Packed, columns), "{p:?}");
            assert_eq!(plan(Operator::Wgrad, Generation::Hopper).path, Path::Packed, "{p:?}");
            for pass in [Operator::Fprop, Operator::Wgrad] {
                assert_eq!(plan(pass, Generation::Ampere).path, Path::Stem);
            }
        }
    }
}
