//! Streams and their times, and how what is said of them is passed on.

use ffmpeg_sys_next::{self as av, AVRational, AVStream};

use super::super::frames::Frames;
use super::super::pipe::Piece;
use super::listen::Listening;

/// Microseconds, in which a file's times are.
pub(super) const MICRO: AVRational = AVRational { num: 1, den: av::AV_TIME_BASE };

/// Whether a stream is a picture beside sound.
pub(super) fn is_cover(stream: &AVStream) -> bool {
    stream.disposition & av::AV_DISPOSITION_ATTACHED_PIC != 0
}

pub(super) fn known(time: i64) -> Option<i64> {
    (time != av::AV_NOPTS_VALUE).then_some(time)
}

pub(super) fn seconds(time: i64, unit: AVRational) -> f64 {
    time as f64 * f64::from(unit.num) / f64::from(unit.den.max(1))
}

pub(super) fn rescale(time: i64, from: AVRational, to: AVRational) -> i64 {
    // SAFETY: plain arithmetic.
    unsafe { av::av_rescale_q(time, from, to) }
}

/// Passes on what the libraries said.
pub(super) fn tell(heard: &Listening, frames: &mut Frames) {
    let said = heard.take();
    if !said.is_empty() {
        // Messages alone never end it.
        let _ = frames.take(Piece::Message(&said));
    }
}

/// Says what the program would say itself.
pub(super) fn complain(frames: &mut Frames, what: &str) {
    let _ = frames.take(Piece::Message(format!("[error] {what}\n").as_bytes()));
}
