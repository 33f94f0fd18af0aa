//! Bilinear resampling between the levels of the pyramid.

use super::plane::Plane;

/// The two neighbours of each target pixel on one axis and the weight of the second; `ratio` = source pixels per
/// target pixel, between pixel centres.
fn taps(from: usize, to: usize, ratio: f64) -> Vec<(usize, usize, f32)> {
    let tap = |i| {
        let at = ((i as f64 + 0.5) * ratio - 0.5).clamp(0.0, from as f64 - 1.0);
        let low = at.floor();
        (low as usize, (low as usize + 1).min(from - 1), (at - low) as f32)
    };
    (0..to).map(tap).collect()
}

/// `from` resampled to `h w` and multiplied by `gain`, into `to`; `ratio` = source pixels per target pixel on y and x.
pub(super) fn resize(from: &Plane, to: &mut Plane, h: usize, w: usize, ratio: [f64; 2], gain: f32) {
    let (ys, xs) = (taps(from.h, h, ratio[0]), taps(from.w, w, ratio[1]));
    to.reset(h, w);
    let mut line = vec![0.0f32; from.stride];
    for (&(y0, y1, ty), out) in ys.iter().zip(to.rows_mut()) {
        for ((line, &a), &b) in line.iter_mut().zip(from.row(y0)).zip(from.row(y1)) {
            *line = gain * (a + (b - a) * ty);
        }
        for (out, &(x0, x1, tx)) in out.iter_mut().zip(&xs) {
            *out = line[x0] + (line[x1] - line[x0]) * tx;
        }
    }
}
