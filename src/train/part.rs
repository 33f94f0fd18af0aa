//! Clips of samples.

use super::share::Clips;
use crate::augment::layers::LayeredClip;
use crate::augment::{Draw, RawClip};
use crate::video::View;

/// A clip as a network's input.
#[derive(Clone, Debug)]
pub struct Part {
    /// Extents `t h w c`.
    pub dims: [usize; 4],
    /// The values; none if there is a `raw` clip.
    pub data: Vec<f32>,
    /// What the clip is made of, if that is done on the GPU of the networks.
    pub raw: Option<Box<LayeredClip>>,
}

impl Part {
    /// A clip with these values.
    #[must_use]
    pub fn new(dims: [usize; 4], data: Vec<f32>) -> Part {
        Part { dims, data, raw: None }
    }

    /// In the place of a clip that was not asked for: without extents and values.
    #[must_use]
    pub fn none() -> Part {
        Part::new([0; 4], Vec::new())
    }

    /// A clip that is still to be made of frames of a video.
    pub(super) fn of_frames(dims: [usize; 4], view: &View, frames: &[usize], draw: &Draw) -> Part {
        let all: Vec<&[u8]> = frames.iter().map(|&i| view.frame(i)).collect();
        let raw = RawClip { frames: all.concat(), size: view.size().into(), draw: draw.clone() };
        Part { dims, data: Vec::new(), raw: Some(Box::new(raw.into())) }
    }
}

/// Two clips of a video; with synthetic tubelets the second is of another.
#[derive(Clone, Debug)]
pub struct ClipPair {
    /// The video's index among the training videos.
    pub video: u32,
    /// First frame of each clip.
    pub starts: [f64; 2],
    /// Both RGB clips.
    pub rgb: [Part; 2],
    /// Both motion clips, if the method uses motion.
    pub motion: Option<[Part; 2]>,
    /// Where each clip moves, `t h w 1`, on the grid of the alignment.
    pub target: Option<[Part; 2]>,
}

impl ClipPair {
    /// The numbers of its RGB clips where some of its [clips](Clips) are asked for.
    pub const RGB: [usize; 2] = [0, 1];
    /// Those of its motion clips.
    pub const MOTION: [usize; 2] = [2, 3];
    /// That of its targets.
    pub const TARGET: usize = 4;

    /// The RGB clip or motion clip with this number.
    #[must_use]
    pub fn clip(&self, number: usize) -> Option<&Part> {
        match Self::RGB.iter().position(|n| *n == number) {
            Some(i) => Some(&self.rgb[i]),
            None => self.motion.as_ref().zip(Self::MOTION.iter().position(|n| *n == number)).map(|(m, i)| &m[i]),
        }
    }
}

/// MCL's sample of a video (`docs/papers/mcl.md` section 1.7).
#[derive(Clone, Debug)]
pub struct Quad {
    /// The video's index among the training videos.
    pub video: u32,
    /// The query, `t s s 3`.
    pub query: Part,
    /// The query's clip with another crop and other colours, and two other clips of the video.
    pub keys: [Part; 3],
    /// Where the query moves, `t h w 1`, on the grid of the alignment.
    pub target: Option<Part>,
    /// Whether the query begins before the two other clips, or after them.
    pub order: bool,
}

impl Quad {
    /// The number of its query where some of its [clips](Clips) are asked for.
    pub const QUERY: usize = 0;
    /// Those of its keys.
    pub const KEYS: [usize; 3] = [1, 2, 3];
    /// That of its target.
    pub const TARGET: usize = 4;
}

/// What `make` makes of clip `number` if it is among `clips`, or nothing in its place.
pub(super) fn wanted<E>(clips: Clips, number: usize, make: impl FnOnce() -> Result<Part, E>) -> Result<Part, E> {
    if clips.has(number) { make() } else { Ok(Part::none()) }
}
