//! What a motion network sees: edges of the flow field, the flow itself, or differences of frames (the three inputs
//! MaCLR compares; which one is chosen is [`crate::flow::motion`]'s).

pub mod cases;
mod cpu;
pub mod reference;

use crate::flow::Flow;

/// Edges of a flow field, `h w`, 0 to 1: `E = √((Gx∗u)² + (Gy∗u)² + (Gx∗v)² + (Gy∗v)²)` with the 3x3 Sobel kernels (not
/// normalised: a step of one pixel answers 4), the border repeated, then `min(E, clamp) / clamp`. A panning camera
/// leaves no edge; mirroring the video mirrors the map and changes nothing else.
///
/// `clamp` is in pixels and should be positive: one that is not makes every edge a 1.
pub fn flow_edges(flow: &Flow, clamp: f32) -> Vec<f32> {
    cpu::flow_edges(flow, clamp.max(f32::MIN_POSITIVE))
}

/// `(u, v)` clamped to `±clamp` pixels and divided by it, `h w 2`, -1 to 1. `clamp` as in [`flow_edges`].
pub fn scaled_flow(flow: &Flow, clamp: f32) -> Vec<f32> {
    let clamp = clamp.max(f32::MIN_POSITIVE);
    let scale = |x: f32| x.clamp(-clamp, clamp) / clamp;
    flow.u.iter().zip(&flow.v).flat_map(|(&u, &v)| [scale(u), scale(v)]).collect()
}

/// Mean over the channels of `|next - this| / 255`, `h w`, 0 to 1, of two RGB frames `h w 3`. The shorter of the two
/// decides how many pixels come out.
pub fn frame_difference(this: &[u8], next: &[u8]) -> Vec<f32> {
    cpu::frame_difference(this, next)
}
