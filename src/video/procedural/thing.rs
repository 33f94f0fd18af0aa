//! Objects of procedural videos: outline, texture and motion.

use super::texture::{Pattern, Texture};
use std::f32::consts::{PI, TAU};

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

/// One object and its motion.
pub(super) struct Thing {
    pub motion: &'static str,
    pub frames: usize,
    /// Texture of the object over its own square of [-1.25, 1.25] radii.
    pub skin: Texture,
    pub shape: Shape,
    /// Centre of the path, pixels.
    pub centre: [f32; 2],
    /// Middle of its range of sizes, pixels.
    pub radius: f32,
    /// Natural logarithm of the ratio of last to first size, for objects that change size.
    pub log_growth: f32,
    /// Constant position in that range, 0..1, for objects that do not change size.
    pub size_at: f32,
    pub angle: f32,
    /// Pixels per frame.
    pub speed: f32,
    /// Radians per frame.
    pub spin: f32,
    /// Pixels.
    pub amplitude: f32,
    /// Frames.
    pub period: f32,
    /// Radians.
    pub phase: f32,
}

/// An object in one frame.
pub(super) struct Pose<'a> {
    thing: &'a Thing,
    pub centre: [f32; 2],
    radius: f32,
    sin: f32,
    cos: f32,
    /// Squared distance beyond which nothing is drawn.
    reach: f32,
}

impl<'a> Pose<'a> {
    pub fn new(thing: &'a Thing, i: usize) -> Self {
        let [x, y, radius, angle] = thing.pose(i);
        let (sin, cos) = angle.sin_cos();
        Self { thing, centre: [x, y], radius, sin, cos, reach: (Shape::REACH * radius + 1.0).powi(2) }
    }

    /// Blends the object into the `colour` of the pixel at `dx dy` from its centre.
    pub fn paint(&self, dx: f32, dy: f32, colour: &mut [f32; 3]) {
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
    /// A random object of a video of this many frames and pixels on each side.
    pub fn draw(frames: usize, side: usize, motion: &'static str, between: &mut impl FnMut(f32, f32) -> f32) -> Self {
        let bare = Self::bare(frames, side, motion, between);
        Self { skin: skin(between), ..bare }
    }

    /// The same without a texture.
    pub fn bare(frames: usize, side: usize, motion: &'static str, between: &mut impl FnMut(f32, f32) -> f32) -> Self {
        let side = side as f32;
        Self {
            motion,
            frames,
            skin: Texture::flat([0.5; 3]),
            // The numbers are drawn in the order of the lines.
            centre: [between(0.0, side), between(0.0, side)],
            radius: between(0.12, 0.19) * side,
            log_growth: between(1.7f32.ln(), 2.5f32.ln()),
            size_at: between(0.0, 1.0),
            angle: between(0.0, TAU),
            speed: between(0.012, 0.022) * side,
            spin: between(4.0, 8.0) * PI / 180.0,
            amplitude: between(0.10, 0.18) * side,
            period: between(16.0, 28.0),
            phase: between(0.0, TAU),
            shape: Shape::ALL[(between(0.0, Shape::ALL.len() as f32) as usize).min(Shape::ALL.len() - 1)],
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

/// The texture of a random object.
pub(super) fn skin(between: &mut impl FnMut(f32, f32) -> f32) -> Texture {
    let dark: [f32; 3] = std::array::from_fn(|_| between(0.35, 0.7));
    let bright: [f32; 3] = std::array::from_fn(|_| between(0.7, 1.0));
    let pattern = [Pattern::None, Pattern::Stripes, Pattern::Checks][(between(0.0, 3.0) as usize).min(2)];
    Texture::draw(48, 4, [dark, bright], pattern, between)
}

/// `d` on a circle of length `side`, in `[-side/2, side/2]`.
pub(super) fn wrapped(d: f32, side: f32) -> f32 {
    d - side * (d / side).round()
}

/// Outline of an object of radius 1.
#[derive(Clone, Copy)]
pub(super) enum Shape {
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
