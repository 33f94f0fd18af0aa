//! Mistakes put into the shipped PTX, each of which the tests of the kernel must catch: as a fault of the simulator, or as a
//! result that is not the reference's. A mistake that no longer applies to the PTX is a failure too, and says so.

mod hopper;
mod portable;

use super::layers;
use std::borrow::Cow;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What happens to a line.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// It is gone.
    Drop,
    /// A part of it is another.
    Replace(&'static str, &'static str),
    /// Two of the registers it names change places.
    Swap(usize, usize),
    /// The address it accesses lies this much further on.
    Offset(i32),
    /// The 64-bit number it computes is one of 32 bits with a sign.
    Narrow,
}

/// A mistake: in an entry, the line of a number (from 0) among those that contain a text.
struct Mistake {
    what: &'static str,
    entry: &'static str,
    line: (&'static str, usize),
    edit: Edit,
    /// The tests that must fail.
    tests: &'static [fn()],
}

/// The mistake under way on this thread, and whether it found its place.
struct Seed {
    entry: &'static str,
    line: (&'static str, usize),
    edit: Edit,
    applied: bool,
    broken: Option<String>,
}

thread_local! {
    static SEED: RefCell<Option<Seed>> = const { RefCell::new(None) };
}

/// Whether a mistake is under way: a launch may then run for ever.
pub fn seeded() -> bool {
    SEED.with_borrow(Option::is_some)
}

/// The PTX as the simulator shall see it.
pub fn edited(ptx: &str) -> Cow<'_, str> {
    SEED.with_borrow_mut(|seed| {
        let Some(seed) = seed.as_mut().filter(|s| ptx.contains(&format!(".entry {}(", s.entry))) else {
            return Cow::Borrowed(ptx);
        };
        match apply(ptx, seed) {
            Some(text) => {
                seed.applied = true;
                let loaded = ptxsim::Machine::new(ptxsim::Config::default()).load(&text);
                seed.broken = loaded.err().map(|e| format!("it is no PTX any more: {e}"));
                Cow::Owned(text)
            }
            None => {
                let (text, n) = seed.line;
                seed.broken = Some(format!("line {n} with `{text}` does not exist or cannot be edited so"));
                Cow::Borrowed(ptx)
            }
        }
    })
}

fn apply(ptx: &str, seed: &Seed) -> Option<String> {
    let start = ptx.find(&format!(".entry {}(", seed.entry))?;
    let end = ptx[start..].find(".visible .entry").map_or(ptx.len(), |e| start + e);
    let mut at = start;
    let mut left = seed.line.1;
    for line in ptx[start..end].split_inclusive('\n') {
        if line.contains(seed.line.0) {
            if left == 0 {
                let new = edit(line, seed.edit)?;
                return (new != line).then(|| [&ptx[..at], &new, &ptx[at + line.len()..]].concat());
            }
            left -= 1;
        }
        at += line.len();
    }
    None
}

fn edit(line: &str, edit: Edit) -> Option<String> {
    Some(match edit {
        Edit::Drop => "\n".to_owned(),
        Edit::Replace(from, to) => line.contains(from).then(|| line.replacen(from, to, 1))?,
        Edit::Swap(i, j) => {
            let mut names = vec![];
            let mut from = 0;
            while let Some(p) = line[from..].find('%') {
                let a = from + p;
                let rest = line[a + 1..].find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(0);
                from = a + 1 + rest;
                names.push(a..from);
            }
            let (a, b) = (names.get(i)?.clone(), names.get(j)?.clone());
            [&line[..a.start], &line[b.clone()], &line[a.end..b.start], &line[a], &line[b.end..]].concat()
        }
        Edit::Narrow => {
            let from = line.find("%rd")?;
            let name = &line[from..from + line[from..].find(',')?];
            let cut = format!("cvt.u32.u64 %narrow, {name}; cvt.s64.s32 {name}, %narrow;");
            format!("{} {{ .reg .b32 %narrow; {cut} }}\n", line.trim_end())
        }
        Edit::Offset(by) => {
            let close = line.find(']')?;
            let open = line[..close].rfind('[')?;
            let (base, old) = line[open + 1..close].split_once('+').unwrap_or((&line[open + 1..close], "0"));
            let sum = old.parse::<i32>().ok()? + by;
            format!("{}[{base}+{sum}]{}", &line[..open], &line[close + 1..])
        }
    })
}

/// Runs the tests of a mistake; what they say, or why the mistake was not caught.
fn caught(m: &Mistake) -> Result<String, String> {
    let seed = Seed { entry: m.entry, line: m.line, edit: m.edit, applied: false, broken: None };
    SEED.set(Some(seed));
    let said = m.tests.iter().find_map(|test| catch_unwind(AssertUnwindSafe(test)).err());
    let seed = SEED.take().expect("it was put there");
    if let Some(why) = seed.broken {
        return Err(why);
    }
    if !seed.applied {
        return Err("no test loads the entry".into());
    }
    let said = said.ok_or("no test notices")?;
    let text = said.downcast_ref::<String>().cloned().or(said.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    Ok(text.unwrap_or_default())
}

const fn mistake(
    what: &'static str,
    entry: &'static str,
    line: (&'static str, usize),
    edit: Edit,
    tests: &'static [fn()],
) -> Mistake {
    Mistake { what, entry, line, edit, tests }
}

/// Mistakes are made in the simulator alone.
fn on_hardware() -> bool {
    let named = std::env::var_os("TUBELET_TEST_DEVICE").is_some();
    if named {
        crate::support::skip::absent("the simulator, where TUBELET_TEST_DEVICE names a GPU", "mistakes in kernels");
    }
    named
}

/// Makes each of these mistakes.
fn all_are_caught(mistakes: &[Mistake]) {
    if on_hardware() {
        return;
    }
    let mut missed = vec![];
    let mut faults = 0;
    for m in mistakes {
        match caught(m) {
            Ok(said) => {
                let said = said.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
                faults += usize::from(said.contains("PTX line"));
                println!("{}: {}: {:.160}", m.entry, m.what, said);
            }
            Err(why) => missed.push(format!("{}: {}: {why}", m.entry, m.what)),
        }
    }
    assert!(
        missed.is_empty(),
        "{} of {} mistakes are not caught:\n{}",
        missed.len(),
        mistakes.len(),
        missed.join("\n")
    );
    println!("{} mistakes caught, {faults} of them as faults of the simulator", mistakes.len());
}

#[test]
fn every_mistake_in_kernels_of_all_devices_is_caught() {
    all_are_caught(portable::MISTAKES);
}

#[test]
fn every_mistake_in_kernels_of_hopper_is_caught() {
    all_are_caught(hopper::MISTAKES);
}

#[test]
fn a_mistake_that_does_not_apply_is_no_success() {
    if on_hardware() {
        return;
    }
    let why = |line, edit| {
        caught(&mistake("", "relu_forward_f32", line, edit, &[layers::the_rectifier_on_a_device])).unwrap_err()
    };
    assert!(why(("bar.sync", 0), Edit::Drop).contains("does not exist"));
    assert!(why(("ret;", 0), Edit::Replace("ret", "frobnicate")).contains("no PTX"));
    assert!(why(("mov.u32", 0), Edit::Replace("mov.u32", "mov.b32")).contains("no test notices"));
}
