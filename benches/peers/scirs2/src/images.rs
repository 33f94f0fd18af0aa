//! The images of `src/ops/tvl1/cases.rs` and the flow between them, in the types that scirs2-vision takes.

use image::{DynamicImage, GrayImage, Luma};
use scirs2_core::ndarray::Array2;

/// A pair of images, as pictures and as numbers from 0 to 1, and the flow from the first to the second.
pub struct Pair {
    pub pictures: [DynamicImage; 2],
    pub numbers: [Array2<f64>; 2],
    truth: [Vec<f64>; 2],
}

impl Pair {
    pub fn new(h: usize, w: usize) -> Self {
        let pixel = |moved: f64, y: usize, x: usize| {
            let (y, x) = (y as f64, x as f64);
            let (s, t) = (moved * (6.0 * y / h as f64).sin(), moved * (5.0 * x / w as f64).cos());
            texture(x - 2.0 * s, y - 1.5 * t)
        };
        let picture = |moved| {
            let at = |x, y| Luma([pixel(moved, y as usize, x as usize) as u8]);
            DynamicImage::ImageLuma8(GrayImage::from_fn(w as u32, h as u32, at))
        };
        let numbers = |moved| Array2::from_shape_fn((h, w), |(y, x)| pixel(moved, y, x) / 255.0);
        Pair { pictures: [0.0, 1.0].map(picture), numbers: [0.0, 1.0].map(numbers), truth: truth(h, w) }
    }

    /// The mean distance of a flow from the true one, in pixels.
    pub fn end_point_error(&self, u: &[f64], v: &[f64]) -> f64 {
        let [us, vs] = &self.truth;
        let distances = us.iter().zip(vs).zip(u.iter().zip(v)).map(|((a, b), (u, v))| (a - u).hypot(b - v));
        distances.sum::<f64>() / us.len() as f64
    }
}

/// Twelve waves of 4 to 48 pixels in all directions, 0 to 255.
fn texture(x: f64, y: f64) -> f64 {
    let wave = |k: i32| {
        let (angle, period) = (2.4 * f64::from(k), 4.0 * 1.25f64.powi(k));
        (std::f64::consts::TAU / period * (x * angle.cos() + y * angle.sin()) + 1.7 * f64::from(k)).sin()
    };
    (127.5 + (0..12).map(wave).sum::<f64>() * 10.6).round().clamp(0.0, 255.0)
}

/// The second image at `q` equals the first at `q - d(q)`, so the flow at `x` is `d` at the point that `x` moves to, which is found
/// by fixed-point iteration.
fn truth(h: usize, w: usize) -> [Vec<f64>; 2] {
    let flow = |i: usize| {
        let (y, x) = ((i / w) as f64, (i % w) as f64);
        let (mut u, mut v) = (0.0, 0.0);
        for _ in 0..20 {
            (u, v) = (2.0 * (6.0 * (y + v) / h as f64).sin(), 1.5 * (5.0 * (x + u) / w as f64).cos());
        }
        (u, v)
    };
    let (us, vs) = (0..h * w).map(flow).unzip();
    [us, vs]
}
