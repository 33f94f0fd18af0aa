//! An open file, and what its headers say.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ffmpeg_sys_next::{self as av, AVFormatContext, AVRational, AVStream};

use super::super::pipe::Patience;
use super::super::probe::{self, Answer, file_url};
use super::graph;
use super::listen::Listening;
use super::owned::{Options, Owned, entry, meaning, of_the_machine, string, text};
use super::stream::{MICRO, is_cover, known, seconds};
use super::watch::Watch;
use crate::error::Result;

/// A file whose headers were read. Fields are dropped in this order.
pub(super) struct Open<'a> {
    pub(super) context: Owned<AVFormatContext>,
    pub(super) watch: Box<Watch<'a>>,
    pub(super) heard: Listening,
}

impl<'a> Open<'a> {
    /// Opens the file and reads its headers.
    pub(super) fn new(path: &'a Path, patience: Patience<'a>) -> Result<Open<'a>> {
        let mut open =
            Open { context: Owned::format()?, watch: Box::new(Watch::new(path, patience)), heard: Listening::start() };
        let mut options = Options::new(&[(c"protocol_whitelist", c"file")])?;
        let url = string(file_url(path).as_bytes());
        // SAFETY: the context is new. The callback's argument is in a box, which outlives the context: it is dropped after it.
        let code = unsafe {
            (*open.context.ptr()).interrupt_callback = open.watch.callback();
            let code = av::avformat_open_input(open.context.place(), url.as_ptr(), std::ptr::null(), options.place());
            if code < 0 { code } else { av::avformat_find_stream_info(open.context.ptr(), std::ptr::null_mut()) }
        };
        open.watch.look()?;
        if code < 0 {
            of_the_machine(code)?;
            let said = [open.heard.take(), meaning(code).into_bytes()].concat();
            let said = String::from_utf8_lossy(&said);
            let errors: Vec<&str> = said.lines().filter(|line| !line.starts_with("[warning]")).collect();
            return Err(probe::no_video(path, &errors.join("\n")));
        }
        Ok(open)
    }

    /// The streams, which are valid as long as the file is open, as are their parameters.
    pub(super) fn streams(&self) -> Vec<*mut AVStream> {
        // SAFETY: an open file has so many streams.
        unsafe {
            let context = &*self.context.ptr();
            (0..context.nb_streams as usize).map(|i| *context.streams.add(i)).collect()
        }
    }

    /// What `ffprobe` would say of it.
    pub(super) fn answer(&self) -> Answer {
        // SAFETY: the file is open, so it has a format, whose name is a string.
        let (context, format) = unsafe {
            let context = &*self.context.ptr();
            (context, text((*context.iformat).name))
        };
        let time = |time: i64, unit: AVRational| known(time).map(|time| format!("{:.6}", seconds(time, unit)));
        let stream = |stream: *mut AVStream| {
            // SAFETY: the stream is valid, and has parameters.
            let (stream, parameters, matrix) = unsafe { (&*stream, &*(*stream).codecpar, graph::matrix_of(stream)) };
            let rate = |r: AVRational| Some(format!("{}/{}", r.num, r.den));
            probe::Stream {
                codec_type: match parameters.codec_type {
                    av::AVMediaType::AVMEDIA_TYPE_VIDEO => Some("video".into()),
                    av::AVMediaType::AVMEDIA_TYPE_AUDIO => Some("audio".into()),
                    _ => None,
                },
                width: Some(parameters.width.into()),
                height: Some(parameters.height.into()),
                avg_frame_rate: rate(stream.avg_frame_rate),
                r_frame_rate: rate(stream.r_frame_rate),
                nb_frames: Some(stream.nb_frames.to_string()),
                start_time: time(stream.start_time, stream.time_base),
                duration: time(stream.duration, stream.time_base),
                disposition: probe::Disposition { attached_pic: i64::from(is_cover(stream)) },
                tags: probe::Tags {
                    rotate: entry(stream.metadata, c"rotate"),
                    duration: entry(stream.metadata, c"DURATION"),
                },
                side_data_list: matrix
                    .iter()
                    .map(|matrix| probe::SideData { rotation: Some(graph::rotation(matrix).trunc()) })
                    .collect(),
            }
        };
        Answer {
            streams: self.streams().into_iter().map(stream).collect(),
            format: probe::Container {
                format_name: Some(format),
                start_time: time(context.start_time, MICRO),
                duration: time(context.duration, MICRO),
            },
        }
    }
}
