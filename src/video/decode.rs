//! What every way of reading a video has in common: the size, the rate and the limits asked for.

use std::path::Path;

use super::{Clip, Ffmpeg, ProceduralSpec, Source, ffmpeg::MAX_SIDE, folder};
use crate::error::{Error, Result};

/// How to decode a video.
#[derive(Debug, Clone, PartialEq)]
pub struct Decode {
    /// Resize so that the shorter side has this many pixels, keeping the aspect; `None` keeps the size.
    pub short_side: Option<usize>,
    /// Resample to this many frames per second, by nearest time; `None` keeps the rate.
    pub fps: Option<f64>,
    /// Take at most this many frames from the beginning.
    pub max_frames: Option<usize>,
    /// Frames per second of a folder of frames, which does not say.
    pub folder_fps: f64,
    /// A clip of more bytes is refused.
    pub max_bytes: usize,
}

impl Default for Decode {
    /// Size and rate as they are, folders at 25 frames per second, at most 2 GiB.
    fn default() -> Self {
        Self { short_side: None, fps: None, max_frames: None, folder_fps: 25.0, max_bytes: 2 << 30 }
    }
}

impl Decode {
    pub(super) fn check(&self) -> Result<()> {
        let bad = |name, value: String, rule: &str| Err(Error::param("decode", name, value, rule));
        match (self.short_side, self.fps, self.max_frames) {
            (Some(s), _, _) if !(1..=MAX_SIDE).contains(&s) => {
                bad("short_side", s.to_string(), "it must be 1 to 16384")
            }
            (_, Some(f), _) if !positive_rate(f) => bad("fps", f.to_string(), "it must be above 0 and at most 1000"),
            (_, _, Some(0)) => bad("max_frames", "0".to_owned(), "it must be at least 1"),
            _ if !positive_rate(self.folder_fps) => {
                bad("folder_fps", self.folder_fps.to_string(), "it must be above 0 and at most 1000")
            }
            _ => Ok(()),
        }
    }

    /// Height and width after resizing.
    pub(super) fn size(&self, h: usize, w: usize) -> (usize, usize) {
        let Some(short) = self.short_side else { return (h, w) };
        let long = |other: usize, shorter: usize| (other * short + shorter / 2) / shorter;
        if h <= w { (short, long(w, h)) } else { (long(h, w), short) }
    }

    /// Which of `n` frames at `native` frames per second to take.
    pub(super) fn pick(&self, n: usize, native: f64) -> Vec<usize> {
        let step = self.fps.map_or(1.0, |fps| native / fps);
        let index = |i: usize| (i as f64 * step).round() as usize;
        (0..self.max_frames.unwrap_or(usize::MAX)).map(index).take_while(|&i| i < n).collect()
    }

    /// Bytes of a frame, at most [`Decode::max_bytes`].
    pub(super) fn frame_bytes(&self, path: &Path, h: usize, w: usize) -> Result<usize> {
        let bytes = h.checked_mul(w).and_then(|n| n.checked_mul(3)).filter(|&n| n <= self.max_bytes);
        bytes.ok_or_else(|| self.too_large(path, h, w))
    }

    pub(super) fn too_large(&self, path: &Path, h: usize, w: usize) -> Error {
        let what = format!(
            "its frames of {w} x {h} pixels exceed {} bytes; a smaller side or fewer frames would do",
            self.max_bytes
        );
        Error::data(path, what)
    }
}

fn positive_rate(fps: f64) -> bool {
    fps > 0.0 && fps <= 1000.0
}

/// Reads any source. `procedural` is what [`Source::Procedural`] refers to.
///
/// # Errors
/// Those of [`Ffmpeg::decode`], [`folder::read`] and [`ProceduralSpec::clip`].
pub fn read(source: &Source, procedural: Option<&ProceduralSpec>, how: &Decode, ffmpeg: &Ffmpeg) -> Result<Clip> {
    match source {
        Source::File(path) => ffmpeg.decode(path, how),
        Source::Folder(path) => folder::read(path, how),
        Source::Procedural(index) => {
            how.check()?;
            let Some(spec) = procedural else {
                return Err(Error::param("read", "procedural", "none", "a procedural video needs its specification"));
            };
            let clip = spec.clip(*index)?;
            let (h, w) = how.size(clip.h, clip.w);
            let picked = how.pick(clip.t, clip.fps);
            let mut rgb = Vec::with_capacity(picked.len() * h * w * 3);
            for &i in &picked {
                let picture = image::RgbImage::from_raw(clip.w as u32, clip.h as u32, clip.frame(i).to_vec());
                rgb.extend(picture.map(|p| folder::resized(p, [h, w]).into_raw()).unwrap_or_default());
            }
            Clip::new(picked.len(), h, w, rgb, how.fps.unwrap_or(clip.fps))
        }
    }
}
