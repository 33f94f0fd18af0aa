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

mod similarity;
mod texture;
mod thing;

pub use similarity::{Change, Role, SimilarVideo, SimilaritySpec};
pub(crate) use thing::MOTIONS;

use std::f32::consts::TAU;
use std::ops::Range;

use rand::RngExt;
use texture::{Pattern, Texture};
use thing::{Pose, Thing, wrapped};

use super::Clip;
use crate::error::{Error, Result};
use crate::rng::{Purpose, stream};

/// Increased when the same specification gives other pixels.
pub(super) const VERSION: u32 = 3;

/// Objects per video. All move in the manner of their class, each at its own speed: with several, an object's position
/// says less about the video than its motion.
const THINGS: usize = 3;

/// What happens in procedural videos.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Happening {
    /// The objects move all the time.
    #[default]
    Always,
    /// The objects rest, and move for [`Happening::BURST`] frames in each half of the video alone, from a random frame on: for
    /// sampling that follows the motion, which takes clips of both halves.
    Seldom,
    /// The objects are small and begin near each other, anywhere in the frame: for crops that follow the motion.
    Small,
}

impl Happening {
    /// All of them.
    pub const ALL: [Happening; 3] = [Happening::Always, Happening::Seldom, Happening::Small];
    /// Frames during which the objects of [`Happening::Seldom`] move, in each half.
    pub const BURST: usize = 24;
    /// Size of the objects of [`Happening::Small`], as a share of that of others.
    const SHARE: f32 = 0.4;
    /// How far from each other they begin, as a share of the side.
    const APART: f32 = 0.2;

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Happening::Always => "always",
            Happening::Seldom => "seldom",
            Happening::Small => "small",
        }
    }
}

impl std::fmt::Display for Happening {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

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
    /// What happens in them.
    pub happening: Happening,
}

impl Default for ProceduralSpec {
    /// 8 classes of 24 + 16 videos, 40 frames of 64 x 64 at 25 frames per second.
    fn default() -> Self {
        Self {
            classes: 8,
            videos_per_class: 24,
            test_per_class: 16,
            frames: 40,
            side: 64,
            fps: 25.0,
            seed: 0,
            happening: Happening::Always,
        }
    }
}

impl ProceduralSpec {
    /// Videos of `seed` in which this happens; where it happens seldom, they have 160 frames instead of 40.
    #[must_use]
    pub fn of(happening: Happening, seed: u64) -> Self {
        let plain = Self { seed, happening, ..Self::default() };
        if happening == Happening::Seldom { Self { frames: 160, ..plain } } else { plain }
    }

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
    /// During which frames they move; between these they rest.
    moves: Vec<Range<usize>>,
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
        let seldom = spec.happening == Happening::Seldom;
        let (half, burst) = (spec.frames / 2, Happening::BURST.min(spec.frames / 2));
        let moving = if seldom { 2 * burst } else { spec.frames };
        let mut things: Vec<Thing> =
            (0..THINGS).map(|_| Thing::draw(moving, spec.side, motion, &mut between)).collect();
        // Drawn last: what always happens is as it was before there were others.
        let mut in_half = |first: usize| {
            let from = first + (between(0.0, (half - burst + 1) as f32) as usize).min(half - burst);
            from..from + burst
        };
        let moves = if seldom { vec![in_half(0), in_half(half)] } else { std::iter::once(0..spec.frames).collect() };
        if spec.happening == Happening::Small {
            let middle = [between(0.0, side), between(0.0, side)];
            for thing in &mut things {
                thing.radius *= Happening::SHARE;
                let near = |c: usize| middle[c] + Happening::APART * (thing.centre[c] - 0.5 * side);
                thing.centre = [near(0), near(1)];
            }
        }
        let pan = [pan_speed * pan_angle.cos(), pan_speed * pan_angle.sin()];
        Self { side, background, pan, things, moves }
    }

    /// How many frames the objects have moved before frame `i`.
    fn moved(&self, i: usize) -> usize {
        self.moves.iter().map(|range| i.clamp(range.start, range.end) - range.start).sum()
    }

    /// Renders frame `i` into `out`, `side side 3`.
    fn render(&self, i: usize, out: &mut [u8]) {
        let n = self.side as usize;
        let drift = [self.pan[0] * i as f32, self.pan[1] * i as f32];
        let moved = self.moved(i);
        let poses: Vec<Pose> = self.things.iter().map(|thing| Pose::new(thing, moved)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Where it happens seldom, the picture less the drift of its background changes during a burst in each half alone.
    #[test]
    fn objects_that_move_seldom_rest_most_of_the_time() {
        let spec = ProceduralSpec::of(Happening::Seldom, 3);
        let (mut first, half) = (Vec::new(), spec.frames / 2);
        for video in 0..24 {
            let scene = Scene { pan: [0.0; 2], ..Scene::draw(&spec, video) };
            let frame = |i: usize| {
                let mut out = vec![0; 64 * 64 * 3];
                scene.render(i, &mut out);
                out
            };
            let [a, b] = &scene.moves[..] else { panic!("two bursts") };
            assert!(a.end <= half && b.start >= half && b.end <= spec.frames, "video {video}: {a:?} {b:?}");
            assert_eq!([a.len(), b.len()], [Happening::BURST; 2]);
            assert!(frame(0) == frame(a.start) && frame(a.end) == frame(b.start), "video {video}");
            assert!(frame(b.end.min(spec.frames - 1)) == frame(spec.frames - 1), "video {video}");
            assert!(
                a.clone().chain(b.clone()).all(|i| i + 1 == spec.frames || frame(i) != frame(i + 1)),
                "video {video}"
            );
            first.push(a.start);
        }
        // Uniform from 0 to 56: of 24, some in each third.
        for third in 0..3 {
            assert!(first.iter().any(|s| s / 19 == third), "{first:?}");
        }
    }

    #[test]
    fn small_objects_are_near_each_other_and_otherwise_those_of_the_seed() {
        let [plain, small] = [Happening::Always, Happening::Small].map(|what| ProceduralSpec::of(what, 5));
        for video in 0..24 {
            let [a, b] = [&plain, &small].map(|spec| Scene::draw(spec, video));
            assert_eq!((a.pan, &a.moves), (b.pan, &b.moves));
            for (a, b) in a.things.iter().zip(&b.things) {
                assert_eq!(0.4 * a.radius, b.radius);
                assert_eq!((a.speed, a.spin, a.motion), (b.speed, b.spin, b.motion));
            }
            let all: Vec<[f32; 2]> = b.things.iter().map(|thing| Pose::new(thing, 0).centre).collect();
            let apart = |c: usize| all.iter().map(|p| wrapped(p[c] - all[0][c], 64.0).abs()).fold(0.0, f32::max);
            // A fifth of the side, and for objects that swing or circle twice their amplitude, at most 0.18 of the side.
            assert!(apart(0) <= (0.2 + 0.36) * 64.0 && apart(1) <= (0.2 + 0.36) * 64.0, "video {video}: {all:?}");
        }
    }
}
