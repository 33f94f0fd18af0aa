//! Settings common to all ways of reading a video: size, rate and limits.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::probe::MAX_SIDE;
use super::{Clip, Ffmpeg, ProceduralSpec, Source, folder};
use crate::error::{Error, Result};

/// No frame has more pixels after resizing.
const MAX_PIXELS: usize = 1 << 26;

/// How to decode a video.
#[derive(Debug, Clone, PartialEq)]
pub struct Decode {
    /// Resize so that the shorter side has this many pixels, keeping the aspect; `None` keeps the size.
    pub short_side: Option<usize>,
    /// Resample to this many frames per second: frame `i` is the one shown at `i / fps` seconds; `None` keeps the rate.
    pub fps: Option<f64>,
    /// Take at most this many frames from the beginning.
    pub max_frames: Option<usize>,
    /// Frames per second of a folder of frames, which does not state it.
    pub folder_fps: f64,
    /// Clips of more bytes are refused.
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

    /// Height and width after resizing, with frames of at most [`Decode::max_bytes`].
    ///
    /// A very long and narrow video would become enormous when its short side is scaled up, so both are bounded.
    pub(super) fn size(&self, path: &Path, h: usize, w: usize) -> Result<(usize, usize)> {
        let long = |other: usize, short: usize, shorter: usize| (other * short + shorter / 2) / shorter;
        let (to_h, to_w) = match self.short_side {
            None => (h, w),
            Some(short) if h <= w => (short, long(w, short, h)),
            Some(short) => (long(h, short, w), short),
        };
        if to_h.max(to_w) > MAX_SIDE || to_h * to_w > MAX_PIXELS {
            let what = format!(
                "its frames of {w} x {h} pixels would become {to_w} x {to_h}, and at most {MAX_SIDE} a side and \
                 {MAX_PIXELS} in all are decoded"
            );
            return Err(Error::data(path, what));
        }
        if to_h * to_w * 3 > self.max_bytes { Err(self.too_large(path, to_h, to_w)) } else { Ok((to_h, to_w)) }
    }

    /// Which of `n` frames at `native` frames per second to take: at each output position the last one whose time has
    /// come.
    pub(super) fn pick(&self, n: usize, native: f64) -> Vec<usize> {
        let step = self.fps.map_or(1.0, |fps| native / fps);
        // Products like 3 · (1 / 3) must not fall short of the intended frame.
        let index = |i: usize| (i as f64 * step + 1e-6) as usize;
        (0..self.max_frames.unwrap_or(usize::MAX)).map(index).take_while(|&i| i < n).collect()
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
    read_until(source, procedural, how, ffmpeg, &AtomicBool::new(false))
}

/// Like [`read`], but decoding of a video file is aborted soon after `stop` was set.
pub(super) fn read_until(
    source: &Source,
    procedural: Option<&ProceduralSpec>,
    how: &Decode,
    ffmpeg: &Ffmpeg,
    stop: &AtomicBool,
) -> Result<Clip> {
    match source {
        Source::File(path) => ffmpeg.decode_until(path, None, how, stop),
        Source::Part(path, part) => ffmpeg.decode_until(path, Some(*part), how, stop),
        Source::Folder(path) => folder::read(path, how),
        Source::Packed(_) => {
            Err(Error::param("read", "source", "packed", "the frames of a packed video are in its packed folder"))
        }
        Source::Procedural(index) => {
            how.check()?;
            let Some(spec) = procedural else {
                return Err(Error::param("read", "procedural", "none", "a procedural video needs its specification"));
            };
            let clip = spec.clip(*index)?;
            let name = Path::new("procedural video");
            let (h, w) = how.size(name, clip.h, clip.w)?;
            let picked = how.pick(clip.t, clip.fps);
            if picked.len() > how.max_bytes / (h * w * 3) {
                return Err(how.too_large(name, h, w));
            }
            let mut rgb = Vec::with_capacity(picked.len() * h * w * 3);
            for &i in &picked {
                let picture = image::RgbImage::from_raw(clip.w as u32, clip.h as u32, clip.frame(i).to_vec());
                rgb.extend(picture.map(|p| folder::resized(p, [h, w]).into_raw()).unwrap_or_default());
            }
            Clip::new(picked.len(), h, w, rgb, how.fps.unwrap_or(clip.fps))
        }
    }
}
