//! What a motion network sees: edges of the flow field, the flow itself, or differences of frames (the three inputs
//! MaCLR compares; which one is chosen is [`crate::flow::motion`]'s). And the motion boundary, of which MCL makes its maps
//! ([`crate::flow::maps`]).

pub mod cases;
mod cpu;
pub(super) mod cuda;
pub mod reference;

use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::tensor::{DType, Frames, Place, Tensor};
use half::f16;

/// Edges of a flow field, `h w`, 0 to 1: `E = √((Gx∗u)² + (Gy∗u)² + (Gx∗v)² + (Gy∗v)²)` with the 3x3 Sobel kernels (not
/// normalised: a step of one pixel answers 4), the border repeated, then `min(E, clamp) / clamp`. A panning camera
/// leaves no edge; mirroring the video mirrors the map and changes nothing else.
///
/// `clamp` is in pixels and should be positive: one that is not makes every edge a 1.
pub fn flow_edges(flow: &Flow, clamp: f32) -> Vec<f32> {
    cpu::flow_edges(flow, clamp.max(f32::MIN_POSITIVE))
}

/// Flow of 16 bits a number, as a cache keeps it, in 32: exactly.
pub fn widened(halves: &[f16]) -> Vec<f32> {
    cpu::widened(halves)
}

/// `u` and `v` clamped to `±clamp` pixels and divided by it, -1 to 1, a plane `h w` each. `clamp` as in [`flow_edges`].
pub fn scaled_flow(flow: &Flow, clamp: f32) -> [Vec<f32>; 2] {
    let clamp = clamp.max(f32::MIN_POSITIVE);
    [flow.u(), flow.v()].map(|plane| plane.iter().map(|x| x.clamp(-clamp, clamp) / clamp).collect())
}

/// Mean over the channels of `|next - this| / 255`, `h w`, 0 to 1, of two RGB frames `h w 3`. The shorter of the two
/// decides how many pixels come out.
pub fn frame_difference(this: &[u8], next: &[u8]) -> Vec<f32> {
    cpu::frame_difference(this, next)
}

/// The motion boundary of a flow field (`mcl.md` section 1.3), two planes `h w`: of `u` and of `v` each the magnitude
/// `√((Kx∗c)² + (Ky∗c)²)` with Prewitt's kernels (`Kx` three rows of -1 0 1, `Ky` its transpose; not normalised: a step of one
/// pixel answers 3), the border repeated. In the flow's unit; nothing is clamped. A panning camera leaves none.
///
/// The kernels are linear, so the boundary of several fields together is that of their sum.
pub fn motion_boundary(flow: &Flow) -> [Vec<f32>; 2] {
    [flow.u(), flow.v()].map(|field| cpu::motion_boundary(field, flow.h(), flow.w()))
}

/// [`flow_edges`] of each of the fields `[n 2 h w]`, where they are: `[n h w 1]` in `dtype`.
///
/// # Errors
/// `Shape` when `flow` is no batch of fields with pixels, or there are more than 65535; `DType` when it is not f32; of a GPU
/// `OutOfMemory` and `Driver`.
pub fn flow_edges_batch(flow: &Tensor, clamp: f32, dtype: DType) -> Result<Tensor> {
    let clamp = clamp.max(f32::MIN_POSITIVE);
    let extents = fields(flow)?;
    match flow.place("flow_edges", &[])? {
        Place::Cpu => each(flow, extents, dtype, |flow| [flow_edges(flow, clamp)]),
        Place::Gpu(gpu) => cuda::edges(gpu, flow, extents, clamp, dtype),
    }
}

/// [`scaled_flow`] of each of the fields `[n 2 h w]`, where they are: `[n h w 2]` in `dtype`, channels innermost as in every
/// tensor.
///
/// # Errors
/// As [`flow_edges_batch`].
pub fn scaled_flow_batch(flow: &Tensor, clamp: f32, dtype: DType) -> Result<Tensor> {
    let clamp = clamp.max(f32::MIN_POSITIVE);
    let extents = fields(flow)?;
    match flow.place("scaled_flow", &[])? {
        Place::Cpu => each(flow, extents, dtype, |flow| scaled_flow(flow, clamp)),
        Place::Gpu(gpu) => cuda::scaled(gpu, flow, extents, clamp, dtype),
    }
}

/// [`frame_difference`] of each frame on a GPU and the next: `[count-1 h w 1]` in `dtype`.
///
/// # Errors
/// `Shape` when there are fewer than two frames, or more than 2^28 pixels in one; `OutOfMemory`; `Driver`.
pub fn frame_differences(frames: &Frames, dtype: DType) -> Result<Tensor> {
    let [count, h, w] = frames.dims();
    if count < 2 || h * w > 1 << 28 {
        let got = format!("{count} of {h}x{w}");
        return Err(Error::shape("frame_difference", "frames", "at least two, of at most 2^28 pixels", got));
    }
    cuda::differences(frames, dtype)
}

/// `n h w` of a batch of fields.
fn fields(flow: &Tensor) -> Result<[usize; 3]> {
    flow.expect("motion_map", "flow", DType::F32)?;
    match *flow.dims() {
        [n, 2, h, w] if (1..=65535).contains(&n) && (1..=1 << 28).contains(&(h * w)) && h < 1 << 21 => Ok([n, h, w]),
        _ => {
            let rule = "[n 2 h w], at most 65535 fields of 1 to 2^28 pixels";
            Err(Error::shape("motion_map", "flow", rule, flow.shape()))
        }
    }
}

/// The `C` planes that `map` makes of each field of a batch on the CPU, as channels: `[n h w C]`.
fn each<const C: usize>(
    flow: &Tensor,
    [n, h, w]: [usize; 3],
    dtype: DType,
    map: impl Fn(&Flow) -> [Vec<f32>; C],
) -> Result<Tensor> {
    let all = flow.host()?;
    Tensor::build_as(dtype, [n, h, w, C], |out| {
        for (out, field) in out.chunks_exact_mut(h * w * C).zip(all.chunks_exact(2 * h * w)) {
            let (u, v) = field.split_at(h * w);
            let planes = map(&Flow::new(h, w, u.to_vec(), v.to_vec()).expect("planes of h w"));
            for (c, plane) in planes.iter().enumerate() {
                out.iter_mut().skip(c).step_by(C).zip(plane).for_each(|(y, x)| *y = *x);
            }
        }
    })
}
