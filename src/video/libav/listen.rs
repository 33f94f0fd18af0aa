//! Messages of FFmpeg's libraries. They go to one function of the process, which sorts them by the thread that called: with one
//! thread per decoder, that is the thread whose video they are about.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::sync::Once;

use ffmpeg_sys_next::{self as av, __va_list_tag};

/// A longer message is cut.
const LINE: usize = 1024;
/// Messages beyond this many bytes are dropped: the first tell the reason.
const KEPT: usize = 1 << 16;

thread_local! {
    /// What was said on this thread and not taken yet, while it listens.
    static HEARD: RefCell<Option<Heard>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Heard {
    text: Vec<u8>,
    /// Whether the last message goes on in the next.
    goes_on: bool,
}

/// While this lives, warnings and errors of calls on this thread are kept, as lines `[error] [name @ address] text`.
pub(super) struct Listening(PhantomData<*const ()>);

impl Listening {
    pub(super) fn start() -> Listening {
        static ONCE: Once = Once::new();
        // SAFETY: the function may be called by any thread at any time.
        ONCE.call_once(|| unsafe { av::av_log_set_callback(Some(hear)) });
        HEARD.set(Some(Heard::default()));
        Listening(PhantomData)
    }

    /// What was said since the last call.
    pub(super) fn take(&self) -> Vec<u8> {
        let taken = |heard: &mut Option<Heard>| heard.as_mut().map(|heard| std::mem::take(&mut heard.text));
        HEARD.with_borrow_mut(taken).unwrap_or_default()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        HEARD.set(None);
    }
}

/// # Safety
/// As the libraries call it: `of` is null or an object with a class, and `format` fits the `arguments`.
unsafe extern "C" fn hear(of: *mut c_void, level: c_int, format: *const c_char, arguments: *mut __va_list_tag) {
    // Not while the thread ends, and not within another message.
    let listens = HEARD.try_with(|heard| heard.try_borrow().is_ok_and(|heard| heard.is_some())).unwrap_or(false);
    if !listens {
        // SAFETY: what it was called with.
        return unsafe { av::av_log_default_callback(of, level, format, arguments) };
    }
    let level = level & 0xff;
    if level > av::AV_LOG_WARNING {
        return;
    }
    let _ = HEARD.try_with(|heard| {
        let Ok(mut heard) = heard.try_borrow_mut() else { return };
        let Some(heard) = heard.as_mut() else { return };
        let mut line: [c_char; LINE] = [0; LINE];
        let mut begins = c_int::from(!heard.goes_on);
        // SAFETY: what it was called with, and a buffer of the given length.
        let line = unsafe {
            av::av_log_format_line2(of, level, format, arguments, line.as_mut_ptr(), LINE as c_int, &mut begins);
            CStr::from_ptr(line.as_ptr()).to_bytes()
        };
        if heard.text.len() < KEPT {
            if !heard.goes_on {
                let name = if level <= av::AV_LOG_ERROR { "[error] " } else { "[warning] " };
                heard.text.extend_from_slice(name.as_bytes());
            }
            heard.text.extend_from_slice(line);
        }
        heard.goes_on = begins == 0;
    });
}
