//! Video files, read through the programs `ffprobe` and `ffmpeg` and a pipe: all codecs they support, and a decoder
//! crash does not affect this process.
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
use super::frames::{Frames, Trouble};
use super::pipe::{self, Failure, Patience};
pub use super::probe::Probe;
use super::probe::{self, PROBE_BYTES, file_url};
use super::programs::{collect, failed, reason};
use super::{Clip, Decode};
use crate::error::{Error, Result};

/// Paths and time limits of the two programs.
#[derive(Debug, Clone)]
pub struct Ffmpeg {
    /// `ffmpeg`, looked up on the search path unless it is a path.
    pub program: PathBuf,
    /// `ffprobe`, likewise.
    pub probe: PathBuf,
    /// A program that writes nothing for this long is stopped.
    pub timeout: Duration,
}

impl Default for Ffmpeg {
    /// `ffmpeg` and `ffprobe` of the search path, 60 s.
    fn default() -> Self {
        Self { program: "ffmpeg".into(), probe: "ffprobe".into(), timeout: Duration::from_secs(60) }
    }
}

/// A stop flag that is never set.
static GO_ON: AtomicBool = AtomicBool::new(false);

impl Ffmpeg {
    /// Asks both programs for their version: the first line of `ffmpeg -version`.
    ///
    /// # Errors
    /// `Program` when one is absent, fails or hangs.
    pub fn version(&self) -> Result<String> {
        self.version_until(&GO_ON)
    }

    /// Like [`Ffmpeg::version`], aborted soon after `stop` was set.
    pub(super) fn version_until(&self, stop: &AtomicBool) -> Result<String> {
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
        probe::probe(&self.probe, path, self.patience(stop))
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
        let probe = self.probe_until(path, stop)?;
        let size = how.size(path, probe.h, probe.w)?;
        // Options for unmodified frame timing: since version 5.1, and before.
        let mut frames = Frames::new(path, how, size);
        let mut ended = self.run((path, part), how, size, "-fps_mode", &mut frames, stop)?;
        if ended == Some(false) && frames.reason().contains("Unrecognized option") {
            frames = Frames::new(path, how, size);
            ended = self.run((path, part), how, size, "-vsync", &mut frames, stop)?;
        }
        let why = || reason(&frames.reason(), path);
        let decoded = frames.whole();
        if decoded == 0 {
            return Err(Error::data(path, format!("no frame of it can be decoded: {}", why())));
        }
        if ended == Some(false) || (ended.is_some() && frames.torn()) {
            return Err(Error::data(path, format!("decoding stopped after {decoded} frames: {}", why())));
        }
        if frames.untimed() {
            return Err(Error::program(
                "ffmpeg",
                format!("does not tell the times of the frames of {}", path.display()),
            ));
        }
        let timing = match how.fps {
            Some(fps) => Timing { fps, places: None },
            None => clock::native(frames.stamps(), &probe.rates, probe.avi)
                .ok_or_else(|| Error::data(path, "its frame rate is unknown"))?,
        };
        let fps = timing.fps;
        if ended.is_some() && !frames.full() && part.is_none() {
            self.expect_end(path, &frames, &probe, fps, stop)?;
        }
        frames.into_clip(timing, probe.fps)
    }

    /// Runs `ffmpeg`. Whether it ended successfully; `None` when the reader stopped it.
    fn run(
        &self,
        (path, part): (&Path, Option<[u64; 2]>),
        how: &Decode,
        (h, w): (usize, usize),
        mode: &str,
        frames: &mut Frames,
        stop: &AtomicBool,
    ) -> Result<Option<bool>> {
        let mut command = Command::new(&self.program);
        command.args(["-nostdin", "-hide_banner", "-nostats", "-v", "repeat+level+info"]);
        command.args(["-threads", "1", "-filter_threads", "1", "-protocol_whitelist", "file"]);
        if let Some([from, to]) = part {
            let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
            command.args(["-ss", &seconds(from), "-t", &seconds(to.saturating_sub(from))]);
        }
        command.arg("-i").arg(file_url(path)).args(["-map", "0:V:0", "-an", "-sn", "-dn", mode, "passthrough", "-vf"]);
        command.arg(format!("scale={w}:{h}:flags=bicubic+accurate_rnd+full_chroma_int,showinfo"));
        if let Some(wanted) = frames.wanted() {
            command.args(["-frames:v", &wanted.min(i32::MAX as usize).to_string()]);
        }
        command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-threads", "1", "pipe:1"]);
        command.env_remove("FFREPORT");
        let patience = self.patience(stop);
        let status = pipe::run(&mut command, patience, &mut |piece| frames.take(piece));
        let status = status.map_err(|failure| failed("ffmpeg", path, 0, patience, failure))?;
        match frames.trouble() {
            Some(Trouble::Large) => Err(how.too_large(path, h, w)),
            Some(Trouble::Flood(limit)) => Err(failed("ffmpeg", path, limit, patience, Failure::Flood)),
            None => Ok(status.map(|s| s.success())),
        }
    }

    /// Refuses a file that ends long before the duration in its headers. Sound may be longer than the picture, and a
    /// file cut from a longer one may state too long a duration: if the decoder reported no error, it is enough that
    /// any stream reaches the end.
    fn expect_end(&self, path: &Path, frames: &Frames, probe: &Probe, fps: f64, stop: &AtomicBool) -> Result<()> {
        let Some(end) = probe.end else { return Ok(()) };
        let frames_in = |seconds: f64| (seconds * fps).round();
        let there = frames_in(frames.stamps().end(probe.fps));
        let promised = frames_in(end - frames.stamps().first());
        if there + 2.0 >= 0.9 * promised {
            return Ok(());
        }
        if !frames.complained() {
            let Some([start, end]) = probe.span else { return Ok(()) };
            let last = probe::last_packet(&self.probe, path, self.patience(stop))?;
            if last - start >= 0.9 * (end - start) - 2.0 / fps {
                return Ok(());
            }
        }
        let what = format!("it is cut short or damaged: {there} of the {promised} frames it promises can be decoded");
        Err(Error::data(path, what))
    }

    fn patience<'a>(&self, stop: &'a AtomicBool) -> Patience<'a> {
        Patience { silence: self.timeout, stop }
    }
}
