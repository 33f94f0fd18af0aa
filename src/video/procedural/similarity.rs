//! Videos for a benchmark of motion similarity: which of two videos moves as a third does, whatever it looks like?
//!
//! To each query belong eleven distractors, which look as it does (the same objects, textures, background, style and
//! view) and move in the eleven other ways at the same pace, and five matches, which move as it does and differ in one
//! [`Change`] of look. Where the objects begin, and how they are turned, is drawn for every video by itself: neither
//! speaks for the match or for a distractor. The camera stands still for twelve queries and pans for the next twelve,
//! each video in a direction of its own.
//!
//! ```
//! use tubelet::video::procedural::{Change, Role, SimilaritySpec};
//! let spec = SimilaritySpec::default();
//! let [query, matching] = [Role::Query, Role::Match(Change::Texture)].map(|role| spec.video(3, role));
//! let distractor = spec.video(3, Role::Distractor(0))?;
//! assert_eq!(query?.motion(), matching?.motion());
//! assert_ne!(spec.video(3, Role::Query)?.motion(), distractor.motion());
//! # Ok::<(), tubelet::Error>(())
//! ```

use std::f32::consts::TAU;

use rand::RngExt;

use super::super::Clip;
use super::texture::{Pattern, Texture};
use super::thing::{MOTIONS, Pose, Thing, skin, wrapped};
use crate::error::{Error, Result};
use crate::rng::{Purpose, stream};

/// Objects per video, as in other procedural videos.
const THINGS: usize = 3;

/// What differs between a query and its match, apart from where the objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Other outlines and sizes of the objects.
    Object,
    /// Other textures of the objects.
    Texture,
    /// Another background.
    Background,
    /// The picture as a negative, in two colours, in few shades, or as a drawing.
    Style,
    /// Another camera: rolled, nearer or farther, and tilted.
    View,
}

impl Change {
    /// All of them.
    pub const ALL: [Change; 5] = [Change::Object, Change::Texture, Change::Background, Change::Style, Change::View];

    /// Its name: `object`, `texture`, `background`, `style` or `view`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Change::Object => "object",
            Change::Texture => "texture",
            Change::Background => "background",
            Change::Style => "style",
            Change::View => "view",
        }
    }
}

/// Which of a query's videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The query itself.
    Query,
    /// Its motion in another look.
    Match(Change),
    /// Its look in another motion: number 0 to 10.
    Distractor(usize),
}

/// Specification of the videos. They depend on the seed, the query's number, the role and the sizes, and on nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct SimilaritySpec {
    /// Frames of each video.
    pub frames: usize,
    /// Height and width in pixels.
    pub side: usize,
    /// Frames per second. It only labels the frames: motion is defined per frame.
    pub fps: f64,
    /// Seed of looks and motions.
    pub seed: u64,
}

impl Default for SimilaritySpec {
    /// 40 frames of 64 x 64 at 25 frames per second.
    fn default() -> Self {
        Self { frames: 40, side: 64, fps: 25.0, seed: 0 }
    }
}

/// What is drawn for a query or, where it differs, for one of its videos. Each has random numbers of its own, so that a
/// change of one leaves the others alone.
#[derive(Clone, Copy)]
enum Part {
    Motion,
    Outline,
    Skin,
    Background,
    Style,
    View,
    Place,
    Pan,
}

impl SimilaritySpec {
    /// Distractors of a query: one of each other motion.
    pub const DISTRACTORS: usize = MOTIONS.len() - 1;

    /// The roles of all videos of a query: itself, its matches, its distractors.
    #[must_use]
    pub fn roles() -> Vec<Role> {
        let matches = Change::ALL.into_iter().map(Role::Match);
        [Role::Query].into_iter().chain(matches).chain((0..Self::DISTRACTORS).map(Role::Distractor)).collect()
    }

    /// Whether the camera pans in the videos of this query.
    #[must_use]
    pub fn pans(query: usize) -> bool {
        query / MOTIONS.len() % 2 == 1
    }

    /// A video of query number `query`.
    ///
    /// # Errors
    /// `Param` when a size is out of range or there is no such distractor.
    pub fn video(&self, query: usize, role: Role) -> Result<SimilarVideo> {
        let bad = |name, value: String, rule: &str| Err(Error::param("similarity", name, value, rule));
        if !(2..=10_000).contains(&self.frames) {
            return bad("frames", self.frames.to_string(), "it must be 2 to 10000");
        }
        if !(16..=1024).contains(&self.side) {
            return bad("side", self.side.to_string(), "it must be 16 to 1024 pixels");
        }
        let other = match role {
            Role::Distractor(i) if i >= Self::DISTRACTORS => {
                return bad("distractor", i.to_string(), "it must be 0 to 10");
            }
            Role::Distractor(i) => i + 1,
            _ => 0,
        };
        let motion = MOTIONS[(query + other) % MOTIONS.len()];
        let number = Self::roles().iter().position(|r| *r == role).unwrap_or(0) as u64;
        // The numbers of a part that is the query's own have the key 0, those of another one the number of its video.
        let is = |change| role == Role::Match(change);
        let draws = |part: Part, own: bool| {
            let key = part as u64 * 32 + if own { number } else { 0 };
            let mut rng = stream(self.seed, key, query as u64, Purpose::Similarity);
            move |lo: f32, hi: f32| lo + (hi - lo) * rng.random::<f32>()
        };
        let mut motions = draws(Part::Motion, false);
        let mut outlines = draws(Part::Outline, is(Change::Object));
        let mut skins = draws(Part::Skin, is(Change::Texture));
        let mut places = draws(Part::Place, true);
        let things = (0..THINGS).map(|_| {
            let moving = Thing::bare(self.frames, self.side, motion, &mut motions);
            let outline = Thing::bare(self.frames, self.side, motion, &mut outlines);
            let Thing { shape, radius, size_at, .. } = outline;
            let side = self.side as f32;
            let centre = [places(0.0, side), places(0.0, side)];
            Thing { shape, radius, size_at, skin: skin(&mut skins), centre, angle: places(0.0, TAU), ..moving }
        });
        let things = things.collect();
        let mut grounds = draws(Part::Background, is(Change::Background));
        // As in other procedural videos: darker than the objects.
        let base: [f32; 3] = std::array::from_fn(|_| grounds(0.05, 0.3));
        let accent = base.map(|c| (c + grounds(-0.2, 0.2)).clamp(0.0, 1.0));
        let background = Texture::draw(self.side, 5, [base, accent], Pattern::None, &mut grounds);
        let style = if is(Change::Style) { Style::draw(&mut draws(Part::Style, true)) } else { Style::Plain };
        let linear = if is(Change::View) { tilted(&mut draws(Part::View, true)) } else { [[1.0, 0.0], [0.0, 1.0]] };
        let mut pans = draws(Part::Pan, true);
        // At most half as fast as an object: what moves to the left does so in every picture.
        let (speed, towards) = (pans(0.003, 0.006) * self.side as f32, pans(0.0, TAU));
        let pan = if Self::pans(query) { [speed * towards.cos(), speed * towards.sin()] } else { [0.0; 2] };
        let (frames, side, fps) = (self.frames, self.side, self.fps);
        Ok(SimilarVideo { frames, side, fps, motion, background, things, linear, pan, style })
    }
}

/// One of the videos, of which frames are rendered on demand.
pub struct SimilarVideo {
    frames: usize,
    side: usize,
    fps: f64,
    motion: &'static str,
    background: Texture,
    /// Later ones occlude earlier ones.
    things: Vec<Thing>,
    /// From places of the picture to places of the scene, both from the middle.
    linear: [[f32; 2]; 2],
    /// How the camera moves over the scene, in pixels per frame.
    pan: [f32; 2],
    style: Style,
}

impl SimilarVideo {
    /// The name of its motion.
    #[must_use]
    pub fn motion(&self) -> &'static str {
        self.motion
    }

    /// The displacement in pixels of the picture that is seen of `scene`, one in pixels of the scene per frame.
    #[must_use]
    pub fn seen(&self, scene: [f32; 2]) -> [f32; 2] {
        let [[a, b], [c, d]] = self.linear;
        let (det, [x, y]) = (a * d - b * c, [scene[0] - self.pan[0], scene[1] - self.pan[1]]);
        [(d * x - b * y) / det, (a * y - c * x) / det]
    }

    /// Frame `i`, `side side 3`.
    #[must_use]
    pub fn frame(&self, i: usize) -> Vec<u8> {
        let (n, side) = (self.side, self.side as f32);
        let poses: Vec<Pose> = self.things.iter().map(|thing| Pose::new(thing, i)).collect();
        let (middle, [[a, b], [c, d]]) = (side / 2.0, self.linear);
        let mut picture = Vec::with_capacity(n * n);
        for y in 0..n {
            for x in 0..n {
                let (dx, dy) = (x as f32 + 0.5 - middle, y as f32 + 0.5 - middle);
                let at = [a * dx + b * dy + middle, c * dx + d * dy + middle];
                let at = [at[0] + self.pan[0] * i as f32, at[1] + self.pan[1] * i as f32];
                let mut colour = self.background.at(at[0] - 0.5, at[1] - 0.5);
                for pose in &poses {
                    let [dx, dy] = [0, 1].map(|axis| wrapped(at[axis] - pose.centre[axis], side));
                    pose.paint(dx, dy, &mut colour);
                }
                picture.push(colour);
            }
        }
        let picture = self.style.of(picture, n);
        picture.into_iter().flatten().map(|v| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8).collect()
    }

    /// The whole video.
    ///
    /// # Errors
    /// `Param` when the frame rate is no positive number.
    pub fn clip(&self) -> Result<Clip> {
        let rgb = (0..self.frames).flat_map(|i| self.frame(i)).collect();
        Clip::new(self.frames, self.side, self.side, rgb, self.fps)
    }
}

/// A view of the scene: rolled by 10 to 25 degrees, a tenth to a quarter nearer or farther, and tilted, so that heights are
/// seen shorter by a tenth to a quarter.
fn tilted(between: &mut impl FnMut(f32, f32) -> f32) -> [[f32; 2]; 2] {
    let (roll, left) = (between(10.0, 25.0).to_radians(), between(0.0, 1.0) < 0.5);
    let (zoom, nearer) = (between(1.1, 1.25), between(0.0, 1.0) < 0.5);
    let tilt = between(1.1, 1.33);
    let (sin, cos) = (if left { -roll } else { roll }).sin_cos();
    let scale = if nearer { 1.0 / zoom } else { zoom };
    [[scale * cos, -scale * sin * tilt], [scale * sin, scale * cos * tilt]]
}

/// How the colours of the scene are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Style {
    Plain,
    Negative,
    /// Brightness as a blend of two colours.
    TwoColours([[f32; 3]; 2]),
    /// Steps of brightness between the shades of each colour.
    Shades(f32),
    /// Dark lines on paper where brightness changes.
    Drawing,
}

impl Style {
    /// One that is not plain.
    fn draw(between: &mut impl FnMut(f32, f32) -> f32) -> Style {
        let which = between(0.0, 4.0) as usize;
        let dark: [f32; 3] = std::array::from_fn(|_| between(0.0, 0.4));
        let bright: [f32; 3] = std::array::from_fn(|_| between(0.6, 1.0));
        match which {
            0 => Style::Negative,
            1 => Style::TwoColours([dark, bright]),
            2 => Style::Shades(3.0),
            _ => Style::Drawing,
        }
    }

    /// The picture of `n n` pixels in this style.
    fn of(self, picture: Vec<[f32; 3]>, n: usize) -> Vec<[f32; 3]> {
        let grey = |[r, g, b]: [f32; 3]| 0.299 * r + 0.587 * g + 0.114 * b;
        let each = |with: &dyn Fn([f32; 3]) -> [f32; 3]| picture.iter().map(|c| with(*c)).collect();
        match self {
            Style::Plain => picture,
            Style::Negative => each(&|c| c.map(|v| 1.0 - v)),
            Style::TwoColours([dark, bright]) => each(&|c| {
                let at = grey(c);
                std::array::from_fn(|i| dark[i] + at * (bright[i] - dark[i]))
            }),
            Style::Shades(shades) => each(&|c| c.map(|v| (v * shades).round() / shades)),
            Style::Drawing => {
                let at = |x: usize, y: usize| grey(picture[y.min(n - 1) * n + x.min(n - 1)]);
                let line = |i: usize| {
                    let (x, y) = (i % n, i / n);
                    let (across, down) = (at(x + 1, y) - at(x, y), at(x, y + 1) - at(x, y));
                    [(0.95 - 5.0 * across.hypot(down)).max(0.1); 3]
                };
                (0..n * n).map(line).collect()
            }
        }
    }
}
