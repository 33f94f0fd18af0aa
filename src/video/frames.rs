//! Collects the frames of a video file from `ffmpeg` into a clip of constant rate.

use std::ops::ControlFlow;
use std::path::Path;

use super::clock::{Stamps, Timing, place};
use super::messages::Messages;
use super::pipe::Piece;
use super::{Clip, Decode};
use crate::error::{Error, Result};

/// Why reading was aborted.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// It would exceed [`Decode::max_bytes`].
    Large,
    /// More bytes arrived than this, which were requested.
    Flood(usize),
}

/// Limit on frames without time stamps. There are few: a frame's time is written before its pixels.
const PENDING: usize = 64;

/// Frames being collected. With a requested rate, frames that are shown at no position are dropped at once.
pub(super) struct Frames<'a> {
    path: &'a Path,
    how: &'a Decode,
    size: (usize, usize),
    /// Bytes per frame.
    frame: usize,
    /// Maximum number of frames, and whether to stop there instead of refusing the clip.
    most: usize,
    cut: bool,
    messages: Messages,
    stamps: Stamps,
    /// Bytes of frames whose times are not known yet, including an incomplete last frame.
    pending: Vec<u8>,
    /// Number of frames that have times.
    timed: usize,
    /// The frames; with a requested rate, the clip as far as it is known.
    rgb: Vec<u8>,
    /// With a requested rate, the last frame.
    last: Vec<u8>,
    /// The first position at which the next frame is shown.
    #[cfg(feature = "libav")]
    end: usize,
    bytes: usize,
    trouble: Option<Trouble>,
}

impl<'a> Frames<'a> {
    /// Frames of the size `h w`, at most as many as `how` allows.
    pub(super) fn new(path: &'a Path, how: &'a Decode, size: (usize, usize)) -> Self {
        let frame = size.0 * size.1 * 3;
        let fits = how.max_bytes / frame;
        let most = how.max_frames.unwrap_or(usize::MAX).min(fits);
        Self {
            path,
            how,
            size,
            frame,
            most,
            cut: how.max_frames == Some(most),
            messages: Messages::default(),
            stamps: Stamps::default(),
            pending: Vec::new(),
            timed: 0,
            rgb: Vec::new(),
            last: Vec::new(),
            #[cfg(feature = "libav")]
            end: 0,
            bytes: 0,
            trouble: None,
        }
    }

    /// Forgets everything, to be filled again.
    pub(super) fn restart(&mut self) {
        *self = Frames::new(self.path, self.how, self.size);
    }

    /// How many frames to request: one more than fits, to distinguish a clip that is too large from one that just fits.
    /// `None` for all frames, where not all of them will be kept.
    pub(super) fn wanted(&self) -> Option<usize> {
        self.how.fps.is_none().then(|| if self.cut { self.most } else { self.most.saturating_add(1) })
    }

    /// Adds output of `ffmpeg`.
    pub(super) fn take(&mut self, piece: Piece) -> ControlFlow<()> {
        match piece {
            Piece::Message(bytes) => {
                let stamps = &mut self.stamps;
                self.messages.take(bytes, |stamp| {
                    stamps.push(stamp);
                });
            }
            Piece::Out(bytes) => {
                self.bytes = self.bytes.saturating_add(bytes.len());
                self.pending.extend_from_slice(bytes);
            }
        }
        self.received()
    }

    /// Adds a frame, of these lines, which is shown at `time` seconds of the stream's clock, if that is known.
    #[cfg(feature = "libav")]
    pub(super) fn add<'p>(&mut self, time: Option<f64>, lines: impl Iterator<Item = &'p [u8]>) -> ControlFlow<()> {
        self.stamps.push(time);
        lines.for_each(|line| self.pending.extend_from_slice(line));
        self.bytes = self.bytes.saturating_add(self.frame);
        self.received()
    }

    /// With a requested rate: notes the time of the next frame. Whether the frame before it is shown at all; then its lines
    /// are to be given to [`Frames::picture`], before [`Frames::advance`].
    #[cfg(feature = "libav")]
    pub(super) fn next(&mut self, time: Option<f64>) -> bool {
        let time = self.stamps.push(time);
        self.timed += 1;
        self.end = self.how.fps.map_or(0, |fps| place(time, fps));
        self.timed > 1 && self.end > self.rgb.len() / self.frame
    }

    /// The lines of the frame before the next.
    #[cfg(feature = "libav")]
    pub(super) fn picture<'p>(&mut self, lines: impl Iterator<Item = &'p [u8]>) {
        self.last.clear();
        lines.for_each(|line| self.last.extend_from_slice(line));
    }

    /// Shows the frame before the next until that begins.
    #[cfg(feature = "libav")]
    pub(super) fn advance(&mut self) -> ControlFlow<()> {
        self.show_last(self.end);
        if self.trouble.is_some() || self.full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Whether a rate is requested, so that frames may be shown never or more than once.
    #[cfg(feature = "libav")]
    pub(super) fn has_rate(&self) -> bool {
        self.how.fps.is_some()
    }

    /// Looks at what has arrived.
    fn received(&mut self) -> ControlFlow<()> {
        let limit = match self.how.fps {
            None if self.cut => self.most.saturating_mul(self.frame),
            None => self.most.saturating_add(1).saturating_mul(self.frame),
            Some(_) => usize::MAX,
        };
        if self.bytes > limit {
            self.trouble = Some(Trouble::Flood(limit));
            return ControlFlow::Break(());
        }
        self.sort_in()
    }

    /// Assigns times to pending frames.
    fn sort_in(&mut self) -> ControlFlow<()> {
        let ready = (self.pending.len() / self.frame).min(self.stamps.times().len() - self.timed);
        let pending = std::mem::take(&mut self.pending);
        for pixels in pending.chunks_exact(self.frame).take(ready) {
            let time = self.stamps.times()[self.timed];
            self.timed += 1;
            match self.how.fps {
                None => self.rgb.extend_from_slice(pixels),
                Some(fps) => {
                    self.show_last(place(time, fps));
                    self.last.clear();
                    self.last.extend_from_slice(pixels);
                }
            }
            if self.how.fps.is_none() && self.rgb.len() / self.frame > self.most {
                self.trouble = Some(Trouble::Large);
            }
            if self.trouble.is_some() || (self.how.fps.is_some() && self.full()) {
                return ControlFlow::Break(());
            }
        }
        self.pending = pending;
        self.pending.drain(..ready * self.frame);
        let untimed = self.pending.len() / self.frame;
        if self.how.fps.is_some() && untimed > PENDING && self.pending.len() > 1 << 20 {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// With a requested rate: shows the last frame at all positions before `end`.
    fn show_last(&mut self, end: usize) {
        let there = self.rgb.len() / self.frame;
        let end = if self.cut { end.min(self.most) } else { end };
        if end > self.most {
            self.trouble = Some(Trouble::Large);
        } else if !self.last.is_empty() {
            (there..end).for_each(|_| self.rgb.extend_from_slice(&self.last));
        }
    }

    /// Whether there are as many frames as requested.
    pub(super) fn full(&self) -> bool {
        self.cut && self.rgb.len() / self.frame >= self.most
    }

    /// Complete frames received.
    pub(super) fn whole(&self) -> usize {
        self.timed + self.pending.len() / self.frame
    }

    /// Whether an incomplete frame was received.
    pub(super) fn torn(&self) -> bool {
        !self.pending.len().is_multiple_of(self.frame)
    }

    /// Whether frames were received without their times.
    pub(super) fn untimed(&self) -> bool {
        self.pending.len() >= self.frame
    }

    pub(super) fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// Whether the clip would exceed [`Decode::max_bytes`].
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Large))
    }

    /// The number of bytes that were requested, where more arrived.
    pub(super) fn flood(&self) -> Option<usize> {
        match self.trouble {
            Some(Trouble::Flood(limit)) => Some(limit),
            _ => None,
        }
    }

    pub(super) fn complained(&self) -> bool {
        self.messages.complained()
    }

    pub(super) fn reason(&self) -> String {
        self.messages.text()
    }

    /// The clip. `rate` is the rate in the file's header.
    pub(super) fn into_clip(mut self, timing: Timing, rate: Option<f64>) -> Result<Clip> {
        let Timing { fps, places } = timing;
        if self.how.fps.is_some() {
            // A single frame without a rate is shown once.
            self.show_last(place(self.stamps.end(rate), fps).max(usize::from(self.timed == 1)));
        }
        let (frame, most) = (self.frame, self.most);
        let total = places.as_ref().and_then(|p| p.last()).map_or(0, |&end| if self.cut { end.min(most) } else { end });
        let (h, w) = self.size;
        if self.trouble.is_some() {
            return Err(self.how.too_large(self.path, h, w));
        }
        if total > most {
            let what = format!(
                "its time stamps span {:.0} s, {total} frames of {w} x {h} pixels at {fps:.3} a second, which exceed {} \
                 bytes; a smaller side, fewer frames or fewer a second would do",
                self.stamps.end(rate),
                self.how.max_bytes
            );
            return Err(Error::data(self.path, what));
        }
        let rgb = match places {
            None => self.rgb,
            Some(places) => {
                let mut rgb = Vec::with_capacity(total * frame);
                for (pixels, place) in self.rgb.chunks_exact(frame).zip(places.windows(2)) {
                    let copies = place[1].min(total).saturating_sub(place[0]);
                    (0..copies).for_each(|_| rgb.extend_from_slice(pixels));
                }
                rgb
            }
        };
        Clip::new(rgb.len() / frame, h, w, rgb, fps)
    }
}
