//! The second image and its gradient, warped back along the flow by cubic convolution.
//!
//! The image and its two gradients are interleaved, four numbers per pixel, so that the four neighbours of a row are
//! one load of sixteen; a margin of zeros represents what is outside the image.

use super::plane::{LINE, Plane};
use crate::cpu::simd::{Vector, Vectorized};

/// Pixels of zeros above and left of the image, and below and right of it. Positions are clamped to at most three
/// pixels before and two after the image, where all sixteen neighbours are zero already.
const BEFORE: usize = 4;
const BEHIND: usize = 5;

/// An image with its gradient: `b`, `∂b/∂x`, `∂b/∂y` and a zero for each pixel.
#[derive(Default)]
pub(super) struct Packed {
    h: usize,
    w: usize,
    /// Pixels per row.
    stride: usize,
    data: Vec<[f32; 4]>,
}

impl Packed {
    /// Copies an image and computes its gradients: central differences, and half of one-sided ones at the border.
    pub fn fill(&mut self, b: &Plane) {
        (self.h, self.w, self.stride) = (b.h, b.w, b.w + BEFORE + BEHIND);
        self.data.clear();
        self.data.resize((b.h + BEFORE + BEHIND) * self.stride, [0.0; 4]);
        for y in 0..b.h {
            let (up, row, down) = (b.row(y.saturating_sub(1)), b.row(y), b.row((y + 1).min(b.h - 1)));
            let out = &mut self.data[(y + BEFORE) * self.stride + BEFORE..][..b.w];
            for (x, out) in out.iter_mut().enumerate() {
                let along = row[(x + 1).min(b.w - 1)] - row[x.saturating_sub(1)];
                *out = [row[x], 0.5 * along, 0.5 * (down[x] - up[x]), 0.0];
            }
        }
    }
}

/// Rows from `first` on of what a warp computes; the outputs are complete rows with their padding.
pub(super) struct Warp<'a> {
    pub a: &'a Plane,
    pub b: &'a Packed,
    pub u: &'a [Plane; 2],
    pub first: usize,
    /// Warped gradient along x and y.
    pub gradient: [&'a mut [f32]; 2],
    /// `-1 / max(|gradient|², ε)`
    pub slope: &'a mut [f32],
    /// `b(x + u) - ∇b(x + u)·u - a(x)`
    pub rho: &'a mut [f32],
}

/// The four weights at distance `t` from the second neighbour: cubic convolution with slope -3/4.
#[inline(always)]
fn weights(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let inner = |d: f32| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let outer = |d: f32| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    [outer(1.0 + t), inner(t), inner(1.0 - t), outer(2.0 - t)]
}

/// For position `at` on an axis of `n` pixels: the index of the first neighbour, counted from the start of the margin,
/// and the distance from the second one.
#[inline(always)]
fn place(at: f32, n: usize) -> (i32, f32) {
    let at = at.max(-3.0).min(n as f32 + 2.0) + (BEFORE - 1) as f32;
    // SAFETY: from 0 to n + 5, and not NaN, which `max` replaces.
    let whole: i32 = unsafe { at.to_int_unchecked() };
    (whole, at - whole as f32)
}

impl Vectorized for Warp<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Warp { a, b, u, first, gradient: [gx, gy], slope, rho } = self;
        let stride = a.stride;
        for i in 0..rho.len() / stride {
            let y = first + i;
            let (a_row, u_row, v_row) = (lines(a.row(y)), lines(u[0].row(y)), lines(u[1].row(y)));
            let targets = [&mut *rho, &mut *gx, &mut *gy, &mut *slope].map(|t| &mut t[i * stride..][..stride]);
            let [rho, gx, gy, slope] = targets;
            for (j, ((a, u), v)) in a_row.iter().zip(u_row).zip(v_row).enumerate() {
                let at = j * LINE;
                let [w, wx, wy] = line(b, (y, at), u, v);
                let (mut r, mut s) = ([0.0; LINE], [0.0; LINE]);
                for l in 0..LINE {
                    r[l] = w[l] - wx[l] * u[l] - wy[l] * v[l] - a[l];
                    s[l] = -1.0 / (wx[l] * wx[l] + wy[l] * wy[l]).max(f32::EPSILON);
                }
                rho[at..][..LINE].copy_from_slice(&r);
                gx[at..][..LINE].copy_from_slice(&wx);
                gy[at..][..LINE].copy_from_slice(&wy);
                slope[at..][..LINE].copy_from_slice(&s);
            }
            for padded in [rho, gx, gy, slope] {
                padded[a.w..].fill(0.0);
            }
        }
    }
}

/// A row as cache lines.
#[inline(always)]
fn lines(row: &[f32]) -> &[[f32; LINE]] {
    row.as_chunks().0
}

/// `b` and its gradient at `(x + u, y + v)` for a line of pixels from `(y, x)` on.
#[inline(always)]
fn line(b: &Packed, (y, x): (usize, usize), u: &[f32; LINE], v: &[f32; LINE]) -> [[f32; LINE]; 3] {
    let mut offset = [0i32; LINE];
    let (mut wx, mut wy) = ([[0.0f32; LINE]; 4], [[0.0f32; LINE]; 4]);
    for l in 0..LINE {
        let (x0, tx) = place((x + l) as f32 + u[l], b.w);
        let (y0, ty) = place(y as f32 + v[l], b.h);
        offset[l] = y0 * b.stride as i32 + x0;
        let (x, y) = (weights(tx), weights(ty));
        for k in 0..4 {
            wx[k][l] = x[k];
            wy[k][l] = y[k];
        }
    }
    let mut out = [[0.0f32; LINE]; 3];
    for l in 0..LINE {
        let mut column = [0.0f32; 16];
        for (k, wy) in wy.iter().enumerate() {
            let from = offset[l] as usize + k * b.stride;
            debug_assert!(from + 4 <= b.data.len());
            // SAFETY: `place` ensures that three neighbours to the right and below are inside of the margins.
            let taps: &[f32; 16] = unsafe { &*b.data.as_ptr().add(from).cast() };
            for j in 0..16 {
                column[j] += wy[l] * taps[j];
            }
        }
        for (c, out) in out.iter_mut().enumerate() {
            let taps = |k: usize| wx[k][l] * column[4 * k + c];
            out[l] = (taps(0) + taps(1)) + (taps(2) + taps(3));
        }
    }
    out
}
