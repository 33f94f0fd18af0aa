//! From decoded frames to RGB of the wanted size: the filters that the program `ffmpeg` runs for the same options, so that the
//! pixels are the same to the bit.

use std::ffi::{CString, c_int};
use std::ptr;

use ffmpeg_sys_next::{self as av, AVFilterContext, AVFilterGraph, AVFrame, AVRational, AVStream};

use super::owned::{Owned, string};
use crate::error::Result;

/// What the filters depend on; with another value they are set up anew.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Input {
    format: c_int,
    size: [c_int; 2],
    /// How pictures are to be turned.
    matrix: Option<[i32; 9]>,
}

impl Input {
    /// That of a decoded frame of `stream`.
    ///
    /// # Safety
    /// Both must be valid.
    pub(super) unsafe fn of(frame: *const AVFrame, stream: *const AVStream) -> Input {
        // SAFETY: side data of a frame lives as long as the frame, and that of a stream as long as its file is open.
        unsafe {
            let own = av::av_frame_get_side_data(frame, av::AVFrameSideDataType::AV_FRAME_DATA_DISPLAYMATRIX);
            let own = if own.is_null() { None } else { matrix((*own).data, (*own).size) };
            let matrix = own.or_else(|| matrix_of(stream));
            Input { format: (*frame).format, size: [(*frame).width, (*frame).height], matrix }
        }
    }
}

/// The display matrix of a stream.
///
/// # Safety
/// `stream` must be valid.
pub(super) unsafe fn matrix_of(stream: *const AVStream) -> Option<[i32; 9]> {
    let mut bytes = 0;
    // SAFETY: the data has the length that is told, and lives as long as the file is open.
    unsafe {
        let at = av::av_stream_get_side_data(stream, av::AVPacketSideDataType::AV_PKT_DATA_DISPLAYMATRIX, &mut bytes);
        matrix(at, bytes)
    }
}

/// # Safety
/// `at` must be null or point to so many bytes.
unsafe fn matrix(at: *const u8, bytes: usize) -> Option<[i32; 9]> {
    if at.is_null() || bytes < size_of::<[i32; 9]>() {
        return None;
    }
    // SAFETY: there are enough bytes; they need not be aligned.
    Some(unsafe { at.cast::<[i32; 9]>().read_unaligned() })
}

/// Degrees by which a matrix turns a picture, against the clock; 0 where it does not say.
pub(super) fn rotation(matrix: &[i32; 9]) -> f64 {
    // SAFETY: the function reads nine numbers.
    let degrees = unsafe { av::av_display_rotation_get(matrix.as_ptr()) };
    if degrees.is_nan() { 0.0 } else { degrees }
}

/// The filters that turn a picture upright.
fn upright(matrix: &[i32; 9]) -> Vec<String> {
    let clockwise = -rotation(matrix).round();
    let degrees = clockwise - 360.0 * (clockwise / 360.0 + 0.9 / 360.0).floor();
    let near = |to: f64| (degrees - to).abs() < 1.0;
    let list = |filters: &[(bool, &str)]| filters.iter().filter(|f| f.0).map(|f| f.1.to_owned()).collect();
    if near(90.0) {
        list(&[(true, if matrix[3] > 0 { "transpose=cclock_flip" } else { "transpose=clock" })])
    } else if near(180.0) {
        list(&[(matrix[0] < 0, "hflip"), (matrix[4] < 0, "vflip")])
    } else if near(270.0) {
        list(&[(true, if matrix[3] < 0 { "transpose=clock_flip" } else { "transpose=cclock" })])
    } else if degrees.abs() > 1.0 {
        vec![format!("rotate={degrees:.6}*PI/180")]
    } else {
        list(&[(degrees.abs() < 1.0 && matrix[4] < 0, "vflip")])
    }
}

/// Filters between two ends.
pub(super) struct Graph {
    _graph: Owned<AVFilterGraph>,
    pub(super) input: Input,
    source: *mut AVFilterContext,
    sink: *mut AVFilterContext,
}

impl Graph {
    /// Sets the filters up for frames like `frame`. `part` is the number of milliseconds from time 0 on that pass.
    ///
    /// # Errors
    /// `Ok(Err)` with a code of the libraries; `Err` when there is no memory.
    ///
    /// # Safety
    /// `frame` must be a decoded frame of what `input` was made of.
    pub(super) unsafe fn new(
        input: Input,
        frame: *const AVFrame,
        [time, rate]: [AVRational; 2],
        (h, w): (usize, usize),
        part: Option<u64>,
    ) -> Result<std::result::Result<Graph, c_int>> {
        let graph = Owned::graph()?;
        // SAFETY: the frame is valid.
        let pixel = unsafe { (*frame).sample_aspect_ratio };
        let mut ends = format!(
            "video_size={}x{}:pix_fmt={}:time_base={}/{}:pixel_aspect={}/{}",
            input.size[0],
            input.size[1],
            input.format,
            time.num,
            time.den,
            pixel.num,
            pixel.den.max(1)
        );
        if rate.num > 0 && rate.den > 0 {
            ends += &format!(":frame_rate={}/{}", rate.num, rate.den);
        }
        let mut filters = input.matrix.as_ref().map(upright).unwrap_or_default();
        filters.extend(part.map(|ms| format!("trim=start=0:duration={}.{:03}", ms / 1000, ms % 1000)));
        filters.push(format!("scale={w}:{h}:flags=bicubic+accurate_rnd+full_chroma_int"));
        filters.push("format=pix_fmts=rgb24".into());
        let chain = string(format!("buffer@in={ends},{},buffersink@out", filters.join(",")));
        // SAFETY: the graph is valid and has not been configured. What filters are inserted to convert formats get is the
        // program's default.
        let code = unsafe {
            (*graph.ptr()).nb_threads = 1;
            (*graph.ptr()).scale_sws_opts = av::av_strdup(c"flags=bicubic".as_ptr());
            let (mut open_in, mut open_out) = (ptr::null_mut(), ptr::null_mut());
            let parsed = av::avfilter_graph_parse2(graph.ptr(), chain.as_ptr(), &mut open_in, &mut open_out);
            av::avfilter_inout_free(&mut open_in);
            av::avfilter_inout_free(&mut open_out);
            if parsed < 0 { parsed } else { av::avfilter_graph_config(graph.ptr(), ptr::null_mut()) }
        };
        if code < 0 {
            return Ok(Err(code));
        }
        let find = |name: CString| {
            // SAFETY: the graph is valid, and the name a string.
            unsafe { av::avfilter_graph_get_filter(graph.ptr(), name.as_ptr()) }
        };
        let (source, sink) = (find(string("buffer@in")), find(string("buffersink@out")));
        if source.is_null() || sink.is_null() {
            return Ok(Err(av::AVERROR_BUG));
        }
        Ok(Ok(Graph { _graph: graph, input, source, sink }))
    }

    /// Gives the filters a frame, of which they take the pixels; none at the end. A code below 0 is an error.
    pub(super) fn give(&mut self, frame: Option<&Owned<AVFrame>>) -> c_int {
        let frame = frame.map_or(ptr::null_mut(), Owned::ptr);
        // SAFETY: the source is one of the graph's filters, and the frame valid or null.
        unsafe { av::av_buffersrc_add_frame_flags(self.source, frame, 0) }
    }

    /// Takes a frame of RGB and returns its time base, or a code below 0.
    pub(super) fn take(&mut self, to: &Owned<AVFrame>) -> std::result::Result<AVRational, c_int> {
        // SAFETY: the sink is one of the graph's filters, and the frame is empty.
        unsafe {
            let code = av::av_buffersink_get_frame(self.sink, to.ptr());
            if code < 0 { Err(code) } else { Ok(av::av_buffersink_get_time_base(self.sink)) }
        }
    }
}
