//! Printing.
//!
//! Standard output may be closed before a program ends: `… | head` closes it after ten lines. `println!` panics then.
//! The usual remedy, to let SIGPIPE end the program, would end a long training run when its output is no longer read,
//! without a checkpoint. So here, lines after the output was closed are dropped, and the program runs to its end. Any
//! other failure to write, such as a full disk, is reported by [`super::args::program`].

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The reason why a line was lost, for the first one.
static LOST: OnceLock<String> = OnceLock::new();

/// Whether nothing but the error that ends the program is printed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on nothing is printed but the error that ends the program: of several ranks the first speaks for all.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether nothing is to be printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Prints a line on standard output.
pub fn say(line: impl Display) {
    if !is_quiet()
        && let Err(e) = writeln!(stdout().lock(), "{line}")
        && e.kind() != ErrorKind::BrokenPipe
    {
        let _ = LOST.set(e.to_string()); // only the first reason is kept
    }
}

/// Prints a line on standard error. Failures are ignored, as there is no other place to report them.
pub fn say_aside(line: impl Display) {
    if !is_quiet() {
        complain(line);
    }
}

/// Prints the error that ends the program.
pub fn complain(line: impl Display) {
    let _ = writeln!(stderr().lock(), "{line}");
}

/// A text of unknown origin with its control characters escaped: a terminal may obey them.
pub fn printable(text: impl Display) -> String {
    let mut shown = String::new();
    for c in text.to_string().chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Prints a warning on standard error.
pub fn warn(text: impl Display) {
    say_aside(format_args!("warning: {text}"));
}

/// Why not all lines could be written, unless the output was closed by its reader.
pub fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// A number with its noun, singular or plural.
pub fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
