//! Synthetic tubelets: patches that move over the frames of a clip (Thoker, Doughty and Snoek, *Tubelet-Contrastive
//! Self-Supervision for Video-Efficient Generalization*, ICCV 2023). Two clips of different videos over which the same
//! tubelets move are a positive pair whose clips share nothing but these, and it needs no optical flow.
//!
//! A tubelet is a square patch of a frame. Its centre moves along a straight line or a smooth curve, and it may grow or
//! turn on the way. The numbers are ours, for clips of any size; the paper's are for 112 pixels.

use crate::error::{Error, Result};
use rand::{Rng, RngExt};
use std::f64::consts::PI;

/// Side of a patch as a share of the clip's side, minimum and maximum.
const SIZE: [f64; 2] = [0.2, 0.45];
/// Random points that a curve is smoothed from.
const POINTS: usize = 16;
/// Standard deviation of the smoothing, in points.
const SMOOTH: f64 = 2.0;

/// Where a patch is in a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Its centre `y x`, in pixels from the upper left corner of the frame.
    pub at: [f64; 2],
    /// Pixels of the clip for one of the patch.
    pub scale: f64,
    /// Its rotation in radians, from x towards y.
    pub turn: f64,
}

/// A patch and its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Tubelet {
    /// Centre `y x` of the patch in the frame that it is cut from, in pixels.
    pub from: [f64; 2],
    /// Side of the patch in that frame, in pixels.
    pub size: f64,
    /// Where it is in each frame of the clip.
    pub places: Vec<Place>,
}

impl Tubelet {
    /// A random tubelet for a clip of `t` frames, `side` pixels square. One half of them moves along a line, the other along
    /// a curve; one third changes its size on the way, from and to factors between 0.5 and 1.5, and one third turns, from and
    /// to angles of at most a quarter turn.
    pub fn sample(rng: &mut impl Rng, t: usize, side: usize) -> Tubelet {
        // Every number is drawn whether it is used or not.
        let size = side as f64 * (SIZE[0] + (SIZE[1] - SIZE[0]) * rng.random::<f64>());
        let mut point = |margin: f64| [(); 2].map(|()| margin + (side as f64 - 2.0 * margin) * rng.random::<f64>());
        let from = point(size / 2.0);
        let points: Vec<[f64; 2]> = (0..POINTS).map(|_| point(0.0)).collect();
        let (curved, change) = (rng.random_bool(0.5), rng.random_range(0..3u32));
        let [first, last] = [(); 2].map(|()| rng.random::<f64>() - 0.5);
        let place = |i: usize| {
            let share = if t > 1 { i as f64 / (t - 1) as f64 } else { 0.0 };
            let value = first + (last - first) * share;
            Place {
                at: if curved { on_curve(&points, share) } else { between(points[0], points[1], share) },
                scale: if change == 1 { 1.0 + value } else { 1.0 },
                turn: if change == 2 { value * PI } else { 0.0 },
            }
        };
        Tubelet { from, size, places: (0..t).map(place).collect() }
    }

    /// Puts the patch over each frame of `clip [t s s c]`, cut from `frame [s s c]`. Between pixels its values are interpolated;
    /// a pixel of the clip is covered if its centre is within the patch.
    ///
    /// # Errors
    /// `Shape` when the lengths do not fit, or there is not a place for each frame; `Param` as [`Tubelet::patches`].
    pub fn put_over(&self, clip: &mut [f32], frame: &[f32], side: usize, channels: usize) -> Result<()> {
        let pixels = side * side * channels;
        if frame.len() != pixels || pixels == 0 || clip.len() != pixels * self.places.len() {
            let want = format!("{} frames of {side}x{side} with {channels} channels, and one", self.places.len());
            return Err(Error::shape("tubelet", "clip", want, format!("{} and {} numbers", clip.len(), frame.len())));
        }
        for (to, patch) in clip.chunks_exact_mut(pixels).zip(self.patches(side, 0)?) {
            let [rows, columns] = [patch.rows, patch.columns].map(|[from, end]| from as usize..end as usize);
            for y in rows {
                for x in columns.clone() {
                    let Some(at) = patch.source([y as f64 + 0.5, x as f64 + 0.5]) else { continue };
                    let pixel = &mut to[(y * side + x) * channels..][..channels];
                    interpolate(frame, side, channels, at, pixel);
                }
            }
        }
        Ok(())
    }

    /// The patch in each frame of a clip of `side`, cut from image number `image` of a batch of them.
    ///
    /// # Errors
    /// `Param` when a number is not finite.
    pub fn patches(&self, side: usize, image: u32) -> Result<Vec<Patch>> {
        let [y, x] = self.from;
        let in_frame = |place: &Place| {
            let all = [self.size, y, x, place.at[0], place.at[1], place.scale, place.turn];
            if all.iter().any(|v| !v.is_finite()) {
                let value = format!("{place:?} of a patch of {} from {:?}", self.size, self.from);
                return Err(Error::param("tubelet", "places", value, "every number must be finite"));
            }
            // Within the circle around the patch.
            let reach = self.size * place.scale * std::f64::consts::FRAC_1_SQRT_2;
            let end = |v: f64| v.clamp(0.0, side as f64) as u32;
            let [rows, columns] = place.at.map(|at| [end((at - reach).floor()), end((at + reach).ceil())]);
            let (sin, cos) = place.turn.sin_cos();
            let Place { at, scale, .. } = *place;
            Ok(Patch { at, scale, sin, cos, half: self.size / 2.0, from: self.from, rows, columns, image, unused: 0 })
        };
        self.places.iter().map(in_frame).collect()
    }
}

/// A patch in one frame, in the form the kernels take: a [`Tubelet`] at one of its places in clips of known extents. Plain
/// data, to be copied to a device.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Patch {
    at: [f64; 2],
    scale: f64,
    sin: f64,
    cos: f64,
    half: f64,
    from: [f64; 2],
    /// The first row, and one past the last, outside of which it covers nothing.
    rows: [u32; 2],
    /// The same of columns.
    columns: [u32; 2],
    image: u32,
    unused: u32,
}

impl Patch {
    /// Which point of the image that it is cut from is at the point `y x` of the frame, if that is within the patch. A GPU computes
    /// the same in the same order, so that both cover the same pixels.
    fn source(&self, [y, x]: [f64; 2]) -> Option<[f64; 2]> {
        let [dy, dx] = [(y - self.at[0]) / self.scale, (x - self.at[1]) / self.scale];
        let own = [dy * self.cos - dx * self.sin, dx * self.cos + dy * self.sin];
        let inside = own.iter().all(|v| v.abs() <= self.half);
        inside.then(|| [self.from[0] + own[0], self.from[1] + own[1]])
    }
}

/// The point at `share` of the way from `a` to `b`.
fn between(a: [f64; 2], b: [f64; 2], share: f64) -> [f64; 2] {
    [0, 1].map(|i| a[i] + (b[i] - a[i]) * share)
}

/// The point at `share` of the curve that a Gaussian makes of `points`: their average, weighted by the distance along the curve.
fn on_curve(points: &[[f64; 2]], share: f64) -> [f64; 2] {
    let at = share * (points.len() - 1) as f64;
    let (mut sum, mut weights) = ([0.0; 2], 0.0);
    for (i, point) in points.iter().enumerate() {
        let weight = (-0.5 * ((i as f64 - at) / SMOOTH).powi(2)).exp();
        weights += weight;
        sum.iter_mut().zip(point).for_each(|(s, p)| *s += weight * p);
    }
    sum.map(|s| s / weights)
}

/// The values of `frame [s s c]` at the point `y x`, where pixel `i` has its centre at `i + 0.5`; those of the border outside.
fn interpolate(frame: &[f32], side: usize, channels: usize, at: [f64; 2], to: &mut [f32]) {
    let [(y, down), (x, right)] = at.map(|v| {
        let v = (v - 0.5).clamp(0.0, (side - 1) as f64);
        (v as usize, v.fract() as f32)
    });
    let next = |i: usize| (i + 1).min(side - 1);
    let value = |y: usize, x: usize, c: usize| frame[(y * side + x) * channels + c];
    for (c, to) in to.iter_mut().enumerate() {
        let of_row = |y: usize| value(y, x, c) * (1.0 - right) + value(y, next(x), c) * right;
        *to = of_row(y) * (1.0 - down) + of_row(next(y)) * down;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    const SIDE: usize = 24;

    fn tubelet(places: Vec<Place>) -> Tubelet {
        Tubelet { from: [12.0, 10.0], size: 6.0, places }
    }

    /// A frame whose two channels are the row and the column of each pixel's centre.
    fn positions() -> Vec<f32> {
        (0..SIDE * SIDE).flat_map(|p| [(p / SIDE) as f32 + 0.5, (p % SIDE) as f32 + 0.5]).collect()
    }

    /// Each covered pixel shows where in the frame it comes from: that is the inverse of turning, scaling and moving.
    #[test]
    fn a_patch_is_moved_scaled_and_turned() {
        let places = vec![
            Place { at: [12.0, 10.0], scale: 1.0, turn: 0.0 },
            Place { at: [9.0, 14.0], scale: 1.0, turn: 0.0 },
            Place { at: [12.0, 12.0], scale: 1.5, turn: 0.0 },
            Place { at: [11.5, 12.5], scale: 1.0, turn: PI / 2.0 },
            Place { at: [13.0, 11.0], scale: 0.75, turn: -0.4 },
        ];
        let tubelet = tubelet(places.clone());
        let mut clip = vec![-1.0f32; places.len() * SIDE * SIDE * 2];
        tubelet.put_over(&mut clip, &positions(), SIDE, 2).unwrap();
        for (frame, place) in clip.chunks_exact(SIDE * SIDE * 2).zip(&places) {
            let mut covered = 0;
            for (p, value) in frame.chunks_exact(2).enumerate() {
                let here = [(p / SIDE) as f64 + 0.5, (p % SIDE) as f64 + 0.5];
                // Forward: a point of the patch at `own` from its centre goes to turn(own)·scale + at.
                let inverse = {
                    let d = [(here[0] - place.at[0]) / place.scale, (here[1] - place.at[1]) / place.scale];
                    let (sin, cos) = (-place.turn).sin_cos();
                    [d[0] * cos + d[1] * sin, d[1] * cos - d[0] * sin]
                };
                let inside = inverse.iter().all(|v| v.abs() <= 3.0);
                // A centre on the patch's edge may round to either side.
                if inverse.iter().any(|v| (v.abs() - 3.0).abs() < 1e-9) {
                    continue;
                }
                assert_eq!(value[0] >= 0.0, inside, "{here:?} {place:?}");
                if inside {
                    covered += 1;
                    let want = [12.0 + inverse[0], 10.0 + inverse[1]];
                    // Positions are linear, so interpolation is exact up to the rounding of a few operations of numbers below 24.
                    let near = value
                        .iter()
                        .zip(want)
                        .all(|(v, w)| (f64::from(*v) - w).abs() < 24.0 * 8.0 * f64::from(f32::EPSILON));
                    assert!(near, "{value:?} {want:?}");
                }
            }
            let area = (6.0 * place.scale).powi(2);
            assert!((f64::from(covered) - area).abs() <= 4.0 * 6.0 * place.scale, "{covered} of {area}");
        }
        assert_eq!(clip[..SIDE * SIDE * 2].iter().filter(|v| **v >= 0.0).count(), 2 * 36);
    }

    #[test]
    fn a_patch_that_leaves_the_frame_is_cut_off() {
        let out = Place { at: [-1.0, 23.0], scale: 1.5, turn: 0.3 };
        let far = Place { at: [200.0, -50.0], scale: 1.0, turn: 0.0 };
        let mut clip = vec![-1.0f32; 2 * SIDE * SIDE * 2];
        tubelet(vec![out, far]).put_over(&mut clip, &positions(), SIDE, 2).unwrap();
        let covered = |frame: &[f32]| frame.iter().filter(|v| **v >= 0.0).count();
        let (a, b) = clip.split_at(SIDE * SIDE * 2);
        assert!(covered(a) > 0 && covered(b) == 0);
        let refused = |clip: &mut [f32], frame: &[f32]| tubelet(vec![far]).put_over(clip, frame, SIDE, 2).is_err();
        assert!(refused(&mut clip, &positions()) && refused(&mut clip[..SIDE * SIDE * 2], &positions()[1..]));
        for wrong in [Place { scale: f64::NAN, ..far }, Place { at: [f64::INFINITY, 0.0], ..far }] {
            let error = tubelet(vec![wrong]).patches(SIDE, 0).unwrap_err().to_string();
            assert!(error.contains("finite"), "{error}");
        }
    }

    #[test]
    fn ways_are_smooth_and_of_all_kinds() {
        let (mut lines, mut grown, mut turned) = (0, 0, 0);
        for sample in 0..400 {
            let of = |t| Tubelet::sample(&mut stream(5, 0, sample, Purpose::Test), t, 48);
            let tubelet = of(17);
            assert_eq!(tubelet, of(17));
            let half = tubelet.size / 2.0;
            assert!((0.2 * 48.0..=0.45 * 48.0).contains(&tubelet.size));
            assert!(tubelet.from.iter().all(|v| (half..=48.0 - half).contains(v)));
            let places = &tubelet.places;
            assert!(places.iter().all(|p| p.at.iter().all(|v| (0.0..=48.0).contains(v))));
            assert!(places.iter().all(|p| (0.5..=1.5).contains(&p.scale) && p.turn.abs() <= PI / 2.0));
            let steps: Vec<[f64; 2]> = places.windows(2).map(|p| [0, 1].map(|i| p[1].at[i] - p[0].at[i])).collect();
            // A curve's slope is at most the range of its points over the width of the Gaussian.
            let most = 48.0 / SMOOTH * (POINTS - 1) as f64 / 16.0;
            assert!(steps.iter().flatten().all(|v| v.abs() <= most), "{steps:?}");
            lines += usize::from(steps.iter().all(|s| (0..2).all(|i| (s[i] - steps[0][i]).abs() < 1e-9)));
            grown += usize::from(places[0].scale != places[16].scale);
            turned += usize::from(places[0].turn != places[16].turn);
        }
        // Binomial, with standard deviations of 10 and 9.4.
        assert!((150..=250).contains(&lines) && (95..=170).contains(&grown) && (95..=170).contains(&turned));
        assert_eq!(Tubelet::sample(&mut stream(5, 0, 0, Purpose::Test), 1, 48).places.len(), 1);
    }
}
