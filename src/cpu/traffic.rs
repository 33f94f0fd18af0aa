//! What operations on the CPU read, write and multiply: counted from the extents of their arrays, not measured.
//!
//! Each operation says at its entry which *pass* it is, and how many bytes it reads and writes: those of an array once for each
//! time that the pass goes over it, whatever caches hold. [`record`] adds them up by kind of pass, with the time of each, for
//! what one thread does. Without a recording an operation loads one number to find that there is none. Threads that compute
//! parts of an operation count nothing, so counts do not depend on their number.
//!
//! ```
//! use tubelet::{cpu::traffic, ops::relu, tensor::Tensor};
//! let x = Tensor::full([1000], 1.0);
//! let (y, report) = traffic::record(|| relu::forward(&x));
//! let relu = &report.rows[0];
//! assert_eq!((relu.kind, relu.calls, relu.read, relu.wrote), ("relu", 1, 4000, 4000));
//! # y.map(drop)?;
//! # Ok::<(), tubelet::error::Error>(())
//! ```

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Threads that record.
static RECORDINGS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static HERE: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// All passes of a kind.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// The operation, and how it is computed where there are several ways.
    pub kind: &'static str,
    /// Passes.
    pub calls: u64,
    /// Multiplications and additions of convolutions, matrix products and InfoNCE; those of other operations are not counted.
    pub flops: u64,
    /// Bytes read, those of temporary arrays included.
    pub read: u64,
    /// Bytes written, likewise.
    pub wrote: u64,
    /// Of the bytes written: temporary arrays.
    pub temporary: Temporaries,
    /// Bytes of copies that a task makes for itself and that stay in its core's cache. They are in none of the others.
    pub cached: u64,
    /// Tasks that the passes were divided into.
    pub tasks: u64,
    /// Bytes of tensors that were allocated meanwhile. Each is written at least once.
    pub allocated: u64,
    /// Time of the passes, without passes that they are composed of.
    pub time: Duration,
    /// Processor time of the whole process meanwhile; zero where the system does not tell.
    pub busy: Duration,
}

/// Bytes written to temporary arrays, by what these hold. Each is read again, once or more often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Temporaries {
    /// Filters in the order in which products read them.
    pub filters: u64,
    /// Activations and gradients in another layout or data type, or split into terms.
    pub layout: u64,
    /// Activations after the normalisation and the ReLU before a convolution.
    pub normalised: u64,
    /// Sums over parts of the positions, which are added up.
    pub sums: u64,
}

impl Temporaries {
    /// All of them.
    #[must_use]
    pub fn total(self) -> u64 {
        self.filters + self.layout + self.normalised + self.sums
    }
}

/// The result of [`record`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The kinds of passes, in the order in which they first occurred.
    pub rows: Vec<Row>,
    /// Bytes of tensors that were allocated by no pass: 0, unless an operation does not count.
    pub outside: u64,
    /// The time of everything.
    pub time: Duration,
}

/// What a temporary array holds: see [`Temporaries`].
#[derive(Clone, Copy)]
pub(crate) enum Temporary {
    Filters,
    Layout,
    Normalised,
    Sums,
}

/// What a pass does, in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    pub flops: u64,
    pub read: usize,
    pub wrote: usize,
    pub tasks: usize,
}

impl Work {
    /// A pass over memory.
    pub fn moves(read: usize, wrote: usize, tasks: usize) -> Self {
        Work { flops: 0, read, wrote, tasks }
    }

    /// The same for f32 arrays of so many numbers, in tasks of some ten thousand.
    pub fn wide(read: usize, wrote: usize) -> Self {
        Work::moves(4 * read, 4 * wrote, wrote.div_ceil(1 << 15).max(1))
    }
}

#[derive(Default)]
struct Recording {
    rows: Vec<Row>,
    outside: u64,
    open: Vec<Open>,
}

/// A pass that has begun.
struct Open {
    row: usize,
    begin: Instant,
    busy: Duration,
    /// Time and processor time of the passes within it.
    inner: [Duration; 2],
    /// Whether passes within it are part of it, and what it makes then.
    whole: Option<Temporary>,
}

/// Ends the pass when it is dropped.
#[must_use]
pub(crate) struct Pass {
    open: bool,
}

/// Runs `f` and counts the passes that the calling thread begins meanwhile. `f` computes on this thread: within a pool of threads,
/// call it there ([`super::in_pool`]). A recording within a recording is separate from it.
pub fn record<R>(f: impl FnOnce() -> R) -> (R, Report) {
    /// Restores the recording before, also when `f` panics.
    struct Restore(Option<Recording>);

    impl Drop for Restore {
        fn drop(&mut self) {
            HERE.set(self.0.take());
            RECORDINGS.fetch_sub(1, Relaxed);
        }
    }

    RECORDINGS.fetch_add(1, Relaxed);
    let restore = Restore(HERE.replace(Some(Recording::default())));
    let begin = Instant::now();
    let result = f();
    let time = begin.elapsed();
    let Recording { rows, outside, .. } = HERE.take().unwrap_or_default();
    drop(restore);
    (result, Report { rows, outside, time })
}

/// Calls `f` with the recording of this thread, if there is one.
#[inline]
fn here(f: impl FnOnce(&mut Recording)) {
    if RECORDINGS.load(Relaxed) > 0 {
        HERE.with_borrow_mut(|recording| {
            if let Some(recording) = recording {
                f(recording);
            }
        });
    }
}

/// Begins a pass, which lasts until the result is dropped.
pub(crate) fn pass(kind: &'static str, work: impl FnOnce() -> Work) -> Pass {
    let mut open = false;
    here(|recording| {
        let work = work();
        open = recording.open.last().is_none_or(|outer| outer.whole.is_none());
        if open {
            recording.begin(kind, None);
        }
        recording.add(work);
    });
    Pass { open }
}

/// Begins a pass that makes a temporary array and consists of other passes.
pub(crate) fn making(kind: &'static str, of: Temporary) -> Pass {
    let mut open = false;
    here(|recording| {
        recording.begin(kind, Some(of));
        open = true;
    });
    Pass { open }
}

/// Counts what the pass that has begun last does in addition.
pub(crate) fn more(work: impl FnOnce() -> Work) {
    here(|recording| recording.add(work()));
}

/// Counts bytes that it writes to a temporary array, and reads there.
pub(crate) fn temporary(of: Temporary, read: usize, wrote: usize) {
    here(|recording| {
        recording.add(Work::moves(read, wrote, 0));
        if recording.open.last().is_some_and(|outer| outer.whole.is_none()) {
            recording.add_temporary(of, wrote as u64);
        }
    });
}

/// Counts bytes of copies that stay in the cache of the core that makes them.
pub(crate) fn cached(bytes: usize) {
    here(|recording| {
        if let Some(row) = recording.row() {
            row.cached += bytes as u64;
        }
    });
}

/// Counts a tensor.
pub(crate) fn allocated(bytes: usize) {
    here(|recording| match recording.row() {
        Some(row) => row.allocated += bytes as u64,
        None => recording.outside += bytes as u64,
    });
}

impl Recording {
    fn begin(&mut self, kind: &'static str, whole: Option<Temporary>) {
        let row = self.rows.iter().position(|row| row.kind == kind).unwrap_or_else(|| {
            self.rows.push(Row { kind, ..Row::default() });
            self.rows.len() - 1
        });
        self.rows[row].calls += 1;
        self.open.push(Open { row, begin: Instant::now(), busy: busy(), inner: [Duration::ZERO; 2], whole });
    }

    /// The row of the pass that has begun last.
    fn row(&mut self) -> Option<&mut Row> {
        let row = self.open.last()?.row;
        self.rows.get_mut(row)
    }

    fn add(&mut self, work: Work) {
        let Some(row) = self.row() else { return };
        row.flops += work.flops;
        row.read += work.read as u64;
        row.wrote += work.wrote as u64;
        row.tasks += work.tasks as u64;
        if let Some(of) = self.open.last().and_then(|open| open.whole) {
            self.add_temporary(of, work.wrote as u64);
        }
    }

    fn add_temporary(&mut self, of: Temporary, bytes: u64) {
        let Some(row) = self.row() else { return };
        *match of {
            Temporary::Filters => &mut row.temporary.filters,
            Temporary::Layout => &mut row.temporary.layout,
            Temporary::Normalised => &mut row.temporary.normalised,
            Temporary::Sums => &mut row.temporary.sums,
        } += bytes;
    }

    fn end(&mut self) {
        let Some(pass) = self.open.pop() else { return };
        let all = [pass.begin.elapsed(), busy().saturating_sub(pass.busy)];
        let own = [0, 1].map(|i| all[i].saturating_sub(pass.inner[i]));
        self.rows[pass.row].time += own[0];
        self.rows[pass.row].busy += own[1];
        if let Some(outer) = self.open.last_mut() {
            outer.inner = [0, 1].map(|i| outer.inner[i] + all[i]);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.open {
            here(Recording::end);
        }
    }
}

/// Processor time of this process so far.
#[cfg(unix)]
fn busy() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one `timespec`, which is a local variable.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.max(0) as u32)
}

#[cfg(not(unix))]
fn busy() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_within_passes_have_rows_of_their_own() {
        let ((), report) = record(|| {
            let _outer = pass("outer", || Work { flops: 7, read: 10, wrote: 20, tasks: 2 });
            {
                let _inner = pass("inner", || Work::moves(1, 2, 1));
                allocated(2);
            }
            temporary(Temporary::Filters, 3, 4);
            more(|| Work::moves(100, 0, 5));
            allocated(20);
        });
        let [outer, inner] = &report.rows[..] else { panic!("{report:?}") };
        assert_eq!((outer.kind, outer.calls, outer.flops), ("outer", 1, 7));
        assert_eq!((outer.read, outer.wrote, outer.tasks, outer.allocated), (113, 24, 7, 20));
        assert_eq!((outer.temporary.filters, outer.temporary.total()), (4, 4));
        assert_eq!((inner.read, inner.wrote, inner.allocated), (1, 2, 2));
        assert!(outer.time + inner.time <= report.time);
        assert_eq!(report.outside, 0);
    }

    #[test]
    fn what_makes_a_temporary_array_includes_its_passes() {
        let ((), report) = record(|| {
            let _copy = making("normalised copy", Temporary::Normalised);
            let _pass = pass("batch norm", || Work::moves(8, 4, 1));
            temporary(Temporary::Layout, 1, 1);
        });
        let [row] = &report.rows[..] else { panic!("{report:?}") };
        assert_eq!((row.kind, row.read, row.wrote, row.temporary.normalised), ("normalised copy", 9, 5, 5));
        assert_eq!(row.temporary.total(), 5);
    }

    #[test]
    fn other_threads_and_other_times_count_nothing() {
        drop(pass("before", || panic!("there is no recording")));
        let ((), report) = record(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| drop(pass("elsewhere", || panic!("this thread does not record"))));
            });
            allocated(5);
            let ((), within) = record(|| drop(pass("inner", Work::default)));
            assert_eq!(within.rows[0].calls, 1);
        });
        assert_eq!((report.rows.len(), report.outside), (0, 5));
    }

    #[test]
    fn a_panic_ends_the_recording() {
        let caught = std::panic::catch_unwind(|| record(|| panic!("on purpose")));
        assert!(caught.is_err());
        assert!(HERE.with_borrow(Option::is_none));
    }
}
