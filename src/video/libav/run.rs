//! Decoding the first video stream of a file.

use std::ffi::c_int;
use std::ops::ControlFlow;

use ffmpeg_sys_next::{self as av, AVCodecContext, AVFrame, AVPacket, AVRational, AVStream};

use super::super::frames::Frames;
use super::graph::{Graph, Input};
use super::open::Open;
use super::owned::{Owned, meaning, of_the_machine, text};
use super::stream::{MICRO, complain, is_cover, known, rescale, seconds, tell};
use crate::error::Result;

/// Of formats whose clock may jump, a packet that is so many microseconds before the last one or after the expected time starts
/// the clock anew.
const JUMPS: [i64; 2] = [100_000, 10_000_000];

/// How it ended: as [`Reader::run`](super::Reader::run) says.
pub(super) type End = Option<bool>;

/// Decoding of the first video stream of a file.
pub(super) struct Run<'r, 'a, 'f> {
    open: &'r Open<'a>,
    frames: &'r mut Frames<'f>,
    stream: usize,
    decoder: Owned<AVCodecContext>,
    part: Option<[u64; 2]>,
    size: (usize, usize),
    graph: Option<Graph>,
    decoded: Owned<AVFrame>,
    shown: Owned<AVFrame>,
    /// Whether only frames that are shown pass the filters. A frame is known to be shown when the next one is decoded, until then
    /// it is held.
    lazy: bool,
    held: Option<Owned<AVFrame>>,
    /// Frames given to `frames`, and how many it wants.
    given: usize,
    wanted: usize,
    /// Calls of the decoder that gave a frame, and that failed.
    calls: [u64; 2],
    /// Microseconds added to the file's clock, and the expected and the last time of a packet by the sum.
    offset: i64,
    expected: Option<i64>,
    last: i64,
    /// Microseconds from the last packet to the next, and whether there is none.
    period: Option<i64>,
    at_end: bool,
}

impl<'r, 'a, 'f> Run<'r, 'a, 'f> {
    /// Sets up the decoder. `None` when there is none for this file.
    pub(super) fn new(
        open: &'r Open<'a>,
        part: Option<[u64; 2]>,
        size: (usize, usize),
        frames: &'r mut Frames<'f>,
    ) -> Result<Option<Self>> {
        tell(&open.heard, frames);
        let streams = open.streams();
        let is_video = |&s: &*mut AVStream| {
            // SAFETY: the stream is valid, and has parameters.
            unsafe { (*(*s).codecpar).codec_type == av::AVMediaType::AVMEDIA_TYPE_VIDEO && !is_cover(&*s) }
        };
        let Some(stream) = streams.iter().position(is_video) else { return Ok(None) };
        // SAFETY: the stream is valid, and has parameters. A codec is a constant of the library.
        let (decoder, code) = unsafe {
            let parameters = (*streams[stream]).codecpar;
            let codec = av::avcodec_find_decoder((*parameters).codec_id);
            let decoder = Owned::codec(codec)?;
            let mut code = av::AVERROR_DECODER_NOT_FOUND;
            if codec.is_null() {
                let name = text(av::avcodec_get_name((*parameters).codec_id));
                complain(frames, &format!("Decoder (codec {name}) not found for input stream #0:{stream}"));
            } else {
                code = av::avcodec_parameters_to_context(decoder.ptr(), parameters);
                (*decoder.ptr()).pkt_timebase = (*streams[stream]).time_base;
                (*decoder.ptr()).thread_count = 1;
                if code >= 0 {
                    code = av::avcodec_open2(decoder.ptr(), codec, std::ptr::null_mut());
                }
            }
            (decoder, code)
        };
        of_the_machine(code)?;
        if code < 0 {
            tell(&open.heard, frames);
            complain(frames, &meaning(code));
            return Ok(None);
        }
        let wanted = frames.wanted().unwrap_or(usize::MAX);
        let [decoded, shown] = [Owned::frame()?, Owned::frame()?];
        // The filter that cuts out a part has to see all frames.
        let lazy = frames.has_rate() && part.is_none();
        let (graph, held) = (None, None);
        let (given, calls, offset, expected, last) = (0, [0; 2], 0, None, i64::MIN);
        let mut run = Run {
            open,
            frames,
            stream,
            decoder,
            part,
            size,
            graph,
            decoded,
            shown,
            lazy,
            held,
            given,
            wanted,
            calls,
            offset,
            expected,
            last,
            period: None,
            at_end: false,
        };
        run.start();
        Ok(Some(run))
    }

    fn stream(&self) -> *mut AVStream {
        self.open.streams()[self.stream]
    }

    /// Goes to the beginning of the part, and sets the clock.
    fn start(&mut self) {
        // SAFETY: the file is open.
        let (begin, by_decoding) = unsafe {
            let context = &*self.open.context.ptr();
            let late = self.open.streams().iter().any(|&s| (*(*s).codecpar).video_delay != 0);
            let to_shown = (*context.iformat).flags & av::AVFMT_SEEK_TO_PTS != 0;
            (known(context.start_time).unwrap_or(0), late && !to_shown)
        };
        let from = self.part.map_or(0, |[from, _]| i64::try_from(from).unwrap_or(i64::MAX / 2000) * 1000);
        let begin = begin.saturating_add(from);
        self.offset = begin.saturating_neg();
        if self.part.is_some() {
            // A format that finds frames by when they are decoded may find one that is shown before.
            let at = if by_decoding { begin - 3 * 1_000_000 / 23 } else { begin };
            // SAFETY: the file is open. Where it cannot seek, it is read from its beginning.
            let code = unsafe { av::avformat_seek_file(self.open.context.ptr(), -1, i64::MIN, at, at, 0) };
            if code < 0 {
                tell(&self.open.heard, self.frames);
            }
        }
        // Only now, as seeking may look at all streams: packets of the others are not needed.
        for stream in self.open.streams().into_iter().filter(|&s| s != self.stream()) {
            // SAFETY: the stream is valid.
            unsafe { (*stream).discard = av::AVDiscard::AVDISCARD_ALL };
        }
    }

    /// Decodes everything.
    pub(super) fn all(mut self) -> Result<End> {
        let packet = Owned::packet()?;
        loop {
            self.open.watch.look()?;
            // SAFETY: both are valid; the packet is empty.
            let code = unsafe { av::av_read_frame(self.open.context.ptr(), packet.ptr()) };
            if code == av::AVERROR(libc::EAGAIN) {
                continue;
            }
            self.open.watch.look()?;
            if code < 0 {
                of_the_machine(code)?;
                self.hear();
                if code != av::AVERROR_EOF {
                    complain(self.frames, &meaning(code));
                }
                break;
            }
            // SAFETY: the packet was filled.
            let p = unsafe { &mut *packet.ptr() };
            let mut flow = ControlFlow::Continue(());
            // Empty packets of our stream are no end of it: a frame that repeats the one before has no data.
            if p.stream_index as usize == self.stream && p.size > 0 {
                self.set_clock(p);
                flow = self.decode(Some(p))?;
            }
            // SAFETY: the packet is valid.
            unsafe { av::av_packet_unref(packet.ptr()) };
            if let ControlFlow::Break(end) = flow {
                return Ok(end.map(|whole| whole && self.mostly_decoded()));
            }
        }
        self.at_end = true;
        if let ControlFlow::Break(end) = self.decode(None)? {
            return Ok(end.map(|whole| whole && self.mostly_decoded()));
        }
        if let Some(last) = self.held.take()
            && let ControlFlow::Break(end) = self.filter(&last)?
        {
            return Ok(end);
        }
        // SAFETY: the stream is valid, and has parameters.
        if self.graph.is_none() && unsafe { (*(*self.stream()).codecpar).format } < 0 {
            complain(self.frames, &format!("Cannot determine format of input stream 0:{} after EOF", self.stream));
        }
        if let Some(graph) = &mut self.graph {
            graph.give(None);
            if let ControlFlow::Break(end) = self.show_filtered()? {
                return Ok(end.map(|whole| whole && self.mostly_decoded()));
            }
        }
        Ok(Some(self.mostly_decoded()))
    }

    /// Whether at most two of three calls failed: the program's limit.
    fn mostly_decoded(&self) -> bool {
        let [good, bad] = self.calls;
        3 * bad <= 2 * (good + bad)
    }

    fn hear(&mut self) {
        tell(&self.open.heard, self.frames);
    }

    /// Moves a packet's times to the clock that starts with the file, and which does not jump where its format may.
    fn set_clock(&mut self, p: &mut AVPacket) {
        // SAFETY: file and stream are valid.
        let (unit, rate, flags) = unsafe {
            let stream = &*self.stream();
            (stream.time_base, stream.avg_frame_rate, (*(*self.open.context.ptr()).iformat).flags)
        };
        let may_jump = flags & av::AVFMT_TS_DISCONT != 0;
        if let Some(dts) = known(p.dts) {
            let mut time = rescale(dts, unit, MICRO).saturating_add(self.offset);
            if let (true, Some(expected)) = (may_jump, self.expected) {
                let jump = time.saturating_sub(expected);
                if jump.saturating_abs() > JUMPS[1] || time.saturating_add(JUMPS[0]) < self.last {
                    self.offset = self.offset.saturating_sub(jump);
                    time = expected;
                }
            }
            self.last = time;
            let usual = || rescale(1, AVRational { num: rate.den, den: rate.num }, MICRO);
            self.period = match p.duration {
                1.. => Some(rescale(p.duration, unit, MICRO)),
                _ => (rate.num > 0 && rate.den > 0).then(usual),
            };
            self.expected = self.period.map(|period| time.saturating_add(period));
        }
        let offset = rescale(self.offset, MICRO, unit);
        for time in [&mut p.pts, &mut p.dts] {
            *time = known(*time).map_or(av::AV_NOPTS_VALUE, |time| time.saturating_add(offset));
        }
    }

    /// Decodes a packet; none at the end of the file.
    fn decode(&mut self, packet: Option<&AVPacket>) -> Result<ControlFlow<End>> {
        let packet = packet.map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the decoder is open, and the packet valid or null.
        let mut code = unsafe { av::avcodec_send_packet(self.decoder.ptr(), packet) };
        while code >= 0 {
            // SAFETY: the decoder is open, and the frame valid.
            code = unsafe { av::avcodec_receive_frame(self.decoder.ptr(), self.decoded.ptr()) };
            self.hear();
            if code >= 0 {
                self.calls[0] += 1;
                self.open.watch.alive();
                if let ControlFlow::Break(end) = self.decoded()? {
                    return Ok(ControlFlow::Break(end));
                }
            }
        }
        self.hear();
        if ![av::AVERROR(libc::EAGAIN), av::AVERROR_EOF].contains(&code) {
            of_the_machine(code)?;
            self.calls[1] += 1;
            complain(self.frames, &format!("Error while decoding stream #0:{}: {}", self.stream, meaning(code)));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Passes the decoded frame on.
    fn decoded(&mut self) -> Result<ControlFlow<End>> {
        // SAFETY: frame and stream are valid.
        let (time, unit) = unsafe {
            let frame = &mut *self.decoded.ptr();
            frame.pts = frame.best_effort_timestamp;
            let unit = (*self.stream()).time_base;
            // What the decoder holds back until the end may have no time: it follows the last packet.
            if let (None, true, Some(expected)) = (known(frame.pts), self.at_end, self.expected) {
                frame.pts = rescale(expected, MICRO, unit);
                self.expected = self.period.map(|period| expected.saturating_add(period));
            }
            (known(frame.pts), unit)
        };
        let decoded = std::mem::replace(&mut self.decoded, Owned::frame()?);
        if !self.lazy {
            return self.filter(&decoded);
        }
        let is_shown = self.frames.next(time.map(|time| seconds(time, unit)));
        if let (Some(held), true) = (self.held.replace(decoded), is_shown)
            && let ControlFlow::Break(end) = self.filter(&held)?
        {
            return Ok(ControlFlow::Break(end));
        }
        Ok(match self.frames.advance() {
            ControlFlow::Break(()) => ControlFlow::Break(None),
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
        })
    }

    /// Passes a frame through the filters.
    fn filter(&mut self, frame: &Owned<AVFrame>) -> Result<ControlFlow<End>> {
        let stream = self.stream();
        // SAFETY: frame, stream and file are valid.
        let (input, rate, time) = unsafe {
            let rate = av::av_guess_frame_rate(self.open.context.ptr(), stream, std::ptr::null_mut());
            (Input::of(frame.ptr(), stream), rate, (*stream).time_base)
        };
        if self.graph.as_ref().is_none_or(|graph| graph.input != input) {
            let part = self.part.map(|[from, to]| to.saturating_sub(from));
            // SAFETY: the frame is that of the input.
            match unsafe { Graph::new(input, frame.ptr(), [time, rate], self.size, part) }? {
                Ok(graph) => self.graph = Some(graph),
                Err(code) => return self.failed(code),
            }
        }
        let code = self.graph.as_mut().map_or(0, |graph| graph.give(Some(frame)));
        if code < 0 && code != av::AVERROR_EOF {
            return self.failed(code);
        }
        self.show_filtered()
    }

    /// An error of the filters ends it.
    fn failed(&mut self, code: c_int) -> Result<ControlFlow<End>> {
        of_the_machine(code)?;
        self.hear();
        complain(self.frames, &meaning(code));
        Ok(ControlFlow::Break(Some(false)))
    }

    /// Takes what has passed the filters.
    fn show_filtered(&mut self) -> Result<ControlFlow<End>> {
        let Some(graph) = &mut self.graph else { return Ok(ControlFlow::Continue(())) };
        loop {
            let unit = match graph.take(&self.shown) {
                Ok(unit) => unit,
                Err(code) if code == av::AVERROR(libc::EAGAIN) => return Ok(ControlFlow::Continue(())),
                Err(code) if code == av::AVERROR_EOF => return Ok(ControlFlow::Break(Some(true))),
                Err(code) => return self.failed(code),
            };
            let (h, w) = self.size;
            // SAFETY: the filters end in frames of RGB of this size: `h` lines of `3 w` bytes, `linesize` apart.
            let flow = unsafe {
                let frame = &*self.shown.ptr();
                debug_assert_eq!([frame.height, frame.width], [h as c_int, w as c_int]);
                let (data, pitch) = (frame.data[0], frame.linesize[0] as isize);
                let row = |y: usize| std::slice::from_raw_parts(data.offset(y as isize * pitch), 3 * w);
                let time = known(frame.pts).map(|time| seconds(time, unit));
                let flow = if self.lazy {
                    self.frames.picture((0..h).map(row));
                    ControlFlow::Continue(())
                } else {
                    self.frames.add(time, (0..h).map(row))
                };
                av::av_frame_unref(self.shown.ptr());
                flow
            };
            if flow.is_break() {
                return Ok(ControlFlow::Break(None));
            }
            self.given += 1;
            if self.given == self.wanted {
                return Ok(ControlFlow::Break(Some(true)));
            }
        }
    }
}
