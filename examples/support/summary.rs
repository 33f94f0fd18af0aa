//! `summary.json`: one flat object, written after all other files, and printed as the last line.

use super::output::say;
use super::pretrain::Run;
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use tubelet::tensor::Device;
use tubelet::train::metrics::means;
use tubelet::train::pretrain::Outcome;

/// The figures of a run, by name.
#[derive(Default)]
pub struct Summary(Map<String, Value>);

impl Summary {
    /// Sets `name`. A value is a number, a string, a boolean or null (for NaN); it must not be nested.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        debug_assert!(!value.is_object() && !value.is_array(), "the summary is flat");
        self.0.insert(name.to_owned(), value);
        self
    }

    /// The line of `dir/summary.json` and what it says, if it is there and has the same value of `same`.
    fn earlier(&self, dir: &Path, same: &str) -> Option<(String, Map<String, Value>)> {
        let line = fs::read_to_string(dir.join("summary.json")).ok()?.trim_end().to_owned();
        let earlier: Map<String, Value> = serde_json::from_str(&line).ok()?;
        (earlier.get(same) == self.0.get(same)).then_some((line, earlier))
    }

    /// Where the run in `dir` goes on to another number of `epochs`, its summary gets the name `summary-N-epochs.json`: it
    /// would not fit the newest checkpoint.
    pub fn set_aside(dir: &Path, epochs: u64) -> Result<()> {
        let path = dir.join("summary.json");
        let Ok(line) = fs::read_to_string(&path) else { return Ok(()) };
        let before = serde_json::from_str::<Value>(&line).ok().and_then(|all| all["epochs"].as_u64());
        let Some(before) = before.filter(|before| *before != epochs) else { return Ok(()) };
        let aside = dir.join(format!("summary-{before}-epochs.json"));
        fs::rename(&path, &aside).with_context(|| format!("cannot write {}", aside.display()))
    }

    /// Sets `names` to what an earlier session measured, by `dir/summary.json` if that has the same value of `same`;
    /// what it lacks is left as it is.
    pub fn keep(&mut self, dir: &Path, same: &str, names: &[&str]) {
        let earlier = self.earlier(dir, same).map(|(_, earlier)| earlier).unwrap_or_default();
        self.0.extend(earlier.into_iter().filter(|(name, _)| names.contains(&name.as_str())));
    }

    /// The number called `name`, as text of three digits.
    pub fn shown(&self, name: &str) -> String {
        self.0.get(name).and_then(Value::as_f64).map_or("?".to_owned(), |value| format!("{value:.3}"))
    }

    /// Writes `dir/summary.json` (to a temporary file, synced, renamed) and prints it as one line.
    pub fn finish(self, dir: &Path) -> Result<()> {
        let line = Value::Object(self.0).to_string();
        let (path, temporary) = (dir.join("summary.json"), dir.join("summary.json.tmp"));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            writeln!(file, "{line}")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        say(line);
        Ok(())
    }
}

impl Run<'_> {
    /// The name in the summary of the value of `of` before training, when the network was random or initialised by
    /// `--init`.
    pub fn before(&self, of: &str) -> String {
        format!("{of}_{}", if self.options.init.is_some() { "init" } else { "random_init" })
    }

    /// The mean of the number called `name` over the first and over the last of the epochs in which it was computed; `None` if
    /// there is none.
    pub fn first_and_last(&self, name: &str) -> Result<[Option<f64>; 2]> {
        let means = means(&self.out.join("metrics.jsonl"), name)?;
        Ok([means.first_key_value(), means.last_key_value()].map(|entry| entry.map(|(_, mean)| *mean)))
    }

    /// Entries of the summary common to all methods. `clips` is the number of clips per video and step.
    pub fn summary(&self, method: &str, clips: u64, queue: usize, done: &Outcome) -> Summary {
        let mut summary = Summary::default();
        let (options, batch) = (self.options, self.training.batch);
        let measured = |value: f64| (done.trained > 0).then_some(value);
        summary
            .set("method", method)
            .set("data", options.videos.origin())
            .set("layout", self.splits.layout.as_str())
            .set("device", options.common.device_name(&self.device))
            .set("precision", options.precision.name())
            .set("seed", options.seed)
            .set("init", options.init.as_ref().map_or("random".to_owned(), |p| p.display().to_string()))
            .set("threads", rayon::current_num_threads())
            .set("videos_train", self.videos())
            .set("videos_test", self.test.videos.len())
            .set("videos_skipped", self.skipped)
            .set("videos_skipped_test", self.splits.test.len() - self.test.videos.len())
            .set("videos_left_out", self.left_out)
            .set("videos_short", self.short[0])
            .set("videos_short_motion", self.short[1])
            .set("classes", self.splits.train.classes.len())
            .set("epochs", self.training.epochs)
            .set("steps", done.steps)
            .set("batch", batch)
            .set("accumulate", self.training.accumulate)
            .set("ranks", self.ranks.world.size)
            .set("bytes_sent_per_step", measured(done.sent_per_step as f64).map(|bytes| bytes as u64))
            .set("queue", queue)
            .set("clips_per_second", (done.steps * clips * batch as u64) as f64 / done.train_seconds)
            .set("seconds", done.train_seconds)
            .set("step_ms", measured(1e3 * done.step_seconds))
            .set("loading_seconds", measured(done.loading_seconds))
            .set("cache_seconds", self.cache_seconds)
            .set("loader_videos_per_second", measured(done.samples_per_second))
            .set("recompute", options.running.recompute)
            .set("memory_peak_bytes", measured(self.device.usage().peak as f64).map(|bytes| bytes as u64))
            .set("loss_first", done.loss_first)
            .set("loss_last", done.loss_last)
            .set("probe_top1", done.after.map(|s| s.probe))
            .set(&self.before("probe_top1"), done.before.map(|s| s.probe))
            .set("knn_top1", done.after.map(|s| s.knn))
            .set(&self.before("knn_top1"), done.before.map(|s| s.knn));
        if let Device::Cuda(gpu) = &self.device {
            summary.set("gpu", gpu.name()).set("gpu_memory_peak_bytes", self.device.usage().peak);
        }
        summary
    }

    /// Writes and prints the summary. A session without a step has measured nothing: an earlier session's complete
    /// summary is kept, and printed again.
    pub fn finish(&self, summary: Summary, done: &Outcome) -> Result<()> {
        match summary.earlier(&self.out, "steps").filter(|_| done.trained == 0) {
            Some((line, _)) => say(line),
            None => summary.finish(&self.out)?,
        }
        Ok(())
    }
}
