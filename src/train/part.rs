//! Clips of samples.

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
    pub raw: Option<Box<RawClip>>,
}

impl Part {
    /// A clip with these values.
    #[must_use]
    pub fn new(dims: [usize; 4], data: Vec<f32>) -> Part {
        Part { dims, data, raw: None }
    }

    /// A clip that is still to be made of frames of a video.
    pub(super) fn of_frames(dims: [usize; 4], view: &View, frames: &[usize], draw: &Draw) -> Part {
        let all: Vec<&[u8]> = frames.iter().map(|&i| view.frame(i)).collect();
        let raw = RawClip { frames: all.concat(), size: view.size().into(), draw: draw.clone() };
        Part { dims, data: Vec::new(), raw: Some(Box::new(raw)) }
    }
}
