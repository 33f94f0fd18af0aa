//! Objects of FFmpeg's libraries that are freed when they are dropped, and what their functions return.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;

use ffmpeg_sys_next::{self as av, AVCodecContext, AVDictionary, AVFilterGraph, AVFormatContext, AVFrame, AVPacket};

use crate::error::{Error, Result};

/// An object that a function of the libraries frees.
pub(super) struct Owned<T> {
    at: *mut T,
    free: unsafe extern "C" fn(*mut *mut T),
}

impl<T> Owned<T> {
    /// Takes over `at`, null where there was no memory for it. `free` must be the function that frees it.
    fn new(at: *mut T, free: unsafe extern "C" fn(*mut *mut T)) -> Result<Owned<T>> {
        if at.is_null() { Err(no_memory()) } else { Ok(Owned { at, free }) }
    }

    pub(super) fn ptr(&self) -> *mut T {
        self.at
    }

    /// Where the pointer is, for a function that may free the object and then sets it to null.
    pub(super) fn place(&mut self) -> *mut *mut T {
        &mut self.at
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `free` is the function for this kind of object, which is this value's alone. It accepts null.
        unsafe { (self.free)(&mut self.at) }
    }
}

impl Owned<AVFormatContext> {
    pub(super) fn format() -> Result<Self> {
        // SAFETY: plain allocation.
        Owned::new(unsafe { av::avformat_alloc_context() }, av::avformat_close_input)
    }
}

impl Owned<AVCodecContext> {
    pub(super) fn codec(codec: *const av::AVCodec) -> Result<Self> {
        // SAFETY: plain allocation; a null codec is allowed.
        Owned::new(unsafe { av::avcodec_alloc_context3(codec) }, av::avcodec_free_context)
    }
}

impl Owned<AVPacket> {
    pub(super) fn packet() -> Result<Self> {
        // SAFETY: plain allocation.
        Owned::new(unsafe { av::av_packet_alloc() }, av::av_packet_free)
    }
}

impl Owned<AVFrame> {
    pub(super) fn frame() -> Result<Self> {
        // SAFETY: plain allocation.
        Owned::new(unsafe { av::av_frame_alloc() }, av::av_frame_free)
    }
}

impl Owned<AVFilterGraph> {
    pub(super) fn graph() -> Result<Self> {
        // SAFETY: plain allocation.
        Owned::new(unsafe { av::avfilter_graph_alloc() }, av::avfilter_graph_free)
    }
}

/// Options of a function of the libraries.
pub(super) struct Options(*mut AVDictionary);

impl Options {
    pub(super) fn new(options: &[(&CStr, &CStr)]) -> Result<Options> {
        let mut new = Options(ptr::null_mut());
        for (name, value) in options {
            // SAFETY: both are strings, which are copied.
            let code = unsafe { av::av_dict_set(&mut new.0, name.as_ptr(), value.as_ptr(), 0) };
            if code < 0 {
                return Err(no_memory());
            }
        }
        Ok(new)
    }

    /// Where the pointer is, for a function that takes those options that it knows.
    pub(super) fn place(&mut self) -> *mut *mut AVDictionary {
        &mut self.0
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the dictionary is this value's alone; null is allowed.
        unsafe { av::av_dict_free(&mut self.0) }
    }
}

/// The value of `key` in a dictionary of the libraries, which must live during the call.
pub(super) fn entry(of: *const AVDictionary, key: &CStr) -> Option<String> {
    // SAFETY: the dictionary may be null, and the key is a string.
    let entry = unsafe { av::av_dict_get(of, key.as_ptr(), ptr::null(), 0) };
    // SAFETY: an entry has a value, and both live as long as the dictionary.
    (!entry.is_null()).then(|| unsafe { text((*entry).value) })
}

/// The text of a string of the libraries, which must live during the call.
///
/// # Safety
/// `at` must be null or a string that ends with a zero.
pub(super) unsafe fn text(at: *const c_char) -> String {
    // SAFETY: by the contract of this function.
    if at.is_null() { String::new() } else { unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned() }
}

/// What the libraries say of an error code.
pub(super) fn meaning(code: c_int) -> String {
    let mut line: [c_char; 256] = [0; 256];
    // SAFETY: the function writes a string of at most the given length, with its zero.
    unsafe {
        av::av_strerror(code, line.as_mut_ptr(), line.len());
        text(line.as_ptr())
    }
}

/// Whether a function failed for want of memory or of open files, which says nothing of the video.
pub(super) fn of_the_machine(code: c_int) -> Result<()> {
    if [libc::ENOMEM, libc::EMFILE, libc::ENFILE].contains(&-code) {
        let source = std::io::Error::from_raw_os_error(-code);
        return Err(Error::not_run("libav", format!("cannot go on: {source}"), source));
    }
    Ok(())
}

fn no_memory() -> Error {
    let source = std::io::Error::from_raw_os_error(libc::ENOMEM);
    Error::not_run("libav", format!("cannot go on: {source}"), source)
}

/// A string for the libraries. Texts are our own, or paths, which have no zero bytes.
pub(super) fn string(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes = text.into();
    bytes.retain(|&b| b != 0);
    CString::new(bytes).unwrap_or_default()
}
