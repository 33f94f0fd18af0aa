//! Optical flow: grey images as input, displacement fields as output, and their file formats and visualisation.
//!
//! The computation itself is in [`crate::ops::tvl1`]. [`motion`] converts flow to the input of a motion network, and
//! [`maps`] computes where a video moves.

pub mod color;
pub mod flo;
pub mod maps;
pub mod motion;

use crate::error::{Error, Result};

/// Displacements of this size or larger mean "unknown" (the convention of Middlebury's `.flo` files).
pub const UNKNOWN: f32 = 1e9;

/// A grey image, `h w`, row by row, values 0 to 255, always with `h w` values.
#[derive(Clone, Debug, PartialEq)]
pub struct Gray {
    h: usize,
    w: usize,
    data: Vec<f32>,
}

impl Gray {
    /// An image of `h` rows and `w` columns with these intensities, 0 to 255.
    ///
    /// # Errors
    /// `Shape` when there are not `h w` of them.
    pub fn new(h: usize, w: usize, data: Vec<f32>) -> Result<Gray> {
        pixels("gray", "data", h, w, data.len())?;
        Ok(Gray { h, w, data })
    }

    /// Luma `0.299 r + 0.587 g + 0.114 b` (BT.601) of an image `h w 3`, not rounded.
    ///
    /// # Errors
    /// `Shape` when `rgb` does not hold `3·h·w` bytes.
    pub fn from_rgb(rgb: &[u8], h: usize, w: usize) -> Result<Gray> {
        if Some(rgb.len()) != h.checked_mul(w).and_then(|n| n.checked_mul(3)) {
            return Err(Error::shape("gray", "rgb", format!("{h}x{w}x3 bytes"), format!("{} bytes", rgb.len())));
        }
        let luma = |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
        Ok(Gray { h, w, data: rgb.chunks_exact(3).map(luma).collect() })
    }

    /// Rows.
    #[must_use]
    pub fn h(&self) -> usize {
        self.h
    }

    /// Columns.
    #[must_use]
    pub fn w(&self) -> usize {
        self.w
    }

    /// The `h w` intensities.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}

/// Checks that there is one value for each of `h w` pixels.
fn pixels(op: &'static str, arg: &'static str, h: usize, w: usize, values: usize) -> Result<()> {
    if h.checked_mul(w) == Some(values) {
        return Ok(());
    }
    Err(Error::shape(op, arg, format!("one number for each of {h}x{w} pixels"), format!("{values} numbers")))
}

/// A displacement for every pixel: the point at `(x, y)` of the first image is at `(x + u, y + v)` of the second.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    h: usize,
    w: usize,
    u: Vec<f32>,
    v: Vec<f32>,
}

impl Flow {
    /// The displacements to the right, `u`, and downwards, `v`, of `h` rows and `w` columns of pixels, in pixels per frame.
    ///
    /// # Errors
    /// `Shape` when there are not `h w` of each.
    pub fn new(h: usize, w: usize, u: Vec<f32>, v: Vec<f32>) -> Result<Flow> {
        pixels("flow", "u", h, w, u.len())?;
        pixels("flow", "v", h, w, v.len())?;
        Ok(Flow { h, w, u, v })
    }

    /// No motion.
    ///
    /// # Panics
    /// Where memory does not hold `h w` pixels, like a vector of that length.
    #[must_use]
    pub fn zeros(h: usize, w: usize) -> Flow {
        let n = h.checked_mul(w).expect("a flow has fewer pixels than the address space has bytes");
        Flow { h, w, u: vec![0.0; n], v: vec![0.0; n] }
    }

    /// The field less the median of each component (of an even number of pixels the upper one): what moves otherwise than most
    /// of the frame, which a panning camera does not change. NaN counts as larger than all numbers.
    #[must_use]
    pub fn less_median(&self) -> Flow {
        let less = |plane: &[f32]| -> Vec<f32> {
            let mut sorted = plane.to_vec();
            let Some(middle) = sorted.len().checked_sub(1).map(|last| last.div_ceil(2)) else { return sorted };
            let median = *sorted.select_nth_unstable_by(middle, f32::total_cmp).1;
            plane.iter().map(|v| v - median).collect()
        };
        Flow { u: less(&self.u), v: less(&self.v), ..*self }
    }

    /// Rows.
    #[must_use]
    pub fn h(&self) -> usize {
        self.h
    }

    /// Columns.
    #[must_use]
    pub fn w(&self) -> usize {
        self.w
    }

    /// The `h w` displacements to the right, in pixels per frame.
    #[must_use]
    pub fn u(&self) -> &[f32] {
        &self.u
    }

    /// The `h w` displacements downwards, in pixels per frame.
    #[must_use]
    pub fn v(&self) -> &[f32] {
        &self.v
    }

    /// Both planes, `u` and `v`, for writing.
    pub fn planes_mut(&mut self) -> [&mut [f32]; 2] {
        [&mut self.u, &mut self.v]
    }

    /// Both planes, `u` and `v`.
    #[must_use]
    pub fn into_planes(self) -> [Vec<f32>; 2] {
        [self.u, self.v]
    }

    /// Whether pixel `i` has a displacement: both components finite and below [`UNKNOWN`]. False outside the image.
    #[must_use]
    pub fn is_known(&self, i: usize) -> bool {
        matches!((self.u.get(i), self.v.get(i)), (Some(u), Some(v)) if u.abs() < UNKNOWN && v.abs() < UNKNOWN)
    }

    /// Mean end-point error in pixels, `mean |(u, v) - (u, v)_truth|`, over the pixels known in `truth`.
    ///
    /// # Errors
    /// `Shape` when the sizes differ or `truth` knows no pixel.
    pub fn end_point_error(&self, truth: &Flow) -> Result<f64> {
        if (self.h, self.w) != (truth.h, truth.w) {
            let (want, got) = (format!("{}x{}", self.h, self.w), format!("{}x{}", truth.h, truth.w));
            return Err(Error::shape("end_point_error", "truth", want, got));
        }
        let (mut sum, mut known) = (0.0, 0usize);
        for i in (0..self.u.len()).filter(|&i| truth.is_known(i)) {
            sum += f64::from(self.u[i] - truth.u[i]).hypot(f64::from(self.v[i] - truth.v[i]));
            known += 1;
        }
        if known == 0 {
            return Err(Error::shape("end_point_error", "truth", "a flow with known pixels", "one without any"));
        }
        Ok(sum / known as f64)
    }
}
