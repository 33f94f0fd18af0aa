//! Video files through the programs `ffprobe` and `ffmpeg` and a pipe: a decoder that crashes or hangs does not affect this
//! process.

use std::path::Path;
use std::process::Command;

use super::frames::Frames;
use super::pipe::{self, Failure, Patience};
use super::probe::{self, Probe, file_url};
use super::programs::failed;
use super::reader::Reader;
use crate::error::Result;

/// A video file, read by the programs at these paths.
pub(super) struct Programs<'a> {
    pub path: &'a Path,
    pub ffmpeg: &'a Path,
    pub ffprobe: &'a Path,
    pub patience: Patience<'a>,
}

impl Reader for Programs<'_> {
    fn probe(&mut self) -> Result<Probe> {
        probe::probe(self.ffprobe, self.path, self.patience)
    }

    fn run(&mut self, part: Option<[u64; 2]>, size: (usize, usize), frames: &mut Frames) -> Result<Option<bool>> {
        // Options for unmodified frame timing: since version 5.1, and before.
        let ended = self.run_with("-fps_mode", part, size, frames)?;
        if ended == Some(false) && frames.reason().contains("Unrecognized option") {
            frames.restart();
            return self.run_with("-vsync", part, size, frames);
        }
        Ok(ended)
    }

    fn last_packet(&mut self) -> Result<f64> {
        probe::last_packet(self.ffprobe, self.path, self.patience)
    }
}

impl Programs<'_> {
    fn run_with(
        &self,
        mode: &str,
        part: Option<[u64; 2]>,
        (h, w): (usize, usize),
        frames: &mut Frames,
    ) -> Result<Option<bool>> {
        let mut command = Command::new(self.ffmpeg);
        command.args(["-nostdin", "-hide_banner", "-nostats", "-v", "repeat+level+info"]);
        command.args(["-threads", "1", "-filter_threads", "1", "-protocol_whitelist", "file"]);
        if let Some([from, to]) = part {
            let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
            command.args(["-ss", &seconds(from), "-t", &seconds(to.saturating_sub(from))]);
        }
        let input = file_url(self.path);
        command.arg("-i").arg(input).args(["-map", "0:V:0", "-an", "-sn", "-dn", mode, "passthrough", "-vf"]);
        // The format directly after it: where the size of a video changes, `ffmpeg` appends a filter that scales, and which would
        // convert to RGB less exactly.
        command.arg(format!("scale={w}:{h}:flags=bicubic+accurate_rnd+full_chroma_int,format=rgb24,showinfo"));
        if let Some(wanted) = frames.wanted() {
            command.args(["-frames:v", &wanted.min(i32::MAX as usize).to_string()]);
        }
        command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-threads", "1", "pipe:1"]);
        command.env_remove("FFREPORT");
        let status = pipe::run(&mut command, self.patience, &mut |piece| frames.take(piece));
        let status = status.map_err(|failure| failed("ffmpeg", self.path, 0, self.patience, failure))?;
        match frames.flood() {
            Some(limit) => Err(failed("ffmpeg", self.path, limit, self.patience, Failure::Flood)),
            None => Ok(status.map(|s| s.success())),
        }
    }
}
