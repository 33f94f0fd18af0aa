//! What the examples print.
//!
//! Standard output may be closed before a program ends: `… | head` closes it after ten lines. `println!` panics then. The usual
//! remedy, to let SIGPIPE end the program, would end a training run of days with whoever reads its progress, and without a
//! checkpoint. So here a line that nobody reads is dropped and the work goes on: a program that only prints comes to its end a
//! moment later without a word, and a training run comes to its own. Any other failure to write, such as a full disk, is told by
//! [`super::args::end`].

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::sync::OnceLock;

/// Why a line was lost, the first time.
static LOST: OnceLock<String> = OnceLock::new();

/// Prints a line on standard output.
pub fn say(line: impl Display) {
    if let Err(e) = writeln!(stdout().lock(), "{line}")
        && e.kind() != ErrorKind::BrokenPipe
    {
        let _ = LOST.set(e.to_string()); // the first reason is enough
    }
}

/// Prints a line on standard error. Where that cannot be, there is nowhere left to say so.
pub fn say_aside(line: impl Display) {
    let _ = writeln!(stderr().lock(), "{line}");
}

/// Prints a warning on standard error.
pub fn warn(text: impl Display) {
    say_aside(format_args!("warning: {text}"));
}

/// Why not all lines could be written, though somebody reads them.
pub fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}
