//! Progress: a bar with rate and remaining time on a terminal, otherwise a plain line every few seconds.

use super::output::{is_quiet, say, warn};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stdout};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Interval between plain lines.
const EVERY: Duration = Duration::from_secs(5);

/// Progress of one task. It may be shared between threads.
pub struct Progress(Form);

enum Form {
    Bar(ProgressBar),
    Lines { label: String, unit: String, total: u64, state: Mutex<State> },
}

struct State {
    /// Units done, including those of an earlier run.
    done: u64,
    /// Units done before this run started.
    before: u64,
    began: Instant,
    last: Instant,
    note: String,
}

impl Progress {
    /// A task called `label` of `total` units, counted in `unit` (`clips`, `steps`, `videos`), of which `before` were
    /// done by an earlier run. Shown on standard output.
    pub fn new(label: &str, unit: &str, total: u64, before: u64) -> Progress {
        if stdout().is_terminal() && !is_quiet() {
            let style = ProgressStyle::with_template(
                "{prefix:>10} {wide_bar:.cyan/dim} {pos}/{len} {per_sec}, {eta} left  {msg}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            let unit = unit.to_owned();
            let style = style.with_key("per_sec", move |s: &indicatif::ProgressState, w: &mut dyn std::fmt::Write| {
                let _ = write!(w, "{:.1} {unit}/s", s.per_sec());
            });
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stdout());
            bar.set_style(style);
            bar.set_prefix(label.to_owned());
            bar.set_position(before);
            bar.reset_eta();
            return Progress(Form::Bar(bar));
        }
        let now = Instant::now();
        let state = State { done: before, before, began: now, last: now, note: String::new() };
        Progress(Form::Lines { label: label.to_owned(), unit: unit.to_owned(), total, state: Mutex::new(state) })
    }

    /// `n` more units are done.
    pub fn inc(&self, n: u64) {
        match &self.0 {
            Form::Bar(bar) => bar.inc(n),
            Form::Lines { label, unit, total, state } => {
                let mut state = state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                state.done += n;
                // The last line is that of `finish`.
                if state.done < *total && state.last.elapsed() >= EVERY {
                    state.last = Instant::now();
                    say(state.line(label, unit, *total));
                }
            }
        }
    }

    /// A short text shown beside the numbers, such as the loss.
    pub fn note(&self, text: String) {
        match &self.0 {
            Form::Bar(bar) => bar.set_message(text),
            Form::Lines { state, .. } => state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).note = text,
        }
    }

    /// Prints a permanent line above the bar.
    pub fn say(&self, text: &str) {
        match &self.0 {
            Form::Bar(bar) => bar.suspend(|| say(text)),
            Form::Lines { .. } => say(text),
        }
    }

    /// Prints a warning above the bar, on standard error.
    pub fn warn(&self, text: &str) {
        match &self.0 {
            Form::Bar(bar) => bar.suspend(|| warn(text)),
            Form::Lines { .. } => warn(text),
        }
    }

    /// Ends the task (finished or aborted): the bar disappears, one line stays.
    pub fn finish(self) {
        match &self.0 {
            Form::Bar(bar) => {
                let (done, seconds) = (bar.position(), bar.elapsed());
                bar.finish_and_clear();
                say(format_args!("{}: {done} in {}", bar.prefix(), HumanDuration(seconds)));
            }
            Form::Lines { label, unit, total, state } => {
                say(state.lock().unwrap_or_else(|p| p.into_inner()).line(label, unit, *total));
            }
        }
    }
}

impl State {
    fn line(&self, label: &str, unit: &str, total: u64) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = (self.done - self.before) as f64 / seconds.max(1e-9);
        let mut line = format!("{label}: {}/{total} {unit}, {rate:.1} {unit}/s", self.done);
        if self.done < total && rate > 0.0 {
            let left = Duration::from_secs_f64(((total - self.done) as f64 / rate).min(1e9));
            line += &format!(", {} left", HumanDuration(left));
        } else if self.done >= total {
            line += &format!(", took {seconds:.1} s");
        }
        if !self.note.is_empty() {
            line += &format!(", {}", self.note);
        }
        line
    }
}
