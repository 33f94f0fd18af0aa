//! The second image and its gradient, moved back along the flow by cubic convolution.
//!
//! The image and the two gradients lie side by side, four numbers a pixel, so that the four neighbours of a row are one
//! load of sixteen; a margin of zeros around them is what lies outside of the image.

use super::lanes::{Kernel, Lanes};
use super::plane::{LINE, Plane};

/// Pixels of zeros above and left of the image, and below and right of it: positions are held within three pixels
/// before and two behind the image, where all sixteen neighbours are zero already.
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
    /// Takes over an image; gradients are central differences, halved one-sided ones at the border.
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

/// Rows from `first` on of what a warp prepares; the targets hold whole rows with their padding.
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

/// The four weights at distance `t` behind the second neighbour: cubic convolution with slope -3/4.
#[inline(always)]
fn weights(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let inner = |d: f32| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let outer = |d: f32| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    [outer(1.0 + t), inner(t), inner(1.0 - t), outer(2.0 - t)]
}

/// First neighbour (counted from the margin's start) and position behind the second one, of `at` on an axis of `n`.
#[inline(always)]
fn place(at: f32, n: usize) -> (u32, f32) {
    let at = at.clamp(-3.0, n as f32 + 2.0) + (BEFORE - 1) as f32;
    let whole = at as u32; // rounds down: `at` is not negative
    (whole, at - whole as f32)
}

impl Kernel for Warp<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Warp { a, b, u, first, gradient: [gx, gy], slope, rho } = self;
        let (w, stride) = (a.w, a.stride);
        for (i, rho) in rho.chunks_exact_mut(stride).enumerate() {
            let y = first + i;
            let row = i * stride..(i + 1) * stride;
            let (gx, gy, slope) = (&mut gx[row.clone()], &mut gy[row.clone()], &mut slope[row]);
            let (a, u, v) = (a.row(y), u[0].row(y), u[1].row(y));
            for from in (0..w).step_by(LINE) {
                let mut offset = [0usize; LINE];
                let (mut wx, mut wy) = ([[0.0f32; LINE]; 4], [[0.0f32; LINE]; 4]);
                for l in 0..LINE {
                    let x = from + l;
                    let (x0, tx) = place(x as f32 + u[x], b.w);
                    let (y0, ty) = place(y as f32 + v[x], b.h);
                    offset[l] = y0 as usize * b.stride + x0 as usize;
                    let (x, y) = (weights(tx), weights(ty));
                    for k in 0..4 {
                        (wx[k][l], wy[k][l]) = (x[k], y[k]);
                    }
                }
                for l in 0..LINE.min(w - from) {
                    let x = from + l;
                    let mut column = [0.0f32; 16];
                    for k in 0..4 {
                        debug_assert!(offset[l] + k * b.stride + 4 <= b.data.len());
                        // SAFETY: `place` leaves three neighbours to the right and below inside of the margins.
                        let taps: &[f32; 16] =
                            unsafe { &*b.data.as_ptr().add(offset[l] + k * b.stride).cast::<[f32; 16]>() };
                        for j in 0..16 {
                            column[j] += wy[k][l] * taps[j];
                        }
                    }
                    let mut pixel = [0.0f32; 4];
                    for k in 0..4 {
                        for c in 0..4 {
                            pixel[c] += wx[k][l] * column[4 * k + c];
                        }
                    }
                    (rho[x], gx[x], gy[x]) = (pixel[0], pixel[1], pixel[2]);
                }
            }
            for x in 0..w {
                rho[x] = rho[x] - gx[x] * u[x] - gy[x] * v[x] - a[x];
                slope[x] = -1.0 / (gx[x] * gx[x] + gy[x] * gy[x]).max(f32::EPSILON);
            }
            for padded in [rho, gx, gy, slope] {
                padded[w..].fill(0.0);
            }
        }
    }
}
