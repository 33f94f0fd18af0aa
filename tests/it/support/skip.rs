//! Tests that pass without having run whole, because a program, data or hardware is absent: each says so in its output, and one
//! line at the end of the process counts them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Mutex, Once, PoisonError};

/// The tests that went without, by what was absent.
static ABSENT: Mutex<BTreeMap<String, BTreeSet<String>>> = Mutex::new(BTreeMap::new());

/// How a line about something absent begins.
pub const MARK: &str = "not tested: ";

/// Says that `untested` is not tested since `what` is absent, and counts the test.
#[track_caller]
pub fn absent(what: &str, untested: &str) {
    static AT_EXIT: Once = Once::new();
    // SAFETY: the function is one of C's interface, never unwinds, and touches only what lives as long as the process.
    AT_EXIT.call_once(|| assert_eq!(unsafe { libc::atexit(count) }, 0));
    println!("{MARK}{untested}, for {what} is absent");
    // The harness names a thread for its test, unless all run on the main thread.
    let thread = std::thread::current();
    let caller = std::panic::Location::caller();
    let place = || format!("{}:{}", caller.file(), caller.line());
    let test = thread.name().filter(|name| *name != "main").map_or_else(place, str::to_owned);
    ABSENT.lock().unwrap_or_else(PoisonError::into_inner).entry(what.to_owned()).or_default().insert(test);
}

/// The line at the end. The harness has no hook for it, and holds the standard output of tests alone.
extern "C" fn count() {
    let absent = ABSENT.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = writeln!(std::io::stderr(), "{}", summary(&absent));
}

fn summary(absent: &BTreeMap<String, BTreeSet<String>>) -> String {
    let tests: BTreeSet<&String> = absent.values().flatten().collect();
    let causes: Vec<String> = absent.iter().map(|(what, tests)| format!("{what} ({})", tests.len())).collect();
    format!("{} tests did not run whole, for these are absent: {}", tests.len(), causes.join(", "))
}

#[test]
fn tests_are_counted_once_each() {
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    let absent = BTreeMap::from([("data".to_owned(), set(&["a", "b"])), ("ffmpeg".to_owned(), set(&["b"]))]);
    assert_eq!(summary(&absent), "2 tests did not run whole, for these are absent: data (2), ffmpeg (1)");
}
