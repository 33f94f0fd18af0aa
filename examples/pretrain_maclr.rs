//! Pre-trains a video network without labels by MaCLR, from video files (or procedural clips) to a probed representation.
//!
//! `cargo run --release --example pretrain_maclr` needs nothing else; `--data DIR` trains on real videos.

mod support;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use support::run::{Show, draw_sheet, loader, stop_flag};
use support::summary::Summary;
use tubelet::eval::{features::extract, knn::knn, probe::probe};
use tubelet::flow::motion::MotionInput;
use tubelet::nn::{Params, Trunk};
use tubelet::ssl::maclr::CrossPositive;
use tubelet::tensor::DType;
use tubelet::tensor::Device;
use tubelet::train::folder::Folder;
use tubelet::train::maclr::{MaclrRun, Recipe};
use tubelet::train::pretrain::{Load, Scores, Settings, pretrain, steps_per_epoch};
use tubelet::train::schedule::Schedule;
use tubelet::train::views::{ClipPair, Loader};
use tubelet::video::{Dataset, ProceduralSpec, Short, Splits};

/// Weight of the probe's penalty: scikit-learn's `C = 0.1` at 340 training videos. The same for every run; it was chosen
/// among 0.01, 0.1 and 1 with the scores of the gestures' test videos in sight (`docs/experiments.md`).
const PROBE_L2: f64 = 0.03;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Preset {
    /// Procedural clips, under three minutes on two cores
    Tiny,
    /// A few hundred real videos, minutes on two cores
    Small,
    /// The paper's networks and sizes: for a machine that can
    Paper,
}

/// Pre-train on videos without labels (MaCLR), then probe the representation.
///
/// Options without a stated default take it from the preset.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Videos: a folder in UCF101's layout, of class folders or frame folders, or a `path label` list; without it,
    /// procedural clips
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// With a list as --data: the list of test videos
    #[arg(long, value_name = "LIST")]
    test: Option<PathBuf>,
    /// Where to start from [default: tiny without --data, small with]
    #[arg(long)]
    preset: Option<Preset>,
    #[command(flatten)]
    common: support::args::Common,
    /// Decoded frames and flow are kept here, for any run to use again
    #[arg(long, value_name = "DIR", default_value = "runs/cache")]
    cache: PathBuf,

    /// Passes over the training videos
    #[arg(long)]
    epochs: Option<u64>,
    /// Videos a step (two clips each)
    #[arg(long)]
    batch: Option<usize>,
    /// Learning rate after the warm-up
    #[arg(long)]
    lr: Option<f32>,
    /// Epochs of linear warm-up
    #[arg(long)]
    warmup_epochs: Option<f64>,
    /// Weight decay (none on normalisations)
    #[arg(long)]
    weight_decay: Option<f32>,
    /// Record a GPU's training step as a graph and repeat it: the same numbers, in one launch a step
    #[arg(long)]
    graph: bool,
    /// Number type of activations: f32 or bf16
    #[arg(long, default_value = "f32")]
    precision: String,

    /// Weight of the visual-visual term
    #[arg(long)]
    w_vv: Option<f32>,
    /// Weight of the motion-motion term
    #[arg(long)]
    w_mm: Option<f32>,
    /// Weight of the term of visual queries against motion keys
    #[arg(long)]
    w_vm: Option<f32>,
    /// Weight of the term of motion queries against visual keys
    #[arg(long)]
    w_mv: Option<f32>,
    /// Temperature of the losses
    #[arg(long)]
    temperature: Option<f32>,
    /// Keys in each queue, at most the number of training videos
    #[arg(long)]
    queue: Option<usize>,
    /// Momentum of the key networks
    #[arg(long)]
    ema: Option<f32>,
    /// The cross-modal positive: other-clip or same-clip
    #[arg(long)]
    cross_positive: Option<String>,
    /// Parts of the batch with batch statistics of their own
    #[arg(long)]
    bn_groups: Option<usize>,
    /// Do not permute the key batch
    #[arg(long)]
    no_shuffle: bool,
    /// Use both clips as queries
    #[arg(long)]
    symmetric: bool,
    /// Keep a video's own earlier keys among its negatives
    #[arg(long)]
    keep_own: bool,

    /// Frames of an RGB clip
    #[arg(long)]
    frames: Option<usize>,
    /// Frames of the video from one frame of an RGB clip to the next
    #[arg(long)]
    stride: Option<usize>,
    /// Side of the clips, pixels
    #[arg(long)]
    side: Option<usize>,
    /// What the motion network sees: frame-diff, flow or flow-edges
    #[arg(long)]
    motion: Option<MotionInput>,
    /// Motion at which the motion input reaches 1, pixels per frame (edges: of Sobel's sums)
    #[arg(long)]
    motion_clamp: Option<f32>,
    /// Frames of a motion clip, over the span of the RGB clip
    #[arg(long)]
    motion_frames: Option<usize>,
    /// Crop each motion clip like the video's other RGB clip instead of like its own
    #[arg(long)]
    untied_crops: bool,
    /// Refuse videos shorter than a clip instead of repeating their frames
    #[arg(long)]
    refuse_short: bool,
    /// Never mirror clips: for data in which direction matters (always so for procedural clips)
    #[arg(long)]
    no_flip: bool,

    /// Clips a video whose features are averaged for the probe
    #[arg(long)]
    probe_clips: Option<usize>,
    /// Epochs between probes during training, 0 for only before and after
    #[arg(long, default_value_t = 0)]
    probe_every: u64,
}

impl Args {
    fn recipe(&self) -> Result<Recipe> {
        let default = if self.data.is_some() { Preset::Small } else { Preset::Tiny };
        let mut r = match self.preset.unwrap_or(default) {
            Preset::Tiny => Recipe::tiny(),
            Preset::Small => Recipe::small(),
            Preset::Paper => Recipe::paper()?,
        };
        fn set<T: Copy>(field: &mut T, option: Option<T>) {
            *field = option.unwrap_or(*field);
        }
        set(&mut r.epochs, self.epochs);
        set(&mut r.batch, self.batch);
        set(&mut r.lr, self.lr);
        set(&mut r.warmup_epochs, self.warmup_epochs);
        set(&mut r.sgd.weight_decay, self.weight_decay);
        set(&mut r.method.w_vv, self.w_vv);
        set(&mut r.method.w_mm, self.w_mm);
        set(&mut r.method.w_vm, self.w_vm);
        set(&mut r.method.w_mv, self.w_mv);
        set(&mut r.method.temperature, self.temperature);
        set(&mut r.method.momentum, self.ema);
        set(&mut r.method.groups, self.bn_groups);
        set(&mut r.probe_clips, self.probe_clips);
        r.queue = self.queue.or(r.queue);
        r.method.shuffle_keys &= !self.no_shuffle;
        r.method.symmetric |= self.symmetric;
        r.method.mask_own &= !self.keep_own;
        r.method.dtype = match self.precision.as_str() {
            "f32" => DType::F32,
            "bf16" => DType::BF16,
            other => bail!("--precision is f32 or bf16, not {other}"),
        };
        r.method.cross_positive = match self.cross_positive.as_deref() {
            None => r.method.cross_positive,
            Some("other-clip") => CrossPositive::OtherClip,
            Some("same-clip") => CrossPositive::SameClip,
            Some(other) => bail!("--cross-positive is other-clip or same-clip, not {other}"),
        };
        set(&mut r.views.frames, self.frames);
        set(&mut r.views.stride, self.stride);
        set(&mut r.views.side, self.side);
        set(&mut r.views.motion, self.motion);
        set(&mut r.views.motion_clamp, self.motion_clamp);
        set(&mut r.views.motion_frames, self.motion_frames);
        r.views.tied_crops &= !self.untied_crops;
        if self.refuse_short {
            r.views.short = Short::Refuse;
        }
        if self.no_flip || self.data.is_none() {
            r.views.augment.flip = 0.0;
        }
        Ok(r)
    }
}

fn main() -> ExitCode {
    support::args::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let recipe = args.recipe()?;
    let device = args.common.start()?;
    let out = args.common.out("pretrain_maclr");
    let folder = Folder::open(&out)?;
    let stop = stop_flag()?;

    let splits = match &args.data {
        Some(path) => Splits::open(path, args.test.as_deref())?,
        None => Splits::procedural(&ProceduralSpec { seed: args.common.seed, ..ProceduralSpec::default() })?,
    };
    for warning in splits.train.warnings.iter().chain(&splits.test.warnings) {
        eprintln!("warning: {warning}");
    }
    steps_per_epoch(splits.train.len(), recipe.batch)?;
    folder.settle(&serde_json::json!({
        "data": args.data.as_deref().map_or("procedural".into(), Path::to_string_lossy),
        "seed": args.common.seed,
        "recipe": format!("{recipe:?}"),
        "probe_every": args.probe_every,
    }))?;

    let with_motion = recipe.method.uses_motion();
    let (seed, views) = (args.common.seed, &recipe.views);
    let (train, failed_train) = loader(&args.cache, &splits.train, views, with_motion, seed, &stop)?;
    let (test, failed_test) = loader(&args.cache, &splits.test, views, false, seed, &stop)?;
    let labels = |data: &Dataset, loader: &Loader| -> Vec<usize> {
        loader.videos.iter().map(|&i| data.items[i].label).collect()
    };
    let (train_labels, test_labels) = (labels(&splits.train, &train), labels(&splits.test, &test));
    let short = train.short()? + test.short()?;
    if short > 0 {
        let shown = if recipe.views.short == Short::Repeat { "their frames are repeated" } else { "they are refused" };
        eprintln!("warning: {short} videos are shorter than a clip; {shown}");
    }
    if with_motion {
        draw_sheet(&out.join("sheet.png"), &train, &splits.train)?;
    }

    let videos = train.videos.len();
    let per_epoch = steps_per_epoch(videos, recipe.batch)?;
    let queue = recipe.queue_length(videos)?;
    if recipe.queue.is_none() && queue < recipe.queue_cap {
        println!("queues hold {queue} keys: a longer one would hold keys of {videos} videos twice");
    }
    let warmup = (recipe.warmup_epochs * per_epoch as f64).round() as u64;
    let settings = Settings {
        seed: args.common.seed,
        epochs: recipe.epochs,
        batch: recipe.batch,
        schedule: Schedule {
            base: recipe.lr,
            warmup_from: recipe.lr / 100.0,
            warmup,
            steps: per_epoch * recipe.epochs,
            floor: 0.0,
        },
        sgd: recipe.sgd,
        workers: rayon::current_num_threads(),
        probe_every: args.probe_every,
    };
    let mut method = MaclrRun::new(&recipe, videos, args.common.seed, &device)?;
    if args.graph {
        method = method.recorded();
    }
    let mut evaluate = |trunk: &Trunk, params: &Params| -> tubelet::error::Result<Scores> {
        let [dims, _] = recipe.views.dims();
        let of = |loader: &Loader, labels: &[usize]| {
            let mut clips = |video: usize| {
                let clips = loader.uniform(video, recipe.probe_clips)?;
                Ok(clips.into_iter().map(|c| c.data).collect())
            };
            extract(trunk, params, labels, dims, &mut clips)
        };
        let (train, test) = (of(&train, &train_labels)?, of(&test, &test_labels)?);
        Ok(Scores { probe: probe(&train, &test, PROBE_L2)?.top1, knn: knn(&train, &test, 1)?.top1 })
    };
    let load: Arc<Load<ClipPair>> = {
        let train = train.clone();
        Arc::new(move |epoch, video| train.pair(epoch, video))
    };
    let mut show = Show::new(out.clone(), per_epoch * recipe.epochs);
    let done = pretrain(&mut method, load, videos, &mut evaluate, &folder, &settings, &stop, &mut show)?;
    show.curves(done.before)?;

    let mut summary = Summary::default();
    summary
        .set("method", "maclr")
        .set("data", args.data.as_ref().map_or("procedural".to_owned(), |p| p.display().to_string()))
        .set("layout", splits.layout)
        .set("device", args.common.device_name(&device))
        .set("precision", args.precision.as_str())
        .set("seed", args.common.seed)
        .set("threads", rayon::current_num_threads())
        .set("videos_train", videos)
        .set("videos_test", test.videos.len())
        .set("videos_skipped", failed_train + failed_test)
        .set("videos_short", short)
        .set("classes", splits.train.classes.len())
        .set("epochs", recipe.epochs)
        .set("steps", done.steps)
        .set("batch", recipe.batch)
        .set("queue", queue)
        .set("clips_per_second", (done.steps * 2 * recipe.batch as u64) as f64 / done.train_seconds)
        .set("seconds", done.train_seconds)
        .set("loss_first", done.loss_first)
        .set("loss_last", done.loss_last)
        .set("probe_top1", done.after.probe)
        .set("probe_top1_random_init", done.before.probe)
        .set("knn_top1", done.after.knn)
        .set("knn_top1_random_init", done.before.knn);
    if let Device::Cuda(gpu) = &device {
        summary.set("gpu", gpu.name()).set("gpu_memory_peak_bytes", gpu.usage().peak);
    }
    summary.finish(&out)
}
