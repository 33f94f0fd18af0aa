//! Video files through FFmpeg's libraries, within this process: the frames that the programs give, without starting them.
//!
//! Demuxer, decoder and filters are driven as `ffmpeg` does with the options in [`Programs`](super::ffmpeg), on one thread.
//! What is lost is the wall between a decoder and this process: where one crashes, so does the process, and one that does not come
//! back from a call cannot be stopped.

mod graph;
mod listen;
mod open;
mod owned;
mod run;
mod stream;
mod watch;

use std::path::Path;

use ffmpeg_sys_next as av;

use super::frames::Frames;
use super::pipe::Patience;
use super::probe::{self, Probe};
use super::reader::Reader;
use crate::error::Result;
use open::Open;
use owned::{Owned, text};
use run::Run;
use stream::{known, seconds, tell};

/// The release of the libraries.
pub(super) fn version() -> String {
    // SAFETY: the function returns a constant string.
    format!("FFmpeg's libraries, version {}", unsafe { text(av::av_version_info()) })
}

/// A video file, read within this process.
pub(super) struct File<'a> {
    path: &'a Path,
    patience: Patience<'a>,
    open: Option<Open<'a>>,
}

impl<'a> File<'a> {
    pub(super) fn new(path: &'a Path, patience: Patience<'a>) -> Self {
        File { path, patience, open: None }
    }
}

impl Reader for File<'_> {
    fn probe(&mut self) -> Result<Probe> {
        probe::check_file(self.path)?;
        let open = Open::new(self.path, self.patience)?;
        let probe = open.answer().probe(self.path)?;
        self.open = Some(open);
        Ok(probe)
    }

    fn run(&mut self, part: Option<[u64; 2]>, size: (usize, usize), frames: &mut Frames) -> Result<Option<bool>> {
        let open = match self.open.take() {
            Some(open) => open,
            None => Open::new(self.path, self.patience)?,
        };
        let ended = Run::new(&open, part, size, frames).and_then(|run| match run {
            Some(run) => run.all(),
            None => Ok(Some(false)),
        });
        tell(&open.heard, frames);
        ended
    }

    fn last_packet(&mut self) -> Result<f64> {
        let open = Open::new(self.path, self.patience)?;
        let (packet, mut end) = (Owned::packet()?, f64::NEG_INFINITY);
        loop {
            open.watch.look()?;
            // SAFETY: both are valid; the packet is empty.
            match unsafe { av::av_read_frame(open.context.ptr(), packet.ptr()) } {
                0.. => {}
                code if code == av::AVERROR(libc::EAGAIN) => continue,
                _ => return Ok(end),
            }
            open.watch.alive();
            // SAFETY: a packet is of one of the file's streams.
            unsafe {
                let p = &*packet.ptr();
                let unit = (*open.streams()[p.stream_index as usize]).time_base;
                if let Some(begin) = known(p.pts).or(known(p.dts)) {
                    end = end.max(seconds(begin, unit) + seconds(p.duration, unit));
                }
                av::av_packet_unref(packet.ptr());
            }
        }
    }
}
