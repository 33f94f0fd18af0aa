//! Motion maps on a GPU, each in one launch and one pass over memory.

use crate::driver::{Declared, Gpu, In, Kernel, Module, Out, Spread};
use crate::error::Result;
use crate::tensor::{DType, Frames, Tensor};

static MODULE: Module = Module::new("motion_map", include_str!("../../../ptx/motion_map.sm_80.ptx"));

/// Indexed by the data type of the map.
static EDGES: Kernel<(In, Out, u32, u32, f32)> =
    Kernel::new(&MODULE, &["motion_map_edges_f32", "motion_map_edges_bf16"]);
static FLOW: Kernel<(In, Out, u32, f32)> = Kernel::new(&MODULE, &["motion_map_flow_f32", "motion_map_flow_bf16"]);
/// Indexed by the data type of the map; then the same for frames that consist of whole 32-bit words.
static DIFFERENCE: Kernel<(In, Out, u32, u32)> = Kernel::new(
    &MODULE,
    &[
        "motion_map_difference_f32",
        "motion_map_difference_bf16",
        "motion_map_difference_wide_f32",
        "motion_map_difference_wide_bf16",
    ],
);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![EDGES.declared(), FLOW.declared(), DIFFERENCE.declared()]
}

/// Threads per block.
const BLOCK: u32 = 256;
/// Pixels per tile of edges, across and down.
const TILE: [usize; 2] = [64, 32];
/// Differences per thread.
const FRAMES: usize = 8;

pub(super) fn edges(gpu: &Gpu, flow: &Tensor, [n, h, w]: [usize; 3], clamp: f32, dtype: DType) -> Result<Tensor> {
    let mut to = Tensor::on_gpu(gpu, dtype, [n, h, w, 1])?;
    let grid = [w.div_ceil(TILE[0]) as u32, h.div_ceil(TILE[1]) as u32, n as u32];
    let args = (flow.input(), to.output(), h as u32, w as u32, clamp);
    EDGES.launch(gpu, dtype.index(), Spread { grid, ..Spread::line(1, BLOCK) }, args)?;
    Ok(to)
}

pub(super) fn scaled(gpu: &Gpu, flow: &Tensor, [n, h, w]: [usize; 3], clamp: f32, dtype: DType) -> Result<Tensor> {
    let mut to = Tensor::on_gpu(gpu, dtype, [n, h, w, 2])?;
    let grid = [(h * w).div_ceil(BLOCK as usize) as u32, n as u32, 1];
    let args = (flow.input(), to.output(), (h * w) as u32, clamp);
    FLOW.launch(gpu, dtype.index(), Spread { grid, ..Spread::line(1, BLOCK) }, args)?;
    Ok(to)
}

pub(super) fn differences(frames: &Frames, dtype: DType) -> Result<Tensor> {
    let [count, h, w] = frames.dims();
    let pixels = h * w;
    let mut to = Tensor::on_gpu(frames.gpu(), dtype, [count - 1, h, w, 1])?;
    let wide = pixels.is_multiple_of(4);
    let threads = if wide { pixels / 4 } else { pixels };
    let grid = [threads.div_ceil(BLOCK as usize) as u32, (count - 1).div_ceil(FRAMES) as u32, 1];
    let which = 2 * usize::from(wide) + dtype.index();
    let args = (frames.input(), to.output(), pixels as u32, count as u32);
    DIFFERENCE.launch(frames.gpu(), which, Spread { grid, ..Spread::line(1, BLOCK) }, args)?;
    Ok(to)
}
