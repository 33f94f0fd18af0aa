//! The problem table: image sizes for tests and benches.

use crate::flow::Gray;

/// One problem.
pub struct Case {
    /// Its name in benchmarks.
    pub name: &'static str,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Why it is in the table.
    pub why: &'static str,
}

/// Sizes of frames.
pub const CASES: [Case; 8] = [
    Case { name: "3x3", h: 3, w: 3, why: "the smallest image: one level, every pixel at a border" },
    Case { name: "17x33", h: 17, w: 33, why: "one level, a row one pixel longer than two vectors" },
    Case { name: "21x48", h: 21, w: 48, why: "two levels, rows of whole vectors: no padding to hide in" },
    Case { name: "64x64", h: 64, w: 64, why: "frames of the small preset" },
    Case { name: "112x112", h: 112, w: 112, why: "R(2+1)D's input" },
    Case { name: "224x224", h: 224, w: 224, why: "SlowOnly's input" },
    Case { name: "240x320", h: 240, w: 320, why: "a UCF101 frame" },
    Case { name: "388x584", h: 388, w: 584, why: "Middlebury's RubberWhale: planes beyond a core's cache" },
];

impl Case {
    /// A pair of frames: a sum of waves, and the same displaced by a smooth field of up to three pixels. The formula is
    /// simple enough to be repeated elsewhere, so that other implementations can be given the same images.
    pub fn pair(&self) -> (Gray, Gray) {
        let (h, w) = (self.h, self.w);
        let image = |moved: f64| {
            let pixel = |i: usize| {
                let (y, x) = ((i / w) as f64, (i % w) as f64);
                let (s, t) = (moved * (6.0 * y / h as f64).sin(), moved * (5.0 * x / w as f64).cos());
                texture(x - 2.0 * s, y - 1.5 * t)
            };
            Gray::new(h, w, (0..h * w).map(pixel).collect()).expect("a number for each pixel")
        };
        (image(0.0), image(1.0))
    }

    /// Additions and multiplications of one iteration on the finest level (a primal and a dual step; a square root and
    /// a division count as one each).
    pub fn flops_per_iteration(&self) -> u64 {
        62 * (self.h * self.w) as u64
    }

    /// Bytes an iteration reads and writes on the finest level.
    pub fn bytes_per_iteration(&self) -> u64 {
        4 * (10 + 6) * (self.h * self.w) as u64
    }
}

/// Twelve waves of 4 to 48 pixels in all directions, 0 to 255.
fn texture(x: f64, y: f64) -> f32 {
    let wave = |k: usize| {
        let (angle, period) = (2.4 * k as f64, 4.0 * 1.25f64.powi(k as i32));
        (std::f64::consts::TAU / period * (x * angle.cos() + y * angle.sin()) + 1.7 * k as f64).sin()
    };
    (127.5 + (0..12).map(wave).sum::<f64>() * 10.6).round().clamp(0.0, 255.0) as f32
}
