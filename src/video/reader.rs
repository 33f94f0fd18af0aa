//! What reads a video file: the two programs ([`super::external`]), or FFmpeg's libraries within this process (`super::libav`).

use super::frames::Frames;
use super::probe::Probe;
use crate::error::Result;

/// Reads one file. Methods are called in this order; the last two once, or not at all.
pub(super) trait Reader {
    /// Reads its headers.
    fn probe(&mut self) -> Result<Probe>;

    /// Decodes frames of the size `h w`, with their times and what the decoder says; with `part`, those from its first
    /// millisecond on and before its second. Whether it ended without an error; `None` when `frames` wants no more.
    fn run(&mut self, part: Option<[u64; 2]>, size: (usize, usize), frames: &mut Frames) -> Result<Option<bool>>;

    /// End of the last packet of any stream, in seconds of the file's clock. Nothing is decoded.
    fn last_packet(&mut self) -> Result<f64>;
}
