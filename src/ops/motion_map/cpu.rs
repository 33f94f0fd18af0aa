//! Sobel's kernels are separable: smoothing along columns and differences along rows, and the other way round, row by
//! row.

use crate::cpu::widest::widest;
use crate::flow::Flow;
use half::f16;

pub(super) fn flow_edges(flow: &Flow, clamp: f32) -> Vec<f32> {
    let (h, w) = (flow.h(), flow.w());
    let mut out = vec![0.0f32; h * w];
    if out.is_empty() {
        return out;
    }
    // A row with columns smoothed, and with columns differenced, extended by its first and last element.
    let (mut smooth, mut step) = (vec![0.0f32; w + 2], vec![0.0f32; w + 2]);
    widest(
        #[inline(always)]
        || {
            for field in [flow.u(), flow.v()] {
                let row = |y: usize| &field[y * w..][..w];
                for (y, out) in out.chunks_exact_mut(w).enumerate() {
                    let (up, here, down) = (row(y.saturating_sub(1)), row(y), row((y + 1).min(h - 1)));
                    let (to_smooth, to_step) = (&mut smooth[1..=w], &mut step[1..=w]);
                    for x in 0..w {
                        to_smooth[x] = up[x] + 2.0 * here[x] + down[x];
                        to_step[x] = down[x] - up[x];
                    }
                    for line in [&mut smooth, &mut step] {
                        (line[0], line[w + 1]) = (line[1], line[w]);
                    }
                    let (left, right) = (&smooth[..w], &smooth[2..]);
                    let (before, here, after) = (&step[..w], &step[1..=w], &step[2..]);
                    for x in 0..w {
                        let (gx, gy) = (right[x] - left[x], before[x] + 2.0 * here[x] + after[x]);
                        out[x] += gx * gx + gy * gy;
                    }
                }
            }
            // A separate closure would be compiled without the wider vectors. `f32::min` would turn NaN into `clamp`.
            for e in &mut out {
                let edge = e.sqrt();
                *e = if edge > clamp { clamp } else { edge } / clamp;
            }
        },
    );
    out
}

/// 16-bit floats converted to 32 bits.
pub(super) fn widened(halves: &[f16]) -> Vec<f32> {
    const BIAS: u32 = (127 - 15) << 23;
    let halves: &[u16] = bytemuck::cast_slice(halves);
    let mut out = vec![0.0f32; halves.len()];
    widest(
        #[inline(always)]
        || {
            for (y, &h) in out.iter_mut().zip(halves) {
                let (bits, exponent) = (u32::from(h & 0x7fff), h & 0x7c00);
                // Below the smallest normal exponent a number is a multiple of 2^-24; above the largest it is infinite
                // or NaN.
                let normal = (bits << 13) + if exponent == 0x7c00 { 2 * BIAS } else { BIAS };
                let small = (bits as i32 as f32 * (0.5f32 / (1 << 23) as f32)).to_bits();
                let size = if exponent == 0 { small } else { normal };
                *y = f32::from_bits(size | u32::from(h & 0x8000) << 16);
            }
        },
    );
    out
}

/// Prewitt's kernels are separable: sums along columns and differences along rows, and the other way round, row by row.
pub(super) fn motion_boundary(field: &[f32], h: usize, w: usize) -> Vec<f32> {
    let mut out = vec![0.0f32; h * w];
    if out.is_empty() {
        return out;
    }
    let (mut sum, mut step) = (vec![0.0f32; w + 2], vec![0.0f32; w + 2]);
    let row = |y: usize| &field[y * w..][..w];
    for (y, out) in out.chunks_exact_mut(w).enumerate() {
        let (up, here, down) = (row(y.saturating_sub(1)), row(y), row((y + 1).min(h - 1)));
        for x in 0..w {
            sum[x + 1] = up[x] + here[x] + down[x];
            step[x + 1] = down[x] - up[x];
        }
        for line in [&mut sum, &mut step] {
            (line[0], line[w + 1]) = (line[1], line[w]);
        }
        for (out, (s, d)) in out.iter_mut().zip(sum.windows(3).zip(step.windows(3))) {
            let (gx, gy) = (s[2] - s[0], d[0] + d[1] + d[2]);
            *out = (gx * gx + gy * gy).sqrt();
        }
    }
    out
}

pub(super) fn frame_difference(this: &[u8], next: &[u8]) -> Vec<f32> {
    let pixel = |(a, b): (&[u8], &[u8])| {
        let sum: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        sum as f32 / 765.0
    };
    this.chunks_exact(3).zip(next.chunks_exact(3)).map(pixel).collect()
}
