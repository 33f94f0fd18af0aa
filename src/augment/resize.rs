//! Bilinear resize of a crop, flip included.

/// One axis of the resize: for each output index the two source indices and the weight of the second.
pub(super) struct Axis {
    taps: Vec<Tap>,
}

struct Tap {
    first: usize,
    second: usize,
    weight: f32,
}

impl Axis {
    /// Positions of `out` samples over `origin .. origin + extent` of an axis of `source` pixels, in reverse order if
    /// `reversed`. Pixel centres are at half-integers (`align_corners = false`); the ends are clamped to the crop's own
    /// pixels.
    pub(super) fn new(origin: f64, extent: f64, source: usize, out: usize, reversed: bool) -> Axis {
        let tap = |i: usize| {
            let within = ((i as f64 + 0.5) * extent / out as f64 - 0.5).clamp(0.0, (extent - 1.0).max(0.0));
            let at = (origin + within).min((source - 1) as f64);
            let first = at as usize;
            Tap { first, second: (first + 1).min(source - 1), weight: (at - first as f64) as f32 }
        };
        Axis { taps: (0..out).map(|i| tap(if reversed { out - 1 - i } else { i })).collect() }
    }

    /// First and one past the last source index that is read.
    fn span(&self) -> (usize, usize) {
        let first = self.taps.iter().map(|t| t.first).min().unwrap_or(0);
        let last = self.taps.iter().map(|t| t.second).max().unwrap_or(0);
        (first, last + 1)
    }
}

/// Strides of the result: the first per channel, the second per pixel.
pub(super) type Steps = [usize; 2];

/// Resizes `source` (`h w C`, rows of `w` pixels), times `gain`, into `out`.
///
/// Each output row blends two source rows first (contiguous, so it vectorises) and picks its columns from the blend.
#[inline(always)]
pub(super) fn resize<T: Copy + Into<f32>, const C: usize>(
    source: &[T],
    w: usize,
    rows: &Axis,
    cols: &Axis,
    gain: f32,
    out: &mut [f32],
    [of_channel, of_pixel]: Steps,
) {
    let (left, right) = cols.span();
    let side = cols.taps.len();
    let mut line = vec![0.0f32; (right - left) * C];
    for (y, row) in rows.taps.iter().enumerate() {
        let above = &source[(row.first * w + left) * C..][..line.len()];
        let below = &source[(row.second * w + left) * C..][..line.len()];
        for ((l, &a), &b) in line.iter_mut().zip(above).zip(below) {
            let (a, b): (f32, f32) = (a.into(), b.into());
            *l = (a + (b - a) * row.weight) * gain;
        }
        for c in 0..C {
            let pick = |col: &Tap| {
                let (first, second) = (line[(col.first - left) * C + c], line[(col.second - left) * C + c]);
                first + (second - first) * col.weight
            };
            let out = &mut out[c * of_channel + y * side * of_pixel..];
            if of_pixel == 1 {
                for (o, col) in out.iter_mut().zip(&cols.taps) {
                    *o = pick(col);
                }
            } else {
                for (o, col) in out.iter_mut().step_by(of_pixel).zip(&cols.taps) {
                    *o = pick(col);
                }
            }
        }
    }
}
