//! Video files, read by FFmpeg: all codecs it supports. By default through the programs `ffprobe` and `ffmpeg` and a pipe, so that a
//! decoder crash does not affect this process; with the feature `libav` by its libraries within this process.
//!
//! **Time.** A decoded clip always has a constant rate: frame `i` is the one shown at `i / fps` seconds, counted from
//! the first frame. Time stamps determine when a frame is shown; the rate in the header is used if time stamps agree
//! with it. If no rate is requested, a video in which each frame is within half a period of its position is returned
//! frame by frame. In any other video, frames are repeated in gaps and dropped where there are too many.
//!
//! **Size.** Rotation metadata is applied; pixels are assumed to be square. A video whose size changes is scaled to its
//! initial size.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::clock::{self, Timing};
use super::external::Programs;
use super::frames::Frames;
#[cfg(feature = "libav")]
use super::libav;
use super::pipe::Patience;
use super::probe::PROBE_BYTES;
pub use super::probe::Probe;
use super::programs::{collect, reason};
use super::reader::Reader;
use super::{Clip, Decode};
use crate::error::{Error, Result};

/// What decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoder {
    /// The programs `ffprobe` and `ffmpeg`.
    Programs,
    /// FFmpeg's libraries, within this process. They give the same clips and refuse the same files, without the time that starting
    /// two programs takes. A decoder that crashes ends this process, and one that hangs holds its thread. Their messages go
    /// to a function of this crate, of which a process has one: another that was set (`av_log_set_callback`) is replaced.
    #[cfg(feature = "libav")]
    Libraries,
}

impl Default for Decoder {
    /// `Libraries` where the feature `libav` is on, otherwise `Programs`.
    fn default() -> Self {
        #[cfg(feature = "libav")]
        return Decoder::Libraries;
        #[cfg(not(feature = "libav"))]
        Decoder::Programs
    }
}

/// How video files are read: by what, and where the two programs are.
#[derive(Debug, Clone)]
pub struct Ffmpeg {
    /// What decodes. The next two fields are for [`Decoder::Programs`] alone.
    pub decoder: Decoder,
    /// `ffmpeg`, looked up on the search path unless it is a path.
    pub program: PathBuf,
    /// `ffprobe`, likewise.
    pub probe: PathBuf,
    /// A program that writes nothing for this long is stopped, and so is reading within this process without a frame.
    pub timeout: Duration,
}

impl Default for Ffmpeg {
    /// The default decoder; `ffmpeg` and `ffprobe` of the search path; 60 s.
    fn default() -> Self {
        Self { decoder: Decoder::default(), ..Ffmpeg::programs() }
    }
}

/// A stop flag that is never set.
static GO_ON: AtomicBool = AtomicBool::new(false);

impl Ffmpeg {
    /// The programs `ffmpeg` and `ffprobe` of the search path, also where the feature `libav` is on.
    #[must_use]
    pub fn programs() -> Self {
        let [program, probe] = ["ffmpeg", "ffprobe"].map(PathBuf::from);
        Self { decoder: Decoder::Programs, program, probe, timeout: Duration::from_secs(60) }
    }

    /// Asks both programs for their version: the first line of `ffmpeg -version`. That of the libraries where they decode.
    ///
    /// # Errors
    /// `Program` when one is absent, fails or hangs.
    pub fn version(&self) -> Result<String> {
        self.version_until(&GO_ON)
    }

    /// Like [`Ffmpeg::version`], aborted soon after `stop` was set.
    pub(super) fn version_until(&self, stop: &AtomicBool) -> Result<String> {
        #[cfg(feature = "libav")]
        if self.decoder == Decoder::Libraries {
            return Ok(libav::version());
        }
        let mut first = String::new();
        for (name, program) in [("ffprobe", &self.probe), ("ffmpeg", &self.program)] {
            let mut command = Command::new(program);
            let output =
                collect(name, command.arg("-version"), PROBE_BYTES, Path::new("-version"), self.patience(stop))?;
            if !output.status.success() {
                let why = reason(&output.stderr, Path::new("-version"));
                return Err(Error::program(name, format!("cannot tell its version: {why}")));
            }
            let text = String::from_utf8_lossy(&output.stdout);
            first = text.lines().next().unwrap_or_default().to_owned();
        }
        Ok(first)
    }

    /// Reads a file's headers.
    ///
    /// # Errors
    /// `Io` when the file cannot be read, `Data` when it is empty, no video, or audio only; `Program` when `ffprobe` is
    /// absent or hangs.
    pub fn probe(&self, path: &Path) -> Result<Probe> {
        self.probe_until(path, &GO_ON)
    }

    /// Like [`Ffmpeg::probe`], aborted soon after `stop` was set.
    pub(super) fn probe_until(&self, path: &Path, stop: &AtomicBool) -> Result<Probe> {
        let patience = self.patience(stop);
        match self.decoder {
            Decoder::Programs => self.by_programs(path, patience).probe(),
            #[cfg(feature = "libav")]
            Decoder::Libraries => libav::File::new(path, patience).probe(),
        }
    }

    /// Decodes a file.
    ///
    /// # Errors
    /// Those of [`Ffmpeg::probe`]; `Data` also when no frame can be decoded, when the file is truncated or damaged so
    /// that a tenth is missing, when neither header nor time stamps determine the rate, or when the clip would exceed
    /// [`Decode::max_bytes`] or the limits of a clip's size; `Program` when `ffmpeg` is absent, hangs or writes more
    /// than requested.
    pub fn decode(&self, path: &Path, how: &Decode) -> Result<Clip> {
        self.decode_until(path, None, how, &GO_ON)
    }

    /// Like [`Ffmpeg::decode`], aborted within a fraction of a second after `stop` was set, in any state of the
    /// programs. With `part`, only the frames from its first millisecond on and before its second, of a file that may end
    /// anywhere.
    ///
    /// # Errors
    /// Those of [`Ffmpeg::decode`]; `Stopped` when it was aborted.
    pub fn decode_until(&self, path: &Path, part: Option<[u64; 2]>, how: &Decode, stop: &AtomicBool) -> Result<Clip> {
        how.check()?;
        let patience = self.patience(stop);
        match self.decoder {
            Decoder::Programs => decode_by(&mut self.by_programs(path, patience), path, part, how),
            #[cfg(feature = "libav")]
            Decoder::Libraries => decode_by(&mut libav::File::new(path, patience), path, part, how),
        }
    }

    fn by_programs<'a>(&'a self, path: &'a Path, patience: Patience<'a>) -> Programs<'a> {
        Programs { path, ffmpeg: &self.program, ffprobe: &self.probe, patience }
    }

    fn patience<'a>(&self, stop: &'a AtomicBool) -> Patience<'a> {
        Patience { silence: self.timeout, stop }
    }
}

/// Decodes a file, or a part of it, with one of the readers.
fn decode_by(reader: &mut impl Reader, path: &Path, part: Option<[u64; 2]>, how: &Decode) -> Result<Clip> {
    let probe = reader.probe()?;
    let size = how.size(path, probe.h, probe.w)?;
    let mut frames = Frames::new(path, how, size);
    let ended = reader.run(part, size, &mut frames)?;
    if frames.is_too_large() {
        return Err(how.too_large(path, size.0, size.1));
    }
    let why = || reason(&frames.reason(), path);
    let decoded = frames.whole();
    if let (0, Some([from, to]), false) = (decoded, part, frames.complained()) {
        let [from, to] = [from, to].map(|ms| ms as f64 / 1e3);
        return Err(Error::data(path, format!("it has no frame between {from} s and {to} s")));
    }
    if decoded == 0 {
        return Err(Error::data(path, format!("no frame of it can be decoded: {}", why())));
    }
    if ended == Some(false) || (ended.is_some() && frames.torn()) {
        return Err(Error::data(path, format!("decoding stopped after {decoded} frames: {}", why())));
    }
    if frames.untimed() {
        return Err(Error::program("ffmpeg", format!("does not tell the times of the frames of {}", path.display())));
    }
    let timing = match how.fps {
        Some(fps) => Timing { fps, places: None },
        None => clock::native(frames.stamps(), &probe.rates, probe.avi)
            .ok_or_else(|| Error::data(path, "its frame rate is unknown"))?,
    };
    if ended.is_some() && !frames.full() && part.is_none() {
        expect_end(reader, path, &frames, &probe, timing.fps)?;
    }
    frames.into_clip(timing, probe.fps)
}

/// Refuses a file that ends long before the duration in its headers. Sound may be longer than the picture, and a
/// file cut from a longer one may state too long a duration: if the decoder reported no error, it is enough that
/// any stream reaches the end.
fn expect_end(reader: &mut impl Reader, path: &Path, frames: &Frames, probe: &Probe, fps: f64) -> Result<()> {
    let Some(end) = probe.end else { return Ok(()) };
    let frames_in = |seconds: f64| (seconds * fps).round();
    let there = frames_in(frames.stamps().end(probe.fps));
    let promised = frames_in(end - frames.stamps().first());
    if there + 2.0 >= 0.9 * promised {
        return Ok(());
    }
    if !frames.complained() {
        let Some([start, end]) = probe.span else { return Ok(()) };
        let last = reader.last_packet()?;
        if last - start >= 0.9 * (end - start) - 2.0 / fps {
            return Ok(());
        }
    }
    let what = format!("it is cut short or damaged: {there} of the {promised} frames it promises can be decoded");
    Err(Error::data(path, what))
}
