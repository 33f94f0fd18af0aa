//! Periodic textures of backgrounds and objects.

use std::f32::consts::TAU;

#[derive(Clone, Copy)]
pub(super) enum Pattern {
    None,
    Stripes,
    Checks,
}

/// A periodic colour texture, `side side`, values 0..1.
pub(super) struct Texture {
    pub side: usize,
    colour: Vec<[f32; 3]>,
}

impl Texture {
    /// One colour.
    pub fn flat(colour: [f32; 3]) -> Self {
        Self { side: 1, colour: vec![colour] }
    }

    /// Noise of three octaves (`cells`, twice, four times as many cells per side) with a pattern, blending two colours.
    pub fn draw(
        side: usize,
        cells: usize,
        [from, to]: [[f32; 3]; 2],
        pattern: Pattern,
        between: &mut impl FnMut(f32, f32) -> f32,
    ) -> Self {
        let mut blend = vec![0.0f32; side * side];
        for (octave, weight) in [0.5f32, 0.3, 0.2].into_iter().enumerate() {
            let n = cells << octave;
            let lattice: Vec<f32> = (0..n * n).map(|_| between(-1.0, 1.0)).collect();
            let scale = n as f32 / side as f32;
            for (i, value) in blend.iter_mut().enumerate() {
                let (x, y) = (taps((i % side) as f32 * scale, n), taps((i / side) as f32 * scale, n));
                *value += weight * mix(x, y, |x, y| [lattice[y * n + x]])[0];
            }
        }
        // A pattern has 3 to 5 whole periods per side, so the texture stays periodic.
        let bands = between(3.0, 6.0).floor();
        for (i, value) in blend.iter_mut().enumerate() {
            let wave = |p: usize| (TAU * bands * p as f32 / side as f32).sin();
            let (x, y) = (i % side, i / side);
            let marks = match pattern {
                Pattern::None => *value,
                Pattern::Stripes => wave(x),
                Pattern::Checks => wave(x) * wave(y),
            };
            *value = (0.5 + 0.8 * *value + 0.5 * marks).clamp(0.0, 1.0);
        }
        let colour = blend.into_iter().map(|b| std::array::from_fn(|c| from[c] + b * (to[c] - from[c]))).collect();
        Self { side, colour }
    }

    /// Colour at (x, y) in texture pixels, bilinear, periodic.
    pub fn at(&self, x: f32, y: f32) -> [f32; 3] {
        mix(taps(x, self.side), taps(y, self.side), |x, y| self.colour[y * self.side + x])
    }
}

/// The two neighbours of `x` on a circle of `n` points, and the weight of the second.
fn taps(x: f32, n: usize) -> (usize, usize, f32) {
    let below = x.floor();
    let i = (below as i64).rem_euclid(n as i64) as usize;
    (i, if i + 1 == n { 0 } else { i + 1 }, x - below)
}

/// Bilinear interpolation of the four values around a point.
fn mix<const C: usize>(
    (x0, x1, fx): (usize, usize, f32),
    (y0, y1, fy): (usize, usize, f32),
    value: impl Fn(usize, usize) -> [f32; C],
) -> [f32; C] {
    let (a, b, c, d) = (value(x0, y0), value(x1, y0), value(x0, y1), value(x1, y1));
    std::array::from_fn(|i| {
        let (above, below) = (a[i] + fx * (b[i] - a[i]), c[i] + fx * (d[i] - c[i]));
        above + fy * (below - above)
    })
}
