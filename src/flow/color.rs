//! Flow as an image in Middlebury's colours: hue is direction, saturation is speed (Baker et al., *A Database and
//! Evaluation Methodology for Optical Flow*, IJCV 2011).

use super::Flow;
use std::f32::consts::PI;

/// Steps between neighbouring corners of the wheel: red, yellow, green, cyan, blue, magenta and back to red.
const STEPS: [usize; 6] = [15, 6, 4, 11, 13, 6];

/// The corner at which each segment starts, as (r, g, b) in 0 to 1; it ends at the next one.
const CORNERS: [[f32; 3]; 7] =
    [[1., 0., 0.], [1., 1., 0.], [0., 1., 0.], [0., 1., 1.], [0., 0., 1.], [1., 0., 1.], [1., 0., 0.]];

/// The wheel, one colour per step.
fn wheel() -> Vec<[f32; 3]> {
    let stretch = |(s, &n): (usize, &usize)| {
        (0..n).map(move |i| {
            let t = i as f32 / n as f32;
            std::array::from_fn(|c| CORNERS[s][c] + t * (CORNERS[s + 1][c] - CORNERS[s][c]))
        })
    };
    STEPS.iter().enumerate().flat_map(stretch).collect()
}

/// The largest known displacement of a flow in pixels, 0 without motion: the default `radius` for [`image()`].
pub fn radius(flow: &Flow) -> f32 {
    let known = (0..flow.u().len()).filter(|&i| flow.is_known(i));
    known.map(|i| flow.u()[i].hypot(flow.v()[i])).fold(0.0, f32::max)
}

/// An RGB image `h w 3`: white is no motion, full saturation a displacement of `radius` pixels, darker colours exceed
/// it, black is unknown. With a radius of 0, all motion exceeds it.
#[must_use]
pub fn image(flow: &Flow, radius: f32) -> Vec<u8> {
    let (wheel, radius) = (wheel(), radius.max(f32::MIN_POSITIVE));
    let pixel = |i: usize| -> [u8; 3] {
        if !flow.is_known(i) {
            return [0; 3];
        }
        let (u, v) = (flow.u()[i], flow.v()[i]);
        let r = (u / radius).hypot(v / radius);
        let turn = (-v).atan2(-u) / PI; // -1 to 1, with red to the right
        let at = (turn + 1.0) / 2.0 * (wheel.len() - 1) as f32;
        let k = (at as usize).min(wheel.len() - 1);
        let (t, next) = (at - k as f32, (k + 1) % wheel.len());
        std::array::from_fn(|c| {
            let hue = (1.0 - t) * wheel[k][c] + t * wheel[next][c];
            let shade = if r <= 1.0 { 1.0 - r * (1.0 - hue) } else { 0.75 * hue };
            (255.0 * shade) as u8
        })
    };
    (0..flow.u().len()).flat_map(pixel).collect()
}
