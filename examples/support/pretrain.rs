//! Shared code of the pre-training examples: options, and the path from videos to a summary, for any method.

use super::args::{Common, arch, one_of, within};
use super::checks::{
    Length, check_memory, classes_can_be_tested, dry_run, earlier_epochs, folder_to_be, goes_on, leave_out,
    outside_of_data, same_are_skipped, several_videos, short,
};
use super::output::{say, warn};
use super::plan;
use super::run::{Show, loader};
use super::running::Running;
use super::settings;
use super::stop::stop_flag;
use super::summary::Summary;
use super::videos::VideoOptions;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tubelet::eval::{features::extract, knn::knn, probe::probe};
use tubelet::nn::nets::Naming;
use tubelet::nn::{Arch, Net, Params, Precision, Trunk};
use tubelet::tensor::{Device, memory};
use tubelet::train::folder::{Folder, write_atomic};
use tubelet::train::limits;
use tubelet::train::pretrain::{
    Evaluate, Load, Method, Outcome, Scores, Settings, check_run, pretrain, steps_per_epoch,
};
use tubelet::train::recipe::Training;
use tubelet::train::views::Loader;
use tubelet::video::{Dataset, FlowSource, Short, Splits};
use tubelet::weights::{Loaded, NETWORKS, Networks};

/// Weight of the probe's penalty: scikit-learn's `C = 0.1` for 340 training videos. The same for every run; chosen
/// among 0.01, 0.1 and 1 with the scores of the gestures' test videos in sight (`docs/experiments.md`).
const PROBE_L2: f64 = 0.03;

/// Presets of a recipe.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Preset {
    /// Procedural clips, under three minutes on two cores
    Tiny,
    /// A few hundred real videos, minutes on two cores
    Small,
    /// The paper's networks and sizes, for machines that can run them
    Paper,
    /// The same for Kinetics-400, where MCL's release has other settings than for UCF101
    PaperKinetics,
}

/// Options of all methods.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub videos: VideoOptions,
    /// Preset [default: tiny without --data, small with]
    #[arg(long)]
    preset: Option<Preset>,
    #[command(flatten)]
    pub common: Common,
    /// Seed of all random numbers; the same seed gives the same run
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within::<u64>(limits::SEED))]
    pub seed: u64,
    /// Check all options and the list of videos, print the settings and stop: nothing is decoded or written
    #[arg(long)]
    dry_run: bool,
    /// Use flow computed elsewhere: a folder per video below this one, by its name, with .flo files or images x_* and
    /// y_* (128 is no motion, 6.375 levels per pixel)
    #[arg(long, value_name = "DIR")]
    pub flow_dir: Option<PathBuf>,

    /// The RGB network [default: the preset's]
    #[arg(long, value_name = "NAME", value_parser = arch())]
    arch: Option<&'static Arch>,
    /// Initialise the RGB network from weights (safetensors, or as torch.save writes them): of an image ResNet, or of the same
    /// network of clips, such as an earlier run's folder (`weights inspect FILE` shows what is in a file)
    #[arg(long, value_name = "RUN|DIR|FILE")]
    pub init: Option<PathBuf>,

    /// Passes over the training videos
    #[arg(long, value_parser = within::<u64>(limits::EPOCHS))]
    epochs: Option<u64>,
    /// Videos per step
    #[arg(long, value_parser = within::<usize>(limits::BATCH))]
    batch: Option<usize>,
    /// Micro-batches that a step is computed in, one after another, with batch statistics of their own: takes less memory
    #[arg(long, value_name = "N", value_parser = within::<usize>(limits::ACCUMULATE))]
    accumulate: Option<usize>,
    /// Learning rate at the start of the cosine, which follows the warm-up, or spans it with the preset paper of MaCLR
    #[arg(long, value_parser = within::<f32>(limits::LR))]
    lr: Option<f32>,
    /// Epochs of linear warm-up
    #[arg(long, value_parser = within::<f64>(limits::WARMUP_EPOCHS))]
    warmup_epochs: Option<f64>,
    /// Weight decay (none on normalisations)
    #[arg(long, value_parser = within::<f32>(limits::WEIGHT_DECAY))]
    weight_decay: Option<f32>,
    #[command(flatten)]
    pub running: Running,
    /// Precision of the networks: f32; fma (f32 by multiply-adds only); bf16; bf16x3 and bf16x6 (f32 computed from 3 or
    /// 6 bf16 products). On a processor with AMX all but fma are exact for magnitudes from 2e-31 on; see docs/cpu.md
    #[arg(long, default_value_t = Precision::F32, value_parser = one_of(Precision::ALL.map(|p| (p.name(), p))))]
    pub precision: Precision,
    /// Temperature of the losses
    #[arg(long, value_parser = within::<f32>(limits::TEMPERATURE))]
    pub temperature: Option<f32>,
    /// Keys in each queue; with --keep-own at most as many as one epoch produces
    #[arg(long, value_parser = within::<usize>(limits::QUEUE))]
    queue: Option<usize>,
    /// Momentum of the key networks
    #[arg(long, value_parser = within::<f32>(limits::EMA))]
    pub ema: Option<f32>,
    /// Number of groups of the batch with separate batch statistics
    #[arg(long, value_parser = within::<usize>(limits::BN_GROUPS))]
    pub bn_groups: Option<usize>,
    /// Batch norm with the statistics of the whole batch over all ranks, instead of those of each rank's part
    #[arg(long)]
    sync_bn: bool,
    /// Do not permute the key batch
    #[arg(long)]
    pub no_shuffle: bool,
    /// Do not mask a video's own earlier keys among its negatives
    #[arg(long)]
    pub keep_own: bool,

    /// Frames of an RGB clip
    #[arg(long, value_parser = within::<usize>(limits::FRAMES))]
    frames: Option<usize>,
    /// Distance between frames of an RGB clip, in frames of the video
    #[arg(long, value_parser = within::<usize>(limits::STRIDE))]
    stride: Option<usize>,
    /// Side of the clips, pixels
    #[arg(long, value_parser = within::<usize>(limits::SIDE))]
    side: Option<usize>,
    /// Leave out training videos with fewer frames; 0 for none. It does not apply to procedural clips
    #[arg(long, value_name = "N", value_parser = within::<usize>(limits::MIN_FRAMES))]
    min_frames: Option<usize>,
    /// Refuse videos shorter than a clip instead of repeating their frames
    #[arg(long)]
    refuse_short: bool,
    /// Never flip clips: for data in which direction matters (always so for procedural clips)
    #[arg(long)]
    no_flip: bool,

    /// Clips per video whose features are averaged for the probe
    #[arg(long, value_parser = within::<usize>(limits::PROBE_CLIPS))]
    probe_clips: Option<usize>,
    /// Epochs between probes during training; 0 probes only before and after
    #[arg(long, default_value_t = 0, value_parser = within::<u64>(limits::PROBE_EVERY))]
    pub probe_every: u64,
}

impl Preset {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Tiny => "tiny",
            Preset::Small => "small",
            Preset::Paper => "paper",
            Preset::PaperKinetics => "paper-kinetics",
        }
    }
}

/// Sets `field` if the option was given.
pub fn set<T: Copy>(field: &mut T, option: Option<T>) {
    *field = option.unwrap_or(*field);
}

impl Options {
    /// The given preset, or the default for the data.
    pub fn preset(&self) -> Preset {
        self.preset.unwrap_or(if self.videos.data.is_some() { Preset::Small } else { Preset::Tiny })
    }

    /// Sets the RGB network, if one was named.
    pub fn set_net(&self, net: &mut Net) -> Result<()> {
        let Some(arch) = self.arch else { return Ok(()) };
        *net = arch.net();
        let motion = net.naming == Naming::SlowFast { pathway: 1 };
        ensure!(!motion, "--arch {}: this network takes clips of motion, and the one of RGB is chosen here", arch.name);
        Ok(())
    }

    /// Applies the given options.
    pub fn apply(&self, t: &mut Training) {
        set(&mut t.epochs, self.epochs);
        set(&mut t.batch, self.batch);
        set(&mut t.accumulate, self.accumulate);
        t.sync_bn = self.sync_bn;
        set(&mut t.lr, self.lr);
        set(&mut t.warmup_epochs, self.warmup_epochs);
        set(&mut t.sgd.weight_decay, self.weight_decay);
        set(&mut t.probe_clips, self.probe_clips);
        t.queue = self.queue.or(t.queue);
        set(&mut t.views.frames, self.frames);
        set(&mut t.views.stride, self.stride);
        set(&mut t.views.side, self.side);
        set(&mut t.min_frames, self.min_frames);
        t.views.flow_source = self.flow_dir.clone().map_or(FlowSource::TvL1, FlowSource::Folder);
        if self.refuse_short {
            t.views.short = Short::Refuse;
        }
        if self.no_flip || self.videos.data.is_none() {
            t.views.augment.flip = 0.0;
        }
        set(&mut t.min_frames, self.videos.data.is_none().then_some(0));
    }
}

/// Prints what a network took from `--init`.
pub fn say_inflated(inflated: Option<&Loaded>) {
    let Some(i) = inflated else { return };
    let [copied, made, left] = [i.copied.len(), i.made.len(), i.left_over.len()];
    say(format_args!(
        "{copied} parameters from the file; {made} kernels over time begin as identities; {left} of its tensors unused"
    ));
}

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
    pub fn open<R: Serialize>(options: &'a Options, device: Device, job: &Job<'a, R>) -> Result<Option<Run<'a>>> {
        let (out, training) = (options.common.out(job.example), job.training);
        training.warnings().iter().for_each(warn);
        options.running.check(&device)?;
        check_memory(&training.views, training.batch, job.clips)?;
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
        steps_per_epoch(splits.train.len(), training.batch)?;
        training.queue_length(splits.train.len(), job.keys, job.masked)?;
        classes_can_be_tested(&splits, 0..splits.train.len(), 0..splits.test.len())?;
        let settings = settings::of_run(options, job, &splits)?;
        // After the data, so that a folder in use hides nothing that is wrong with them.
        let check_out = || Folder::check(&out).with_context(|| format!("--out {}", out.display()));
        if options.dry_run {
            let usable = dry_run(&options.videos.cache, job, &splits)?;
            check_out()?;
            earlier_epochs(&out, training.epochs, steps_per_epoch(usable[0], training.batch)?)?;
            let (begins, out) = (if goes_on(&out, &settings, false)? { "goes on" } else { "begins" }, out.display());
            plan::show(options, &device, job, &splits, usable)?;
            say(format_args!("checked: a run with these settings {begins} in {out}; nothing was written"));
            return Ok(None);
        }
        check_out()?;
        let folder = Folder::open(&out).context("--out")?;
        if goes_on(&out, &settings, false)? {
            say(format_args!("going on with the run in {}", out.display()));
        }
        let (stop, motion) = (stop_flag()?, job.motion);
        let (views, began) = (&training.views, Instant::now());
        let fill =
            |data, motion| loader(&options.videos.cache, data, views, motion, seed, !options.videos.no_verify, &stop);
        let (mut train, mut skipped) = fill(&splits.train, motion[0])?;
        let left_out = leave_out(&mut train, &splits.train, training.min_frames)?;
        let (test, skipped_test) = fill(&splits.test, motion[1])?;
        skipped.extend(skipped_test);
        let cache_seconds = began.elapsed().as_secs_f64();
        let mut lengths = Vec::new();
        for (loader, data, motion) in [(&train, &splits.train, job.motion_clips), (&test, &splits.test, false)] {
            for ((frames, fps), &i) in loader.lengths()?.into_iter().zip(&loader.videos) {
                lengths.push(Length { name: &data.items[i].name, frames, fps, motion });
            }
        }
        let short = short(views, lengths.into_iter())?;
        let mut settings = settings;
        settings["videos.skipped"] = skipped.clone().into();
        // Fewer videos than were listed may be too few.
        let per_epoch = steps_per_epoch(train.videos.len(), training.batch)?;
        training.queue_length(train.videos.len(), job.keys, job.masked)?;
        classes_can_be_tested(&splits, train.videos.iter().copied(), test.videos.iter().copied())?;
        same_are_skipped(&out, &skipped)?;
        goes_on(&out, &settings, true)?;
        let earlier = earlier_epochs(&out, training.epochs, per_epoch)?;
        settings[settings::EARLIER] = serde_json::to_value(&earlier)?;
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
    /// is one, and draws the curves. `networks` describe its weights.
    pub fn pretrain<M: Method>(
        &self,
        method: &mut M,
        load: Arc<Load<M::Sample>>,
        networks: &Networks,
    ) -> Result<Outcome> {
        let videos = self.videos();
        let per_epoch = steps_per_epoch(videos, self.training.batch)?;
        self.folder.settle(&self.settings, &settings::FREE)?;
        Summary::set_aside(&self.out, self.training.epochs)?;
        write_atomic(&self.out.join(NETWORKS), format!("{:#}\n", serde_json::to_value(networks)?).as_bytes())?;
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
        let done = pretrain(method, load, videos, evaluate, &self.folder, &self.how, &self.stop, &mut show)?;
        show.curves(done.before);
        if done.trained == 0 {
            say("all steps of this run had been taken before: nothing was trained now");
            return Ok(done);
        }
        say(format_args!(
            "loader: it can prepare {:.0} videos/s; steps waited {:.1} of {:.1} s for it",
            done.samples_per_second, done.loading_seconds, done.train_seconds
        ));
        let usage = self.device.usage();
        say(format_args!("memory: at most {} in use by tensors, {} held", mega(usage.peak), mega(usage.held)));
        Ok(done)
    }
}
