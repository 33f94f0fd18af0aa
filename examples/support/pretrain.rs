//! Shared code of the pre-training examples: options, and the path from videos to a summary, for any method.

use super::checks::{
    Length, check_memory, classes_can_be_tested, dry_run, earlier_epochs, folder_to_be, goes_on, leave_out,
    outside_of_data, same_are_skipped, several_videos, short, warn_of_few_steps,
};
use super::options::Options;
use super::output::{say, warn};
use super::plan;
use super::ranks::{RANKS, Ranks};
use super::run::{Show, loader};
use super::settings;
use super::stop::stop_flag;
use super::summary::Summary;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tubelet::eval::{features::extract, knn::knn, probe::probe};
use tubelet::nn::{Net, Params, Trunk};
use tubelet::ssl::alignment::Alignment;
use tubelet::tensor::{Device, memory};
use tubelet::train::folder::{Folder, write_atomic};
use tubelet::train::pretrain::{
    Evaluate, Load, Method, Outcome, Scores, Settings, check_run, pretrain, steps_per_epoch,
};
use tubelet::train::recipe::Training;
use tubelet::train::views::Loader;
use tubelet::video::{Dataset, Splits};
use tubelet::weights::{NETWORKS, Networks};

/// Weight of the probe's penalty: scikit-learn's `C = 0.1` for 340 training videos. The same for every run; chosen
/// among 0.01, 0.1 and 1 with the scores of the gestures' test videos in sight (`docs/experiments.md`).
const PROBE_L2: f64 = 0.03;

/// Bytes as megabytes.
fn mega(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// What an example runs.
pub struct Job<'a, R> {
    /// Name of the example.
    pub example: &'static str,
    /// All settings.
    pub recipe: &'a R,
    /// The settings that methods share.
    pub training: &'a Training,
    /// Keys per video and step.
    pub keys: usize,
    /// Whether a clip's own earlier keys are masked in the queues.
    pub masked: bool,
    /// Clips per video and step.
    pub clips: usize,
    /// Groups of the batch with statistics of their own.
    pub groups: usize,
    /// The alignment of gradients with motion, if there is one.
    pub alignment: Option<&'a Alignment>,
    /// Whether the head of an image network in `--init` is used, too; `None` if the example has no such option.
    pub init_head: Option<bool>,
    /// The networks that are trained, with their names.
    pub networks: &'a [(&'static str, &'a Net)],
    /// Whether flow is needed, for training videos and for test videos.
    pub motion: [bool; 2],
    /// Whether clips of motion are taken from the training videos.
    pub motion_clips: bool,
}

/// A run with its output folder opened and its videos in the cache.
pub struct Run<'a> {
    pub(super) options: &'a Options,
    pub(super) training: &'a Training,
    settings: Value,
    how: Settings,
    folder: Folder,
    pub(super) stop: Arc<AtomicBool>,
    /// Output folder.
    pub out: PathBuf,
    /// Device.
    pub device: Device,
    /// The processes that share the run.
    pub ranks: Ranks,
    /// The videos.
    pub splits: Splits,
    /// Clips of the training videos.
    pub train: Loader,
    /// Clips of the test videos.
    pub test: Loader,
    pub(super) skipped: usize,
    /// Training videos with fewer frames than `--min-frames`.
    pub(super) left_out: usize,
    /// Videos shorter than an RGB clip, and others shorter than a motion clip.
    pub(super) short: [usize; 2],
    pub(super) cache_seconds: f64,
}

impl<'a> Run<'a> {
    /// Reads the list of videos, checks everything that can be checked before decoding, opens the folder `--out`, and
    /// fills the cache. `device` comes from the options. Settings are written when training starts, so that a refused
    /// run leaves nothing in the folder. A dry run ends here and opens nothing.
    /// Of several ranks all do so, but the first alone opens the folder; nothing is written before they agree.
    pub fn open<R: Serialize>(
        options: &'a Options,
        (device, ranks): (Device, Ranks),
        job: &Job<'a, R>,
    ) -> Result<Option<Run<'a>>> {
        let (out, training) = (options.common.out(job.example), job.training);
        training.division(ranks.all.clone(), job.groups, job.alignment)?;
        training.warnings().iter().for_each(warn);
        options.running.check(&device)?;
        ensure!(
            !options.running.graph || ranks.world.size == 1,
            "--graph: what several ranks exchange in a step is not part of a graph: leave it out"
        );
        let here = training.batch / ranks.world.size * ranks.world.local_size;
        check_memory(&training.views, here, job.clips)?;
        options.videos.check()?;
        outside_of_data([("--out", &out), ("--cache", &options.videos.cache)], options.videos.data.as_deref())?;
        folder_to_be("--cache", &options.videos.cache)?;
        if let Some(flow) = &options.flow_dir {
            ensure!(flow.is_dir(), "--flow-dir {}: there is no such folder", flow.display());
        }
        let seed = options.seed;
        let splits = several_videos(options.videos.splits(seed)?, options.videos.data.as_deref())?;
        splits.train.warnings.iter().chain(&splits.test.warnings).for_each(warn);
        if !splits.train.is_labelled() {
            ensure!(
                options.probe_every == 0,
                "--probe-every {}: the videos of --data have no labels, and a probe is trained on labels: leave it out",
                options.probe_every
            );
            say("the videos have no labels: the network is trained, and there is no probe and no 1-NN");
        }
        ensure!(
            !splits.test.is_empty() || !splits.train.is_labelled(),
            "no video is held out to be tested on, for each class is one recording: give a list of test videos as --test"
        );
        let steps = steps_per_epoch(splits.train.len(), training.batch)?.saturating_mul(training.epochs);
        training.queue_length(splits.train.len(), job.keys, job.masked)?;
        classes_can_be_tested(&splits, 0..splits.train.len(), 0..splits.test.len())?;
        warn_of_few_steps(training.epochs, steps);
        let mut settings = settings::of_run(options, job, &splits)?;
        settings[RANKS] = ranks.world.size.into();
        // After the data, so that a folder in use hides nothing that is wrong with them.
        let is_first = ranks.is_first();
        if is_first {
            Folder::check(&out).with_context(|| format!("--out {}", out.display()))?;
        }
        // What is no setting of the run, and yet must be the same on all ranks.
        let mut facts = settings.clone();
        facts["--recompute"] = options.running.recompute.into();
        facts["--trace"] = options.running.trace.is_some().into();
        facts["--dry-run"] = options.dry_run.into();
        ranks.agree_to_start(&facts, &out)?;
        if options.dry_run {
            let usable = dry_run(&options.videos.cache, job, &splits)?;
            earlier_epochs(&out, training.epochs, steps_per_epoch(usable[0], training.batch)?)?;
            let (begins, out) = (if goes_on(&out, &settings, false)? { "goes on" } else { "begins" }, out.display());
            plan::show(options, &device, job, &splits, usable)?;
            say(format_args!("checked: a run with these settings {begins} in {out}; nothing was written"));
            return Ok(None);
        }
        let folder = if is_first { Folder::open(&out).context("--out")? } else { Folder::of_first_rank(&out) };
        if goes_on(&out, &settings, false)? {
            say(format_args!("going on with the run in {}", out.display()));
            ranks.say_division(&out, training.accumulate, ["micro-batch", "micro-batches"])?;
        }
        let (stop, motion) = (stop_flag()?, job.motion);
        let (views, began) = (&training.views, Instant::now());
        // Of the ranks on a machine, which share a cache, one compares it with its checksums.
        let verify = !options.videos.no_verify && ranks.world.local_rank == 0;
        let fill = |data, motion| loader(&options.videos.cache, data, views, motion, seed, verify, &stop);
        let both = || Ok((fill(&splits.train, motion[0])?, fill(&splits.test, motion[1])?));
        let ((mut train, mut skipped), (test, skipped_test)) = ranks.together(&stop, both)?;
        let left_out = leave_out(&mut train, &splits.train, training.min_frames)?;
        skipped.extend(skipped_test);
        let cache_seconds = began.elapsed().as_secs_f64();
        let mut lengths = Vec::new();
        for (loader, data, motion) in [(&train, &splits.train, job.motion_clips), (&test, &splits.test, false)] {
            for ((frames, fps), &i) in loader.lengths()?.into_iter().zip(&loader.videos) {
                lengths.push(Length { name: &data.items[i].name, frames, fps, motion });
            }
        }
        let short = short(views, lengths.into_iter())?;
        settings["videos.skipped"] = skipped.clone().into();
        // Fewer videos than were listed may be too few.
        let per_epoch = steps_per_epoch(train.videos.len(), training.batch)?;
        training.queue_length(train.videos.len(), job.keys, job.masked)?;
        classes_can_be_tested(&splits, train.videos.iter().copied(), test.videos.iter().copied())?;
        same_are_skipped(&out, &skipped)?;
        goes_on(&out, &settings, true)?;
        let earlier = earlier_epochs(&out, training.epochs, per_epoch)?;
        settings[settings::EARLIER] = serde_json::to_value(&earlier)?;
        ranks.agree_on_videos(&settings)?;
        let how = Settings {
            run: settings::identity(&settings),
            seed,
            epochs: training.epochs,
            batch: training.batch,
            schedule: training.schedule(per_epoch),
            earlier,
            sgd: training.sgd,
            workers: rayon::current_num_threads(),
            probe_every: options.probe_every,
            trace: options.running.trace.clone(),
        };
        check_run(&out, &how).context("--out")?;
        Ok(Some(Run {
            options,
            training,
            settings,
            how,
            folder,
            stop,
            out,
            device,
            ranks,
            splits,
            train,
            test,
            skipped: skipped.len(),
            left_out,
            short,
            cache_seconds,
        }))
    }

    /// Training videos.
    pub fn videos(&self) -> usize {
        self.train.videos.len()
    }

    /// The length of a queue that gets `keys` keys per video; prints a note if that is less than the preset's.
    pub fn queue(&self, keys: usize, masked: bool) -> Result<usize> {
        let (videos, cap) = (self.videos(), self.training.queue_cap);
        let queue = self.training.queue_length(videos, keys, masked)?;
        if self.training.queue.is_none() && queue < cap {
            say(format_args!("queues hold {queue} keys: a longer one would hold keys of {videos} videos twice"));
        }
        Ok(queue)
    }

    /// Trains `method` on the samples that `load` makes from the training videos, from the folder's checkpoint if there
    /// is one, and draws the curves. `networks` describe its weights. `None` on all ranks but the first, which are done then.
    pub fn pretrain<M: Method>(
        &self,
        method: &mut M,
        load: Arc<Load<M::Sample>>,
        networks: &Networks,
    ) -> Result<Option<Outcome>> {
        let videos = self.videos();
        let per_epoch = steps_per_epoch(videos, self.training.batch)?;
        if self.ranks.is_first() {
            self.folder.settle(&self.settings, &settings::FREE)?;
            Summary::set_aside(&self.out, self.training.epochs)?;
            write_atomic(&self.out.join(NETWORKS), format!("{:#}\n", serde_json::to_value(networks)?).as_bytes())?;
        }
        let labels = |data: &Dataset, loader: &Loader| -> Vec<usize> {
            loader.videos.iter().filter_map(|&i| data.items[i].label).collect()
        };
        let train_labels = labels(&self.splits.train, &self.train);
        let test_labels = labels(&self.splits.test, &self.test);
        let mut evaluate = |trunk: &Trunk, params: &Params| -> tubelet::error::Result<Scores> {
            let [dims, _] = self.training.views.dims();
            let of = |loader: &Loader, labels: &[usize]| {
                let mut clips = |video: usize| {
                    let clips = loader.uniform(video, self.training.probe_clips)?;
                    Ok(clips.into_iter().map(|c| c.data).collect())
                };
                extract(trunk, params, labels, dims, &mut clips)
            };
            let (train, test) = (of(&self.train, &train_labels)?, of(&self.test, &test_labels)?);
            Ok(Scores { probe: probe(&train, &test, PROBE_L2)?.top1, knn: knn(&train, &test, 1)?.top1 })
        };
        memory::reset_peak(); // exclude the memory used for filling the cache
        let start = if self.options.init.is_some() { "at the start" } else { "random network" };
        let mut show = Show::new(self.out.clone(), per_epoch * self.training.epochs, start);
        let evaluate: Option<&mut Evaluate> = if self.splits.train.is_labelled() { Some(&mut evaluate) } else { None };
        let done = pretrain(method, load, videos, evaluate, &self.folder, &self.how, &self.stop, &mut show);
        let done = done.inspect_err(|e| self.ranks.all_stop(e))?;
        if !self.ranks.is_first() {
            return Ok(None);
        }
        show.curves(done.before);
        if done.trained == 0 {
            say("all steps of this run had been taken before: nothing was trained now");
            return Ok(Some(done));
        }
        say(format_args!(
            "loader: it can prepare {:.0} videos/s; steps waited {:.1} of {:.1} s for it",
            done.samples_per_second, done.loading_seconds, done.train_seconds
        ));
        let usage = self.device.usage();
        say(format_args!("memory: at most {} in use by tensors, {} held", mega(usage.peak), mega(usage.held)));
        Ok(Some(done))
    }
}
