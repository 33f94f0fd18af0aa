//! Procedural videos: a few textured objects over a textured background. The class is the kind of motion; appearance,
//! initial position and background drift are drawn from the same distribution for every class.
//!
//! The image is periodic (a torus), so an object that leaves on the left comes in on the right: it is always visible,
//! and its position says nothing about its direction. Sizes are drawn so that growing and shrinking objects have, over
//! time, the same sizes as all others. Everything moves by fractions of a pixel with bilinear sampling and soft
//! outlines, so that optical flow can recover the intended motion.
//!
//! ```
//! use tubelet::video::ProceduralSpec;
//! let spec = ProceduralSpec { frames: 8, side: 32, ..ProceduralSpec::default() };
//! let clip = spec.clip(0)?;
//! assert_eq!((clip.t, clip.h, clip.w, clip.rgb.len()), (8, 32, 32, 8 * 32 * 32 * 3));
//! # Ok::<(), tubelet::Error>(())
//! ```

use std::f32::consts::{PI, TAU};

use rand::RngExt;

use super::Clip;
use crate::error::{Error, Result};
use crate::rng::{Purpose, stream};

/// Increased when the same specification gives other pixels.
pub(super) const VERSION: u32 = 3;

/// Objects per video. All move in the manner of their class, each at its own speed: with several, an object's position
/// says less about the video than its motion.
const THINGS: usize = 3;

/// The motions, in the order of class numbers. A horizontal flip exchanges left with right and clockwise with
/// counter-clockwise, so training on these with flips merges those classes.
pub(crate) const MOTIONS: [&str; 12] = [
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "grow",
    "shrink",
    "rotate_clockwise",
    "oscillate_horizontally",
    "rotate_counter_clockwise",
    "oscillate_vertically",
    "circle_clockwise",
    "circle_counter_clockwise",
];

/// Specification of procedural videos. Video `i` has class `i % classes` and depends only on `(seed, i)` and the sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct ProceduralSpec {
    /// Number of classes, 2 to 12: the first ones of 12 motions.
    pub classes: usize,
    /// Training videos of each class; they come first.
    pub videos_per_class: usize,
    /// Test videos of each class; their numbers follow those of the training videos.
    pub test_per_class: usize,
    /// Frames of each video.
    pub frames: usize,
    /// Height and width in pixels.
    pub side: usize,
    /// Frames per second. It only labels the frames: motion is defined per frame.
    pub fps: f64,
    /// Seed of appearance and motion.
    pub seed: u64,
}

impl Default for ProceduralSpec {
    /// 8 classes of 24 + 16 videos, 40 frames of 64 x 64 at 25 frames per second.
    fn default() -> Self {
        Self { classes: 8, videos_per_class: 24, test_per_class: 16, frames: 40, side: 64, fps: 25.0, seed: 0 }
    }
}

impl ProceduralSpec {
    /// Checks every field.
    ///
    /// # Errors
    /// `Param` naming the field that is out of range.
    pub fn check(&self) -> Result<()> {
        let bad = |name, value: String, rule: &str| Err(Error::param("procedural", name, value, rule));
        if !(2..=MOTIONS.len()).contains(&self.classes) {
            return bad("classes", self.classes.to_string(), "it must be 2 to 12");
        }
        if self.videos_per_class == 0 || self.videos_per_class.max(self.test_per_class) > 1_000_000 {
            return bad("videos_per_class", self.videos_per_class.to_string(), "it must be 1 to 1000000");
        }
        if !(1..=10_000).contains(&self.frames) {
            return bad("frames", self.frames.to_string(), "it must be 1 to 10000");
        }
        if !(16..=1024).contains(&self.side) {
            return bad("side", self.side.to_string(), "it must be 16 to 1024 pixels");
        }
        if !(self.fps.is_finite() && self.fps > 0.0) {
            return bad("fps", self.fps.to_string(), "it must be a positive number of frames per second");
        }
        Ok(())
    }

    /// Number of training and test videos together.
    #[must_use]
    pub fn videos(&self) -> usize {
        self.classes * (self.videos_per_class + self.test_per_class)
    }

    /// Class of video `index`.
    #[must_use]
    pub fn label(&self, index: usize) -> usize {
        index % self.classes
    }

    /// Video `index`: `frames side side 3`.
    ///
    /// # Errors
    /// `Param` when a field is out of range.
    pub fn clip(&self, index: usize) -> Result<Clip> {
        self.check()?;
        let scene = Scene::draw(self, index);
        let frame = self.side * self.side * 3;
        let mut rgb = vec![0u8; self.frames * frame];
        for (i, out) in rgb.chunks_exact_mut(frame).enumerate() {
            scene.render(i, out);
        }
        Clip::new(self.frames, self.side, self.side, rgb, self.fps)
    }
}

/// All random parameters of one video.
struct Scene {
    side: f32,
    background: Texture,
    /// Drift of the background in pixels per frame, x and y.
    pan: [f32; 2],
    /// Later ones occlude earlier ones.
    things: Vec<Thing>,
}

/// One object and its motion.
struct Thing {
    motion: &'static str,
    frames: usize,
    /// Texture of the object over its own square of [-1.25, 1.25] radii.
    skin: Texture,
    shape: Shape,
    /// Centre of the path, pixels.
    centre: [f32; 2],
    /// Middle of its range of sizes, pixels.
    radius: f32,
    /// Natural logarithm of the ratio of last to first size, for objects that change size.
    log_growth: f32,
    /// Constant position in that range, 0..1, for objects that do not change size.
    size_at: f32,
    angle: f32,
    /// Pixels per frame.
    speed: f32,
    /// Radians per frame.
    spin: f32,
    /// Pixels.
    amplitude: f32,
    /// Frames.
    period: f32,
    /// Radians.
    phase: f32,
}

impl Scene {
    fn draw(spec: &ProceduralSpec, index: usize) -> Self {
        let mut rng = stream(spec.seed, 0, index as u64, Purpose::Procedural);
        let side = spec.side as f32;
        let mut between = |lo: f32, hi: f32| lo + (hi - lo) * rng.random::<f32>();
        // Every class makes all draws in this order, so that the class does not influence the appearance.
        let pan_speed = between(0.0, 0.005) * side;
        let pan_angle = between(0.0, TAU);
        // Objects are brighter than the background, so that finding them is not part of the task.
        let base: [f32; 3] = std::array::from_fn(|_| between(0.05, 0.3));
        let other = base.map(|c| (c + between(-0.2, 0.2)).clamp(0.0, 1.0));
        let background = Texture::draw(spec.side, 5, [base, other], Pattern::None, &mut between);
        let motion = MOTIONS[spec.label(index)];
        let things = (0..THINGS).map(|_| Thing::draw(spec, motion, &mut between)).collect();
        Self { side, background, pan: [pan_speed * pan_angle.cos(), pan_speed * pan_angle.sin()], things }
    }

    /// Renders frame `i` into `out`, `side side 3`.
    fn render(&self, i: usize, out: &mut [u8]) {
        let n = self.side as usize;
        let drift = [self.pan[0] * i as f32, self.pan[1] * i as f32];
        let poses: Vec<Pose> = self.things.iter().map(|thing| Pose::new(thing, i)).collect();
        for y in 0..n {
            for x in 0..n {
                let mut colour = self.background.at(x as f32 - drift[0], y as f32 - drift[1]);
                for pose in &poses {
                    let dx = wrapped(x as f32 + 0.5 - pose.centre[0], self.side);
                    let dy = wrapped(y as f32 + 0.5 - pose.centre[1], self.side);
                    pose.paint(dx, dy, &mut colour);
                }
                let at = (y * n + x) * 3;
                for c in 0..3 {
                    out[at + c] = (colour[c] * 255.0 + 0.5) as u8;
                }
            }
        }
    }
}

/// An object in one frame.
struct Pose<'a> {
    thing: &'a Thing,
    centre: [f32; 2],
    radius: f32,
    sin: f32,
    cos: f32,
    /// Squared distance beyond which nothing is drawn.
    reach: f32,
}

impl<'a> Pose<'a> {
    fn new(thing: &'a Thing, i: usize) -> Self {
        let [x, y, radius, angle] = thing.pose(i);
        let (sin, cos) = angle.sin_cos();
        Self { thing, centre: [x, y], radius, sin, cos, reach: (Shape::REACH * radius + 1.0).powi(2) }
    }

    /// Blends the object into the `colour` of the pixel at `dx dy` from its centre.
    fn paint(&self, dx: f32, dy: f32, colour: &mut [f32; 3]) {
        if dx * dx + dy * dy >= self.reach {
            return;
        }
        let r = self.radius;
        let p = [(self.cos * dx + self.sin * dy) / r, (self.cos * dy - self.sin * dx) / r];
        let cover = (0.5 - self.thing.shape.distance(p) * r).clamp(0.0, 1.0);
        if cover > 0.0 {
            let scale = self.thing.skin.side as f32 / (2.0 * Shape::REACH);
            let skin = self.thing.skin.at((p[0] + Shape::REACH) * scale, (p[1] + Shape::REACH) * scale);
            *colour = std::array::from_fn(|c| colour[c] + cover * (skin[c] - colour[c]));
        }
    }
}

impl Thing {
    fn draw(spec: &ProceduralSpec, motion: &'static str, between: &mut impl FnMut(f32, f32) -> f32) -> Self {
        let side = spec.side as f32;
        let centre = [between(0.0, side), between(0.0, side)];
        let radius = between(0.12, 0.19) * side;
        let log_growth = between(1.7f32.ln(), 2.5f32.ln());
        let size_at = between(0.0, 1.0);
        let angle = between(0.0, TAU);
        let speed = between(0.012, 0.022) * side;
        let spin = between(4.0, 8.0) * PI / 180.0;
        let amplitude = between(0.10, 0.18) * side;
        let period = between(16.0, 28.0);
        let phase = between(0.0, TAU);
        let shape = Shape::ALL[(between(0.0, Shape::ALL.len() as f32) as usize).min(Shape::ALL.len() - 1)];
        let dark: [f32; 3] = std::array::from_fn(|_| between(0.35, 0.7));
        let bright: [f32; 3] = std::array::from_fn(|_| between(0.7, 1.0));
        let pattern = [Pattern::None, Pattern::Stripes, Pattern::Checks][(between(0.0, 3.0) as usize).min(2)];
        let skin = Texture::draw(48, 4, [dark, bright], pattern, between);
        Self {
            motion,
            frames: spec.frames,
            skin,
            shape,
            centre,
            radius,
            log_growth,
            size_at,
            angle,
            speed,
            spin,
            amplitude,
            period,
            phase,
        }
    }

    /// Centre x and y (pixels), radius (pixels) and angle (radians) at frame `i`. y points down, so growing angles
    /// turn clockwise on the screen.
    fn pose(&self, i: usize) -> [f32; 4] {
        let t = i as f32;
        let [x, y] = self.centre;
        let along = t / (self.frames.max(2) - 1) as f32;
        let size = |at: f32| self.radius * (self.log_growth * (at - 0.5)).exp();
        let (r, a) = (size(self.size_at), self.angle);
        let (go, turn) = (self.speed * t, self.phase + TAU * t / self.period);
        let swing = self.amplitude;
        match self.motion {
            "move_left" => [x - go, y, r, a],
            "move_right" => [x + go, y, r, a],
            "move_up" => [x, y - go, r, a],
            "move_down" => [x, y + go, r, a],
            "rotate_clockwise" => [x, y, r, a + self.spin * t],
            "rotate_counter_clockwise" => [x, y, r, a - self.spin * t],
            "grow" => [x, y, size(along), a],
            "shrink" => [x, y, size(1.0 - along), a],
            "oscillate_horizontally" => [x + swing * turn.sin(), y, r, a],
            "oscillate_vertically" => [x, y + swing * turn.sin(), r, a],
            "circle_clockwise" => [x + swing * turn.cos(), y + swing * turn.sin(), r, a],
            _ => [x + swing * turn.cos(), y - swing * turn.sin(), r, a],
        }
    }
}

/// `d` on a circle of length `side`, in `[-side/2, side/2]`.
fn wrapped(d: f32, side: f32) -> f32 {
    d - side * (d / side).round()
}

/// Outline of an object of radius 1.
#[derive(Clone, Copy)]
enum Shape {
    Disc,
    Square,
    Triangle,
    Cross,
    Ring,
    Ellipse,
}

impl Shape {
    const ALL: [Shape; 6] = [Shape::Disc, Shape::Square, Shape::Triangle, Shape::Cross, Shape::Ring, Shape::Ellipse];
    /// No outline extends farther than this from the centre.
    const REACH: f32 = 1.25;

    /// Signed distance to the outline (accurate enough near it to soften the edge), negative inside.
    fn distance(self, [x, y]: [f32; 2]) -> f32 {
        let length = x.hypot(y);
        let slab = |a: f32, b: f32| (x.abs() - a).max(y.abs() - b);
        match self {
            Shape::Disc => length - 1.0,
            Shape::Square => slab(0.85, 0.85),
            Shape::Triangle => (0.866 * x.abs() + 0.5 * y).max(-y) - 0.55,
            Shape::Cross => slab(1.1, 0.4).min(slab(0.4, 1.1)),
            Shape::Ring => (length - 0.75).abs() - 0.3,
            Shape::Ellipse => (x.hypot(y / 0.55) - 1.0) * 0.55,
        }
    }
}

#[derive(Clone, Copy)]
enum Pattern {
    None,
    Stripes,
    Checks,
}

/// A periodic colour texture, `side side`, values 0..1.
struct Texture {
    side: usize,
    colour: Vec<[f32; 3]>,
}

impl Texture {
    /// Noise of three octaves (`cells`, twice, four times as many cells per side) with a pattern, blending two colours.
    fn draw(
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
    fn at(&self, x: f32, y: f32) -> [f32; 3] {
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
