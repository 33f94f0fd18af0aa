//! A timeline of some steps: which thread of which rank computed, loaded or exchanged what, and when. Files have the format of
//! Chrome's trace events, which <https://ui.perfetto.dev> displays: a process is a rank.
//!
//! On a GPU, what is seen is when the host launches the parts of a step, not when they are computed.

use super::folder::write_atomic;
use crate::dist::{Collective, Spans};
use crate::error::Result;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

/// Events that a rank keeps: as many as fit into a note to rank 0.
const MOST: usize = 5000;

/// Events of this rank.
pub struct Trace {
    rank: usize,
    /// The same moment on all ranks, but for the time that a note takes.
    zero: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    recording: bool,
    /// Parts that have begun, by thread.
    open: HashMap<ThreadId, Vec<Instant>>,
    /// Numbers of threads, by name and, where the name says too little, identity.
    lanes: Vec<(String, Option<ThreadId>)>,
    events: Vec<Value>,
}

impl Trace {
    /// No events yet, on this one of `ranks`; all of them call it.
    ///
    /// # Errors
    /// `Peer` when a rank has ended.
    pub fn new(ranks: &dyn Collective) -> Result<Trace> {
        ranks.share(&[])?;
        Ok(Trace { rank: ranks.rank(), zero: Instant::now(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether parts that end from now on are recorded.
    pub fn record(&self, yes: bool) {
        self.state().recording = yes;
    }

    /// Writes the events of all ranks to `file`, which rank 0 does; all of them call it.
    ///
    /// # Errors
    /// `Peer` when a rank has ended; `Io` of the file.
    pub fn write(&self, ranks: &dyn Collective, file: &Path) -> Result<()> {
        let all = ranks.share(self.text().as_bytes())?;
        if self.rank != 0 {
            return Ok(());
        }
        let all: Vec<_> = all.iter().map(|of_rank| String::from_utf8_lossy(of_rank)).collect();
        let text = format!("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n", all.join(",\n"));
        write_atomic(file, text.as_bytes())
    }

    /// The events of this rank, separated by commas.
    fn text(&self) -> String {
        let (state, rank) = (self.state(), self.rank);
        let name = |what: &str, tid: usize, name: &str| json!({"name": what, "ph": "M", "pid": rank, "tid": tid, "args": {"name": name}});
        let threads = state.lanes.iter().enumerate().map(|(tid, (thread, _))| name("thread_name", tid, thread));
        let all = std::iter::once(name("process_name", 0, &format!("rank {rank}"))).chain(threads);
        all.chain(state.events.iter().cloned()).map(|event| event.to_string()).collect::<Vec<_>>().join(",\n")
    }
}

impl Spans for Trace {
    fn begin(&self, _: &str) {
        self.state().open.entry(std::thread::current().id()).or_default().push(Instant::now());
    }

    fn end(&self, name: &str) {
        let (now, thread) = (Instant::now(), std::thread::current());
        let mut state = self.state();
        let Some(began) = state.open.get_mut(&thread.id()).and_then(Vec::pop) else { return };
        if !state.recording || state.events.len() == MOST {
            return;
        }
        // A step is computed by whichever thread of the pool is free.
        let lane = match (thread.name(), rayon::current_thread_index()) {
            (Some(name), _) => (name.to_owned(), Some(thread.id())),
            (None, Some(_)) => ("compute".to_owned(), None),
            (None, None) => ("load".to_owned(), Some(thread.id())),
        };
        let tid = state.lanes.iter().position(|other| *other == lane).unwrap_or_else(|| {
            state.lanes.push(lane);
            state.lanes.len() - 1
        });
        let micros = |time: Instant| time.saturating_duration_since(self.zero).as_nanos() as f64 / 1e3;
        let (ts, dur) = (micros(began), micros(now) - micros(began));
        state.events.push(json!({"name": name, "ph": "X", "ts": ts, "dur": dur, "pid": self.rank, "tid": tid}));
    }
}
