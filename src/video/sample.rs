//! Positions of clips in a video, in time, deterministically.
//!
//! A clip of `frames` frames, `stride` frames of a video of `fps` frames per second apart, starts at `start`; its
//! `i`-th frame is `round(start + i · stride · video_fps / fps)` of the video.
//!
//! ```
//! use tubelet::video::{ClipSpec, Short};
//! let clip = ClipSpec { frames: 4, stride: 2.0, fps: 30.0 };
//! assert_eq!(clip.indices(1.0, 10, 30.0, Short::Repeat)?, [1, 3, 5, 7]);
//! # Ok::<(), tubelet::Error>(())
//! ```

use rand::{Rng, RngExt};

use super::Clip;
use crate::error::{Error, Result};
use serde::Serialize;

/// Temporal extent of a clip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipSpec {
    /// Number of frames.
    pub frames: usize,
    /// Distance between two frames, in frames of a video of `fps`.
    pub stride: f64,
    /// Frames per second in which `stride` is counted.
    pub fps: f64,
}

/// What to do with a video that is shorter than the clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Short {
    /// An error.
    Refuse,
    /// Continue with the first frame after the last, as often as needed.
    Repeat,
}

/// Distance in time between the two clips of a pair, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gap {
    /// At least this, if the video is long enough; otherwise as far apart as possible.
    pub min: f64,
    /// At most this.
    pub max: f64,
}

impl Default for Gap {
    /// 0.5 s to 10 s.
    fn default() -> Self {
        Self { min: 0.5, max: 10.0 }
    }
}

impl Gap {
    /// The `share` of it that two clips reach whose starts are at most `room` seconds apart: both bounds, within that room,
    /// times `share`.
    #[must_use]
    pub fn reaching(self, share: f64, room: f64) -> Gap {
        Gap { min: self.min.min(room) * share, max: self.max.min(room) * share }
    }
}

impl ClipSpec {
    /// Checks every field.
    ///
    /// # Errors
    /// `Param` naming the field that is out of range.
    pub fn check(&self) -> Result<()> {
        if self.frames == 0 {
            return Err(Error::param("clip", "frames", 0, "it must be at least 1"));
        }
        for (name, value) in [("stride", self.stride), ("fps", self.fps)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::param("clip", name, value, "it must be positive"));
            }
        }
        Ok(())
    }

    /// Length in seconds, including the duration of the last frame.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.frames as f64 * self.stride / self.fps
    }

    /// The same time span with `frames` frames.
    #[must_use]
    pub fn with_frames(&self, frames: usize) -> Self {
        Self { frames, stride: self.stride * self.frames as f64 / frames.max(1) as f64, fps: self.fps }
    }

    /// Frames of the video between two frames of the clip.
    pub(super) fn step(&self, video_fps: f64) -> f64 {
        self.stride * video_fps / self.fps
    }

    /// Whether a video of `len` frames has fewer than the clip needs.
    #[must_use]
    pub fn exceeds(&self, len: usize, video_fps: f64) -> bool {
        ((self.frames - 1) as f64 * self.step(video_fps)).round() > len.saturating_sub(1) as f64
    }

    /// The latest start, in frames, at which the clip ends within a video of `len` frames.
    #[must_use]
    pub fn last_start(&self, len: usize, video_fps: f64) -> f64 {
        (len as f64 - self.frames as f64 * self.step(video_fps)).max(0.0)
    }

    /// Indices of the clip's frames in a video of `len` frames, starting at frame `start`.
    ///
    /// # Errors
    /// `Param` when the video is shorter than the clip and `short` refuses that, or when it has no frame.
    pub fn indices(&self, start: f64, len: usize, video_fps: f64, short: Short) -> Result<Vec<usize>> {
        self.check()?;
        let repeat = self.exceeds(len, video_fps);
        if len == 0 || (repeat && short == Short::Refuse) {
            let rule = format!("the video has {len} frames ({:.3} s)", len as f64 / video_fps);
            return Err(Error::param("clip", "seconds", format!("{:.3}", self.seconds()), rule));
        }
        let step = self.step(video_fps);
        let index = |i: usize| {
            let at = (start + i as f64 * step).round() as usize;
            if repeat { at % len } else { at.min(len - 1) }
        };
        Ok((0..self.frames).map(index).collect())
    }

    /// A start drawn uniformly.
    pub fn start(&self, len: usize, video_fps: f64, rng: &mut impl Rng) -> f64 {
        rng.random::<f64>() * self.last_start(len, video_fps)
    }

    /// Two starts, uniform among all pairs (in either order) whose distance is within `gap`; if the video is too short
    /// for that, as far apart as possible.
    pub fn pair(&self, len: usize, video_fps: f64, gap: Gap, rng: &mut impl Rng) -> [f64; 2] {
        let room = self.last_start(len, video_fps);
        let (min, max) = ((gap.min * video_fps).clamp(0.0, room), (gap.max * video_fps).clamp(0.0, room));
        // Pairs at distance d have room - d positions, so the distance has that density between min and max.
        let (most, least) = ((room - min).powi(2), (room - max.max(min)).powi(2));
        let [draw, place, order] = [rng.random::<f64>(), rng.random::<f64>(), rng.random::<f64>()];
        let places = (least + (most - least) * draw).sqrt();
        let (early, late) = (place * places, place * places + (room - places));
        if order < 0.5 { [early, late] } else { [late, early] }
    }

    /// `n` starts spread evenly over the video, for evaluation; a single one is in the middle.
    #[must_use]
    pub fn uniform(&self, n: usize, len: usize, video_fps: f64) -> Vec<f64> {
        let room = self.last_start(len, video_fps);
        let at = |i: usize| if n == 1 { 0.5 } else { i as f64 / (n - 1) as f64 };
        (0..n).map(|i| room * at(i)).collect()
    }
}

/// Frames `indices` of `clip`, labelled with `fps`.
///
/// # Errors
/// `Param` when an index is not below `clip.t`; those of [`Clip::new`].
pub fn gather(clip: &Clip, indices: &[usize], fps: f64) -> Result<Clip> {
    if let Some(&i) = indices.iter().find(|&&i| i >= clip.t) {
        return Err(Error::param("gather", "indices", i, format!("the clip has {} frames", clip.t)));
    }
    let rgb = indices.iter().flat_map(|&i| clip.frame(i)).copied().collect();
    Clip::new(indices.len(), clip.h, clip.w, rgb, fps)
}
