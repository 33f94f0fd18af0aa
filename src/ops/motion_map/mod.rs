//! What a motion network sees: edges of the flow field, or differences of frames (MaCLR, section 3.1 of its description in
//! this crate's documentation).

use crate::flow::Flow;

/// Edges of a flow field, `h w`, 0 to 1: `E = √((Gx∗u)² + (Gy∗u)² + (Gx∗v)² + (Gy∗v)²)` with the 3x3 Sobel kernels (not
/// normalised: a step of one pixel answers 4), the border repeated, then `min(E, clamp) / clamp`. A panning camera
/// leaves no edge; mirroring the video mirrors the map and changes nothing else.
pub fn flow_edges(flow: &Flow, clamp: f32) -> Vec<f32> {
    let (h, w) = (flow.h, flow.w);
    let mut out = Vec::with_capacity(h * w);
    for y in 0..h {
        let rows = [y.saturating_sub(1) * w, y * w, (y + 1).min(h - 1) * w];
        for x in 0..w {
            let columns = [x.saturating_sub(1), x, (x + 1).min(w - 1)];
            let mut square = 0.0;
            for f in [&flow.u, &flow.v] {
                let at = |i: usize, j: usize| f[rows[i] + columns[j]];
                let gx = at(0, 2) - at(0, 0) + 2.0 * (at(1, 2) - at(1, 0)) + at(2, 2) - at(2, 0);
                let gy = at(2, 0) - at(0, 0) + 2.0 * (at(2, 1) - at(0, 1)) + at(2, 2) - at(0, 2);
                square += gx * gx + gy * gy;
            }
            out.push(square.sqrt().min(clamp) / clamp);
        }
    }
    out
}

/// Mean over the channels of `|next - this| / 255`, `h w`, 0 to 1, of two RGB frames `h w 3`.
///
/// The shorter of the two decides how many pixels come out.
pub fn frame_difference(this: &[u8], next: &[u8]) -> Vec<f32> {
    let pixels = this.chunks_exact(3).zip(next.chunks_exact(3));
    pixels.map(|(a, b)| a.iter().zip(b).map(|(a, b)| f32::from(a.abs_diff(*b))).sum::<f32>() / 765.0).collect()
}

/// `(u, v)` clamped to `±clamp` pixels and divided by it, `h w 2`, -1 to 1.
pub fn scaled_flow(flow: &Flow, clamp: f32) -> Vec<f32> {
    let scale = |x: f32| x.clamp(-clamp, clamp) / clamp;
    flow.u.iter().zip(&flow.v).flat_map(|(&u, &v)| [scale(u), scale(v)]).collect()
}
