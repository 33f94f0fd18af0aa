//! Colour operations on a frame stored as three planes (R, G, B) of values in 0..1.

use super::draw::{Adjust, Jitter};

/// Weights of R, G and B in grey (ITU-R BT.601).
const GREY: [f32; 3] = [0.299, 0.587, 0.114];

/// Applies one operation of the colour jitter; values are clamped to 0..1.
#[inline(always)]
pub(super) fn adjust(planes: &mut [f32], adjust: Adjust, jitter: &Jitter) {
    match adjust {
        Adjust::Brightness => blend(planes, jitter.brightness, 0.0),
        Adjust::Contrast => blend(planes, jitter.contrast, mean_grey(planes)),
        Adjust::Saturation => saturation(planes, jitter.saturation),
        Adjust::Hue if jitter.hue != 0.0 => hue(planes, jitter.hue),
        Adjust::Hue => {}
    }
}

/// Converts to greyscale.
#[inline(always)]
pub(super) fn grey(planes: &mut [f32]) {
    for_each_pixel(planes, |[r, g, b]| [grey_of([*r, *g, *b]); 3]);
}

/// Kernel weights of the neighbours and of the centre.
pub(super) fn blur_weights(sigma: f32) -> [f32; 2] {
    let tail = (-0.5 / (sigma * sigma)).exp();
    [tail / (1.0 + 2.0 * tail), 1.0 / (1.0 + 2.0 * tail)]
}

/// 3x3 Gaussian blur of one plane of `side` columns, borders reflected without repeating the edge (`-1` reads `1`).
/// `scratch` has the plane's length.
#[inline(always)]
pub(super) fn blur(plane: &mut [f32], side: usize, sigma: f32, scratch: &mut [f32]) {
    let [outer, inner] = blur_weights(sigma);
    let reflected = 1.min(side - 1);
    for (y, x) in scratch.chunks_exact_mut(side).zip(plane.chunks_exact(side)) {
        for i in 1..side.saturating_sub(1) {
            y[i] = inner * x[i] + outer * (x[i - 1] + x[i + 1]);
        }
        y[0] = inner * x[0] + outer * (x[reflected] + x[reflected]);
        y[side - 1] = inner * x[side - 1] + outer * (x[side - 1 - reflected] + x[side - 1 - reflected]);
    }
    let rows = plane.len() / side;
    for (i, y) in plane.chunks_exact_mut(side).enumerate() {
        let above = if i == 0 { 1.min(rows - 1) } else { i - 1 };
        let below = if i + 1 == rows { rows - 1 - 1.min(rows - 1) } else { i + 1 };
        let row = |r: usize| &scratch[r * side..][..side];
        for (((y, x), a), b) in y.iter_mut().zip(row(i)).zip(row(above)).zip(row(below)) {
            *y = inner * x + outer * (a + b);
        }
    }
}

/// The boxes of a blur ([`super::BlurForm::Boxes`]).
pub(super) struct Boxes {
    /// Pixels to each side: 1 or 2.
    pub reach: usize,
    /// Weights of the two outermost pixels, and of those between them.
    pub weights: [f32; 2],
}

impl Boxes {
    /// How many of them follow each other along an axis.
    const COUNT: usize = 3;

    /// Boxes that together have the variance `sigma²`: each a third of it, with `whole` full pixels to each side and a
    /// share of the next (Gwosdek et al. 2011, equations 7, 11 and 14; PIL's `_gaussian_blur_radius`).
    pub fn new(sigma: f32) -> Boxes {
        let variance = f64::from(sigma).powi(2) / Self::COUNT as f64;
        let whole = (((12.0 * variance + 1.0).sqrt() - 1.0) / 2.0).floor();
        let next = whole + 1.0;
        let share = (whole + next) * (whole * next - 3.0 * variance) / (6.0 * (variance - next * next));
        let length = 2.0 * (whole + share) + 1.0;
        Boxes { reach: next as usize, weights: [(share / length) as f32, length.recip() as f32] }
    }

    /// A pixel from those `d` away, which `at(d)` reads.
    #[inline(always)]
    fn pixel(&self, at: impl Fn(isize) -> f32) -> f32 {
        let [outer, inner] = self.weights;
        let within = if self.reach == 2 { at(-1) + at(0) + at(1) } else { at(0) };
        let reach = self.reach as isize;
        inner * within + outer * (at(-reach) + at(reach))
    }
}

/// Blurs one plane of `side` columns as PIL does, without its rounding. `scratch` has the plane's length.
#[inline(always)]
pub(super) fn blur_by_boxes(plane: &mut [f32], side: usize, sigma: f32, scratch: &mut [f32]) {
    let boxes = Boxes::new(sigma);
    let held = |i: usize, d: isize, n: usize| i.saturating_add_signed(d).min(n - 1);
    for _ in 0..Boxes::COUNT {
        scratch.copy_from_slice(plane);
        for (y, x) in plane.chunks_exact_mut(side).zip(scratch.chunks_exact(side)) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = boxes.pixel(|d| x[held(i, d, side)]);
            }
        }
    }
    let rows = plane.len() / side;
    for _ in 0..Boxes::COUNT {
        scratch.copy_from_slice(plane);
        for (i, y) in plane.chunks_exact_mut(side).enumerate() {
            let row = [-2, -1, 0, 1, 2].map(|d| &scratch[held(i, d, rows) * side..][..side]);
            for (x, y) in y.iter_mut().enumerate() {
                *y = boxes.pixel(|d| row[(d + 2) as usize][x]);
            }
        }
    }
}

#[inline(always)]
fn grey_of([r, g, b]: [f32; 3]) -> f32 {
    GREY[0] * r + GREY[1] * g + GREY[2] * b
}

/// `factor · x + (1 - factor) · towards`, clamped.
#[inline(always)]
fn blend(planes: &mut [f32], factor: f32, towards: f32) {
    let rest = (1.0 - factor) * towards;
    for x in planes {
        *x = (factor * *x + rest).clamp(0.0, 1.0);
    }
}

#[inline(always)]
fn saturation(planes: &mut [f32], factor: f32) {
    for_each_pixel(planes, |[r, g, b]| {
        let rest = (1.0 - factor) * grey_of([*r, *g, *b]);
        [r, g, b].map(|x| (factor * *x + rest).clamp(0.0, 1.0))
    });
}

/// Mean grey of the frame: the weighted sum of the planes' means. Sixteen partial sums, always in the same order.
#[inline(always)]
fn mean_grey(planes: &[f32]) -> f32 {
    let pixels = planes.len() / 3;
    let mut mean = 0.0;
    for (plane, weight) in planes.chunks_exact(pixels).zip(GREY) {
        let mut sums = [0.0f32; 16];
        let mut chunks = plane.chunks_exact(16);
        for chunk in &mut chunks {
            for (s, x) in sums.iter_mut().zip(chunk) {
                *s += x;
            }
        }
        let total: f32 = sums.iter().sum::<f32>() + chunks.remainder().iter().sum::<f32>();
        mean += weight * total / pixels as f32;
    }
    mean
}

/// Rotates the hue by `turn` of the colour circle in the HSV hexagon; the largest and smallest value of a pixel stay.
#[inline(always)]
fn hue(planes: &mut [f32], turn: f32) {
    for_each_pixel(planes, |[r, g, b]| {
        let (r, g, b) = (*r, *g, *b);
        let (most, least) = (r.max(g).max(b), r.min(g).min(b));
        let chroma = most - least;
        if chroma <= 0.0 {
            return [r, g, b];
        }
        let sixth = if most == r {
            (g - b) / chroma
        } else if most == g {
            (b - r) / chroma + 2.0
        } else {
            (r - g) / chroma + 4.0
        };
        // A channel falls from `most` to `least` with its distance from the pixel's hue on the hexagon.
        let channel = |centre: f32| {
            let away = (sixth + 6.0 * turn - centre).rem_euclid(6.0);
            let away = away.min(6.0 - away);
            most - chroma * (away - 1.0).clamp(0.0, 1.0)
        };
        [channel(0.0), channel(2.0), channel(4.0)]
    });
}

/// Replaces each pixel of the three planes.
#[inline(always)]
fn for_each_pixel(planes: &mut [f32], f: impl Fn([&f32; 3]) -> [f32; 3]) {
    let pixels = planes.len() / 3;
    let (red, rest) = planes.split_at_mut(pixels);
    let (green, blue) = rest.split_at_mut(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        [*r, *g, *b] = f([r, g, b]);
    }
}
