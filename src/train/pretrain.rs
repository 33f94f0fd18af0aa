//! The training loop of all methods: order of the videos, steps, checkpoints, metrics, interruption and resumption.

use super::checkpoint::{Resumed, State};
use super::folder::Folder;
use super::limits;
pub use super::method::{At, Method};
use super::metrics::Metrics;
use super::order::Order;
pub use super::resume::{check_run, fewer_than_done, found, steps_done};
use super::resume::{resume, same_run};
pub use super::settings::{Earlier, Settings};
use super::share::{Clips, Samples};
use super::trace::Trace;
use crate::dist::{Span, Spans, together};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::{Params, Trunk};
pub use crate::ssl::report::{Report, Seen};
use crate::video::prefetch::Prefetch;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Loads a sample of one video, of which only the given clips are wanted. Called from several threads; the same `(epoch, video)`
/// always gives the same sample.
pub type Load<S> = dyn Fn(u64, usize, Clips) -> Result<S> + Send + Sync;

/// The steps of a timeline, counted from the start or the resumption: not the first, which is not like the others.
const TRACED: std::ops::Range<u64> = 2..5;

/// Accuracy of simple classifiers on the frozen features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Linear probe, top-1 on the test videos.
    pub probe: f64,
    /// 1-NN, top-1 on the test videos.
    pub knn: f64,
}

/// Receives the events of a run, to display them: of several ranks only the first does.
pub trait Observer {
    /// Called before the first step, if the newest checkpoints could not be used: what is wrong with them, one sentence
    /// each, and the step from which the run resumes.
    fn damaged(&mut self, what: &[String], step: u64) {
        let _ = (what, step);
    }
    /// Called before the first step, if something was lost that the training does not depend on, in a sentence.
    fn lost(&mut self, what: &str) {
        let _ = what;
    }
    /// Called after every step, with the videos trained per second so far.
    fn step(&mut self, at: At, steps: u64, report: &Report, videos_per_second: f64);
    /// Called after a probe; `epochs` have been trained.
    fn scores(&mut self, epochs: u64, scores: Scores);
    /// Called after an epoch, when its checkpoint and its metrics are on disk.
    fn epoch(&mut self, epochs: u64);
}

/// Results and statistics of a completed run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Optimiser steps.
    pub steps: u64,
    /// Those taken since the run was started or last resumed; if there are none, the times below are not known.
    pub trained: u64,
    /// Mean loss over the first epoch.
    pub loss_first: f64,
    /// Mean loss over the last epoch.
    pub loss_last: f64,
    /// Scores of the untrained network; `None` in a run without evaluation.
    pub before: Option<Scores>,
    /// Scores of the trained network; `None` in a run without evaluation.
    pub after: Option<Scores>,
    /// Seconds of training (steps and loading, without probes), over all sessions of an interrupted run.
    pub train_seconds: f64,
    /// Seconds from the end of a step to the end of the next, including loading: the median over the last 65536 steps
    /// since the run was started or last resumed.
    pub step_seconds: f64,
    /// Seconds that the loop waited for samples: the cost of loading that does not overlap with the steps. On a GPU it waits for
    /// those of the next step while a step is computed, so this is an upper bound.
    pub loading_seconds: f64,
    /// Samples per second that all loader threads together prepare while they are busy.
    pub samples_per_second: f64,
    /// Bytes that this rank sent to the others in the last step.
    pub sent_per_step: u64,
}

/// Steps per epoch with `videos` videos.
///
/// # Errors
/// `Param` when a batch is larger than the data, or empty.
pub fn steps_per_epoch(videos: usize, batch: usize) -> Result<u64> {
    if batch == 0 || batch > videos {
        let rule = match videos {
            0 => "there is no video to train on".to_owned(),
            1 => "there is 1 video to train on, and a step needs at least 2".to_owned(),
            _ => format!("there are {videos} videos to train on: choose a --batch from 2 to {videos}"),
        };
        return Err(Error::param("settings", limits::BATCH.option, batch, rule));
    }
    Ok((videos / batch) as u64)
}

/// Ranks tell each other what their steps report when this has passed, or after as many steps as that: in each step a note to every
/// rank would take long on many of them.
const TOLD: Duration = Duration::from_secs(1);
const TOLD_STEPS: u64 = 64;

/// Number of steps whose times are kept for the median.
const TIMED: usize = 1 << 16;

/// Evaluates a network.
pub type Evaluate<'a> = dyn FnMut(&Trunk, &Params) -> Result<Scores> + 'a;

/// Trains `method` on `videos` videos in `folder` until `settings.epochs` are done, resuming from the folder's
/// checkpoint if there is one. Where the number of epochs was changed on the way, [`Settings::earlier`] says so. Without `evaluate`, for videos without labels, there are no scores. The same settings give the same bits, however often the run is interrupted.
///
/// Of several ranks ([`Method::division`]) all call it with the same arguments. The first alone evaluates and writes; the others
/// read the checkpoint in the same folder ([`Folder::of_first_rank`]), and know neither scores nor losses in the end.
///
/// # Errors
/// `Stopped` when `stop` was set (after saving, with the number of steps that are saved); `NotFinite` when the loss is
/// not finite (the last checkpoint is kept); `Param` when the batch does not fit the data; `Io`, `Format` for the
/// files; `Data` for the checkpoint of another run; errors of loading and of the method.
#[allow(clippy::too_many_arguments, reason = "each is an independent component")]
pub fn pretrain<M: Method>(
    method: &mut M,
    load: Arc<Load<M::Sample>>,
    videos: usize,
    mut evaluate: Option<&mut Evaluate<'_>>,
    folder: &Folder,
    settings: &Settings,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let per_epoch = steps_per_epoch(videos, settings.batch)?;
    let division = method.division();
    let (ranks, batch) = (division.ranks(), settings.batch);
    let (rank, size) = (ranks.rank(), ranks.size());
    let is_first = rank == 0;
    if !batch.is_multiple_of(size) {
        return Err(Error::param("settings", limits::BATCH.option, batch, format!("{size} ranks share it equally")));
    }
    let (order, share) = (Order::new(settings.seed, videos, per_epoch, batch), method.share());
    let samples =
        Samples { order, share, seed: settings.seed, batch, per_epoch, rank, size, steps: std::sync::Mutex::default() };
    let per_step = samples.per_step();
    let too_long = || {
        let rule = format!("a run has fewer than 2^63 samples, and an epoch has {per_epoch} steps of {batch}");
        Error::param("settings", limits::EPOCHS.option, settings.epochs, rule)
    };
    let steps = per_epoch.checked_mul(settings.epochs).ok_or_else(too_long)?;
    let all = steps.checked_mul(per_step.max(batch) as u64).and_then(|n| i64::try_from(n).ok()).ok_or_else(too_long)?;
    let mut scores_of = |method: &M| {
        let (trunk, params) = method.kept();
        let evaluate = evaluate.as_mut().filter(|_| is_first);
        evaluate.map(|evaluate| evaluate(trunk, params)).transpose()
    };
    let (mut last_scores, mut paused) = (None, 0.0);
    let (checkpoints, resumed) = resume(method, folder.path(), per_epoch, ranks)?;
    let (mut step, before, mut earlier) = match resumed {
        Some(Resumed { checkpoint, state, damaged }) => {
            same_run(&state, &checkpoint, Some(method.name()), settings)?;
            method.restore(&state)?;
            if !damaged.is_empty() {
                observer.damaged(&damaged, checkpoint.step);
            }
            let scores = |when: &str| {
                let real = |of: &str| state.reals.get(&format!("{of}_{when}")).copied();
                Some(Scores { probe: real("probe")?, knn: real("knn")? })
            };
            if checkpoint.step > steps {
                return Err(fewer_than_done(settings.epochs, steps, checkpoint.step));
            }
            if checkpoint.step == steps {
                // A run that was to go on when it was saved has none.
                last_scores = scores("after").map_or_else(|| scores_of(method), |scores| Ok(Some(scores)))?;
            }
            (checkpoint.step, scores("before"), read_seconds(folder))
        }
        None => (0, together(ranks, || scores_of(method), |_| ())?, 0.0),
    };
    if let Some(before) = before.filter(|_| step == 0) {
        observer.scores(0, before);
    }
    let metrics = || Metrics::resume(&folder.path().join("metrics.jsonl"), step);
    let mut metrics = is_first.then(metrics).transpose()?;
    if let Some(what) = metrics.as_ref().and_then(Metrics::lacking) {
        observer.lost(what);
    }
    let done = step.saturating_mul(per_step as u64);
    let trace = settings.trace.as_ref().map(|_| Trace::new(ranks).map(Arc::new)).transpose()?;
    let spans = trace.clone().map(|trace| trace as Arc<dyn Spans>);
    spans.iter().for_each(|spans| method.trace(spans.clone()));
    let of_loader = spans.clone();
    let (made, busy) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let count = (made.clone(), busy.clone());
    let left = ((steps - step).saturating_mul(per_step as u64)).min(all as u64) as usize;
    let mut samples = Prefetch::new(settings.workers, per_step + settings.workers, left, move |i| {
        let ((epoch, video, clips), begin) = (samples.at(done + i as u64), Instant::now());
        let _span = Span::of(of_loader.as_ref(), "sample");
        let sample = load(epoch, video, clips);
        count.0.fetch_add(1, Ordering::Relaxed);
        count.1.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        sample
    });
    let (mut clock, first) = (Instant::now(), step);
    let (mut took, mut loading_seconds, mut sent_per_step) = (VecDeque::new(), 0.0, 0);
    let mut fetch = |method: &mut M| {
        let began = Instant::now();
        let _span = Span::of(spans.as_ref(), "loading");
        let some = samples.by_ref().take(per_step).collect::<Result<Vec<_>>>()?;
        loading_seconds += began.elapsed().as_secs_f64();
        method.batch(some)
    };
    let mut next = None;
    // Steps of which nothing was told yet, and after how many of them that is done.
    let (mut untold, mut each): (Vec<(At, f32, Report)>, u64) = (Vec::new(), 1);

    while step < steps {
        let at = At { seed: settings.seed, epoch: step / per_epoch, step, epochs: settings.epochs_at(step) };
        let lr = settings.rate(step, per_epoch);
        let (began, sent) = (Instant::now(), ranks.sent());
        if let Some(trace) = &trace {
            trace.record(TRACED.contains(&(step - first)));
        }
        let mut views = next.take().unwrap_or_else(|| fetch(method))?;
        let seen = method.start(&mut views, at, lr, &settings.sgd)?;
        if method.is_asynchronous() && step + 1 < steps && !stop.load(Ordering::Relaxed) {
            // An error of the next batch is the next step's.
            next = Some(fetch(method));
        }
        untold.push((at, lr, seen.own()?));
        sent_per_step = ranks.sent() - sent;
        if let (Some(trace), Some(file)) = (&trace, &settings.trace)
            && (step + 1 - first == TRACED.end || step + 1 == steps && step - first < TRACED.end)
        {
            trace.write(ranks, file)?;
        }
        drop(views); // after the next ones are on their way, as `Method::start` asks
        step += 1;
        if took.len() == TIMED {
            took.pop_front();
        }
        took.push_back(began.elapsed().as_secs_f64());
        let last = step.is_multiple_of(per_epoch);
        if !last && (untold.len() as u64) < each {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            division.ask_to_stop();
        }
        let own: Vec<Report> = untold.iter().map(|(.., own)| own.clone()).collect();
        let (reports, slowest) = division.share_reports(&own, began.elapsed().as_secs_f32())?;
        if size > 1 {
            each = ((TOLD.as_secs_f32() / slowest) as u64).clamp(1, TOLD_STEPS);
        }
        let seconds = clock.elapsed().as_secs_f64() - paused;
        for ((at, lr, _), report) in untold.drain(..).zip(&reports) {
            let step = at.step;
            if !report.loss.is_finite() {
                return Err(ErrorKind::NotFinite { name: "loss", step, value: f64::from(report.loss) }.into());
            }
            if let Some(metrics) = &mut metrics {
                let mut line = json!({"step": step, "epoch": at.epoch, "lr": lr, "loss": report.loss});
                for (name, value) in &report.parts {
                    line[*name] = json!(value);
                }
                metrics.write(&line)?;
            }
            if is_first {
                observer.step(at, steps, report, ((step + 1 - first) * batch as u64) as f64 / seconds);
            }
        }

        // All ranks stop after the same step.
        let asked = if size == 1 { stop.load(Ordering::Relaxed) } else { division.stops() };
        let ended = last;
        if ended || asked {
            if step == steps {
                method.finish(at)?;
            }
            let pause = Instant::now();
            let epochs = step / per_epoch;
            let due = settings.probe_every > 0 && epochs.is_multiple_of(settings.probe_every);
            let mut write = || -> Result<()> {
                let (Some(metrics), Some(checkpoints)) = (&mut metrics, &checkpoints) else { return Ok(()) };
                if ended
                    && (due || step == steps)
                    && let Some(scores) = scores_of(method)?
                {
                    metrics.write(
                        &json!({"step": step - 1, "epoch": at.epoch, "probe_top1": scores.probe, "knn_top1": scores.knn}),
                    )?;
                    observer.scores(epochs, scores);
                    last_scores = Some(scores);
                }
                let mut state = State::default();
                state.texts.insert("method".into(), method.name().into());
                state.texts.insert("run".into(), settings.hash_at(step));
                let scores = [("before", before), ("after", last_scores.filter(|_| step == steps))];
                for (when, scores) in scores {
                    let Some(scores) = scores else { continue };
                    state.reals.insert(format!("probe_{when}"), scores.probe);
                    state.reals.insert(format!("knn_{when}"), scores.knn);
                }
                method.save(&mut state);
                checkpoints.save(step, &method.networks(), &state)?;
                earlier += clock.elapsed().as_secs_f64() - paused - pause.elapsed().as_secs_f64();
                write_seconds(folder, earlier)?;
                if ended {
                    observer.epoch(epochs);
                }
                Ok(())
            };
            together(ranks, &mut write, |_| ())?;
            (clock, paused) = (Instant::now(), 0.0);
            if asked && step < steps {
                let home = folder.path().display();
                let what = format!("saved in {home}: {step} of {steps} steps; the same command goes on from there");
                return Err(Error::stopped(folder.path(), what));
            }
        }
    }
    drop(samples);
    let after = last_scores.or(before); // `before` only for a run without steps
    let losses = metrics.map(|metrics| metrics.means("loss")).transpose()?.unwrap_or_default();
    let mean = |epoch: u64| losses.get(&epoch).copied().unwrap_or(f64::NAN);
    took.make_contiguous().sort_by(f64::total_cmp);
    Ok(Outcome {
        steps,
        trained: step - first,
        loss_first: mean(0),
        loss_last: mean(settings.epochs.saturating_sub(1)),
        before,
        after,
        train_seconds: earlier,
        step_seconds: took.get(took.len() / 2).copied().unwrap_or(f64::NAN),
        loading_seconds,
        samples_per_second: made.load(Ordering::Relaxed) as f64 * settings.workers as f64
            / (busy.load(Ordering::Relaxed) as f64 * 1e-9).max(1e-9),
        sent_per_step,
    })
}

/// Training seconds so far. They are stored next to the checkpoint, not in it, because the checkpoint's bits depend on
/// the settings alone. If the file is missing or damaged, only the statistics are wrong.
fn read_seconds(folder: &Folder) -> f64 {
    std::fs::read_to_string(folder.path().join("seconds")).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0.0)
}

fn write_seconds(folder: &Folder, seconds: f64) -> Result<()> {
    super::folder::write_atomic(&folder.path().join("seconds"), format!("{seconds:.3}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_larger_than_the_data_is_refused_with_the_largest_that_fits() {
        let e = steps_per_epoch(6, 32).unwrap_err().to_string();
        assert!(e.contains("--batch = 32") && e.contains("choose a --batch from 2 to 6"), "{e}");
        assert!(steps_per_epoch(1, 2).unwrap_err().to_string().contains("at least 2"));
        assert_eq!(steps_per_epoch(6, 6).unwrap(), 1);
    }
}
