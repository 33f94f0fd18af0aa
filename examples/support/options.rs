//! The options of the pre-training examples.

use super::args::{Common, arch, one_of, within};
use super::output::say;
use super::ranks::WIRES;
use super::running::Running;
use super::videos::VideoOptions;
use anyhow::{Result, ensure};
use clap::ValueEnum;
use std::path::PathBuf;
use tubelet::dist::sum::Wire;
use tubelet::nn::nets::Naming;
use tubelet::nn::{Arch, Net, Precision};
use tubelet::train::limits;
use tubelet::train::recipe::Training;
use tubelet::video::{FlowSource, Short};
use tubelet::weights::Loaded;

/// Presets of a recipe.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Preset {
    /// Procedural clips, under three minutes on two cores
    Tiny,
    /// A few hundred real videos, minutes on two cores
    Small,
    /// As small, trained for longer: MaCLR seven times, MCL three times
    Long,
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
    pub dry_run: bool,
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
    /// How gradients travel between ranks: as f32, or rounded to bf16, which is half of the bytes
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = one_of(WIRES))]
    wire: Wire,
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
    /// Probability that a clip keeps the half of its pixels that moves most, over another video's background [default: 0]
    #[arg(long, value_name = "P", value_parser = within::<f32>(limits::BACKGROUND_SWAP))]
    background_swap: Option<f32>,
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
            Preset::Long => "long",
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
        self.preset.unwrap_or(if self.videos.procedural() { Preset::Tiny } else { Preset::Small })
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
        (t.sync_bn, t.wire) = (self.sync_bn, self.wire);
        set(&mut t.lr, self.lr);
        set(&mut t.warmup_epochs, self.warmup_epochs);
        set(&mut t.sgd.weight_decay, self.weight_decay);
        set(&mut t.probe_clips, self.probe_clips);
        t.queue = self.queue.or(t.queue);
        set(&mut t.views.frames, self.frames);
        set(&mut t.views.stride, self.stride);
        set(&mut t.views.side, self.side);
        set(&mut t.views.background_swap, self.background_swap);
        set(&mut t.min_frames, self.min_frames);
        t.views.flow_source = self.flow_dir.clone().map_or(FlowSource::TvL1, FlowSource::Folder);
        if self.refuse_short {
            t.views.short = Short::Refuse;
        }
        if self.no_flip || self.videos.procedural() {
            t.views.augment.flip = 0.0;
        }
        set(&mut t.min_frames, self.videos.procedural().then_some(0));
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
