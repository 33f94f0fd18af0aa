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
        let things = (0..THINGS).map(|_| Thing::draw(spec.frames, spec.side, motion, &mut between)).collect();
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
