//! Inputs of a motion network: edges of the flow field, the flow itself, or differences of frames (the three inputs
//! MaCLR compares; [`crate::flow::motion`] selects one). Also the motion boundary, from which MCL's maps are computed
//! ([`crate::flow::maps`]).
//!
//! ```
//! use tubelet::{flow::Flow, ops::motion_map};
//! // The right half moves by half a pixel: there is an edge between the halves.
//! let u = (0..24).map(|i| if i % 6 < 3 { 0.0 } else { 0.5 }).collect();
//! let edges = motion_map::flow_edges(&Flow::new(4, 6, u, vec![0.0; 24])?, 10.0);
//! assert_eq!(edges[..6], [0.0, 0.0, 0.2, 0.2, 0.0, 0.0]);
//! # Ok::<(), tubelet::Error>(())
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::tensor::{DType, Frames, Place, Tensor};
use half::f16;

/// Edges of a flow field, `h w`, 0 to 1: `E = √((Gx∗u)² + (Gy∗u)² + (Gx∗v)² + (Gy∗v)²)` with the 3x3 Sobel kernels (not
/// normalised: the response to a step of one pixel is 4), the border replicated, then `min(E, clamp) / clamp`. A
/// panning camera gives no edges; mirroring the video mirrors the map and changes nothing else.
///
/// `clamp` is in pixels and should be positive; otherwise every edge becomes 1. NaN in the flow gives NaN at the eight
/// pixels around it.
#[must_use]
pub fn flow_edges(flow: &Flow, clamp: f32) -> Vec<f32> {
    cpu::flow_edges(flow, clamp.max(f32::MIN_POSITIVE))
}

/// Flow stored as 16-bit floats, as in the cache, converted to 32 bits; exact.
#[must_use]
pub fn widened(halves: &[f16]) -> Vec<f32> {
    cpu::widened(halves)
}

/// `u` and `v` clamped to `±clamp` pixels and divided by it, -1 to 1, as one plane `h w` each. `clamp` as in
/// [`flow_edges`].
#[must_use]
pub fn scaled_flow(flow: &Flow, clamp: f32) -> [Vec<f32>; 2] {
    let clamp = clamp.max(f32::MIN_POSITIVE);
    [flow.u(), flow.v()].map(|plane| plane.iter().map(|x| x.clamp(-clamp, clamp) / clamp).collect())
}

/// Mean over the channels of `|next - this| / 255`, `h w`, 0 to 1, for two RGB frames `h w 3`. If they differ in
/// length, the result has the pixels of the shorter.
#[must_use]
pub fn frame_difference(this: &[u8], next: &[u8]) -> Vec<f32> {
    cpu::frame_difference(this, next)
}

/// The motion boundary of a flow field (`docs/papers/mcl.md` section 1.3), two planes `h w`: for `u` and for `v` the
/// magnitude `√((Kx∗c)² + (Ky∗c)²)` with Prewitt's kernels (`Kx` three rows of -1 0 1, `Ky` its transpose; not
/// normalised: the response to a step of one pixel is 3), the border replicated. In the flow's unit, without clamping.
/// A panning camera gives none.
///
/// The kernels are linear, so the boundary of the sum of several fields covers all of them.
#[must_use]
pub fn motion_boundary(flow: &Flow) -> [Vec<f32>; 2] {
    [flow.u(), flow.v()].map(|field| cpu::motion_boundary(field, flow.h(), flow.w()))
}

/// [`flow_edges`] of each of the fields `[n 2 h w]`, on their device: `[n h w 1]` in `dtype`.
///
/// # Errors
/// `Shape` when `flow` is not a batch of non-empty fields, or there are more than 65535; `DType` when it is not f32; on
/// a GPU `OutOfMemory` and `Driver`.
pub fn flow_edges_batch(flow: &Tensor, clamp: f32, dtype: DType) -> Result<Tensor> {
    let clamp = clamp.max(f32::MIN_POSITIVE);
    let extents = fields(flow)?;
    match flow.place("flow_edges", &[])? {
        Place::Cpu => each(flow, extents, dtype, |flow| [flow_edges(flow, clamp)]),
        Place::Gpu(gpu) => cuda::edges(gpu, flow, extents, clamp, dtype),
    }
}

/// [`scaled_flow`] of each of the fields `[n 2 h w]`, on their device: `[n h w 2]` in `dtype`, channels innermost as in
/// every tensor.
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

/// [`frame_difference`] of each frame on a GPU and its successor: `[count-1 h w 1]` in `dtype`.
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

/// The `C` planes that `map` computes from each field of a batch on the CPU, as channels: `[n h w C]`.
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
