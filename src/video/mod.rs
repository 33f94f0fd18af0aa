//! Video input: files, folders of frames or procedural generation to [`Clip`]s, data sets and clip sampling.
//!
//! ```text
//! dataset (which videos, which class)
//!    └─ ffmpeg | folder | procedural ─→ Clip ─→ cache (frames, flow, maps: packed, mapped) ─→ sample ─→ prefetch
//!                                            └─→ pack (the same in tar files, with one index) ─┘
//! ```

pub mod cache;
mod clock;
mod columns;
mod content;
pub mod dataset;
mod decode;
mod external;
pub mod ffmpeg;
mod fields;
mod flow_folder;
pub mod folder;
mod frames;
mod jpeg;
mod json_list;
mod key;
#[cfg(feature = "libav")]
mod libav;
mod list;
mod lock;
mod maps;
mod messages;
pub mod pack;
mod packed;
mod parts;
pub mod permutation;
mod pipe;
pub mod prefetch;
mod probe;
pub mod procedural;
mod programs;
mod reader;
pub mod sample;
mod series;
mod triple;
#[cfg(any(test, feature = "testing"))]
pub mod untrusted;
mod view;
mod workers;

pub use cache::{Cache, CacheSpec, FlowSource, MotionSpec, View};
pub use dataset::{Dataset, Input, Item, Source, Split, Splits};
pub use decode::{Decode, read};
pub use ffmpeg::Ffmpeg;
pub use pack::Pack;
pub use permutation::Permutation;
pub use prefetch::Prefetch;
pub use procedural::{ProceduralSpec, SimilaritySpec};
pub use sample::{ClipSpec, Gap, Short};
pub use triple::{Favour, Triple};

use crate::error::{Error, Result};

/// A piece of video in memory: `t h w 3`, 8-bit RGB, frame `i` shown at `i / fps` seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// Number of frames.
    pub t: usize,
    /// Height in pixels.
    pub h: usize,
    /// Width in pixels.
    pub w: usize,
    /// Pixels, `t h w 3`, red first.
    pub rgb: Vec<u8>,
    /// Frames per second.
    pub fps: f64,
}

impl Clip {
    /// A clip over pixels `rgb` (`t h w 3`).
    ///
    /// # Errors
    /// `Shape` when the number of bytes is not `t·h·w·3` or an extent is 0; `Param` when `fps` is not a positive number.
    pub fn new(t: usize, h: usize, w: usize, rgb: Vec<u8>, fps: f64) -> Result<Self> {
        let bytes = [t, h, w, 3].iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if bytes != Some(rgb.len()) || rgb.is_empty() {
            return Err(Error::shape("clip", "rgb", format!("{t} x {h} x {w} x 3 bytes, none zero"), rgb.len()));
        }
        if !(fps.is_finite() && fps > 0.0) {
            return Err(Error::param("clip", "fps", fps, "it must be a positive number of frames per second"));
        }
        Ok(Self { t, h, w, rgb, fps })
    }

    /// Pixels of frame `i`, `h w 3`. Panics where `i >= t`, as slices do.
    #[must_use]
    pub fn frame(&self, i: usize) -> &[u8] {
        let n = self.h * self.w * 3;
        &self.rgb[i * n..(i + 1) * n]
    }

    /// Duration in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.t as f64 / self.fps
    }
}
