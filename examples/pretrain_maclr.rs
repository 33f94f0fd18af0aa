//! Pre-trains a video network without labels with MaCLR, from video files (or procedural clips) to an evaluated
//! representation.
//!
//! `cargo run --release --example pretrain_maclr` needs no other options; `--data DIR` trains on real videos.

mod support;

use anyhow::{Context, Result};
use clap::Parser;
use std::process::ExitCode;
use std::sync::Arc;
use support::activation::Scene;
use support::args::{one_of, within};
use support::checks::init_file;
use support::motion::FocusOptions;
use support::options::{Options, Preset, say_inflated, set};
use support::presets::{self, Preset as Values};
use support::pretrain::{Job, Run};
use support::run::{draw_sheet, fed_to};
use support::settings::of_recipe;
use tubelet::flow::motion::MotionInput;
use tubelet::ssl::alignment::Alignment;
use tubelet::ssl::maclr::CrossPositive;
use tubelet::train::limits;
use tubelet::train::maclr::{MaclrRun, Recipe};
use tubelet::train::pretrain::Method;

/// Values of `--cross-positive`, named as in `settings.json`.
const CROSS_POSITIVES: [(&str, CrossPositive); 2] =
    [("other-clip", CrossPositive::OtherClip), ("same-clip", CrossPositive::SameClip)];

/// Values of `--motion-stem`.
const STEMS: [(&str, [usize; 3]); 2] = [("1x7x7", [1, 7, 7]), ("5x7x7", [5, 7, 7])];

/// Pre-train on videos without labels (MaCLR), then evaluate the features with a linear probe.
///
/// Options without a stated default take it from the preset.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
struct Args {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    focus: FocusOptions,

    /// Weight of the RGB-RGB term
    #[arg(long, value_parser = within::<f32>(limits::W_VV))]
    w_vv: Option<f32>,
    /// Weight of the motion-motion term
    #[arg(long, value_parser = within::<f32>(limits::W_MM))]
    w_mm: Option<f32>,
    /// Weight of the term with RGB queries and motion keys
    #[arg(long, value_parser = within::<f32>(limits::W_VM))]
    w_vm: Option<f32>,
    /// Weight of the term with motion queries and RGB keys
    #[arg(long, value_parser = within::<f32>(limits::W_MV))]
    w_mv: Option<f32>,
    /// Weight of the two terms between time steps of RGB and motion, which MSCL has and MaCLR has not; 0: none
    #[arg(long, value_parser = within::<f32>(limits::W_STEPS))]
    w_steps: Option<f32>,
    /// The clip of the cross-modal positive: the video's other clip, or the clip of the same moment
    #[arg(long, value_parser = one_of(CROSS_POSITIVES))]
    cross_positive: Option<CrossPositive>,
    /// Use both clips as queries
    #[arg(long)]
    symmetric: bool,

    /// Input of the motion network: difference of two frames, optical flow, or its edges
    #[arg(long, value_parser = one_of(MotionInput::ALL.map(|m| (m.name(), m))))]
    motion: Option<MotionInput>,
    /// Motion at which the motion input saturates at 1, pixels per frame (edges: of Sobel sums)
    #[arg(long, value_parser = within::<f32>(limits::MOTION_CLAMP))]
    motion_clamp: Option<f32>,
    /// Frames of a motion clip, over the span of the RGB clip
    #[arg(long, value_parser = within::<usize>(limits::MOTION_FRAMES))]
    motion_frames: Option<usize>,
    /// Extents t x h x w of the motion network's first kernel; MaCLR's released code builds it with 5x7x7 [default: the
    /// preset's; paper: 1x7x7]
    #[arg(long, value_name = "EXTENTS", value_parser = one_of(STEMS))]
    motion_stem: Option<[usize; 3]>,
    /// Crop each motion clip like the video's other RGB clip instead of like its own
    #[arg(long)]
    untied_crops: bool,
    /// Epochs in which the two clips of a video drift apart, from the same start to the distances that they have otherwise [default:
    /// 0]
    #[arg(long, value_name = "EPOCHS", value_parser = within::<u64>(limits::DRIFT))]
    drift: Option<u64>,
    /// Synthetic tubelets of a sample: the two RGB clips are then of different videos, and these moving patches are all that they
    /// share. For RGB alone (--w-mm 0 --w-vm 0 --w-mv 0) [default: 0]
    #[arg(long, value_name = "N", value_parser = within::<usize>(limits::TUBELETS))]
    tubelets: Option<usize>,
}

/// What the presets set, for `--help`.
fn presets() -> Vec<Values> {
    let all = [
        (Preset::Tiny, Ok(Recipe::tiny())),
        (Preset::Small, Ok(Recipe::small())),
        (Preset::Long, Ok(Recipe::long())),
        (Preset::Paper, Recipe::paper()),
    ];
    all.into_iter().filter_map(|(preset, recipe)| Some((preset.name(), of_recipe(&recipe.ok()?).ok()?))).collect()
}

impl Args {
    fn recipe(&self) -> Result<Recipe> {
        let mut r = match self.options.preset() {
            Preset::Tiny => Recipe::tiny(),
            Preset::Small => Recipe::small(),
            Preset::Long => Recipe::long(),
            // The second is MCL's, and not among this program's presets.
            Preset::Paper | Preset::PaperKinetics => Recipe::paper()?,
        };
        self.options.set_net(&mut r.visual)?;
        self.options.apply(&mut r.training);
        set(&mut r.method.w_vv, self.w_vv);
        set(&mut r.method.w_mm, self.w_mm);
        set(&mut r.method.w_vm, self.w_vm);
        set(&mut r.method.w_mv, self.w_mv);
        set(&mut r.method.w_steps, self.w_steps);
        set(&mut r.method.temperature, self.options.temperature);
        set(&mut r.method.momentum, self.options.ema);
        set(&mut r.method.groups, self.options.bn_groups);
        r.method.shuffle_keys &= !self.options.no_shuffle;
        r.method.symmetric |= self.symmetric;
        r.method.mask_own &= !self.options.keep_own;
        r.method.precision = self.options.precision;
        set(&mut r.method.cross_positive, self.cross_positive);
        let views = &mut r.training.views;
        set(&mut views.motion, self.motion);
        set(&mut views.motion_clamp, self.motion_clamp);
        set(&mut views.motion_frames, self.motion_frames);
        views.tied_crops &= !self.untied_crops;
        set(&mut views.drift, self.drift);
        set(&mut views.tubelets, self.tubelets);
        // MCL's additions are off by default.
        let off = Alignment { weight: 0.0, warm_weight: 0.0, ..Alignment::from_scratch("layer3.0") };
        let mut alignment = r.method.alignment.take().unwrap_or(off);
        self.focus.apply(&mut views.focus, &mut alignment)?;
        r.method.alignment = Some(alignment).filter(Alignment::is_on);
        r.init = init_file(self.options.init.as_deref())?;
        if let (Some(kernel), Some(stem)) = (self.motion_stem, r.motion.stem.first_mut()) {
            stem.kernel = kernel;
        }
        r.motion = r.motion_net();
        r.check()?;
        r.with_target().context("--align-module")
    }
}

fn main() -> ExitCode {
    support::args::program(|| run(&presets::parse(&presets())))
}

fn run(args: &Args) -> Result<()> {
    let on = args.options.common.start_ranks()?;
    let recipe = args.recipe()?;
    let with_motion = recipe.method.uses_motion();
    recipe.check_init().context("--init")?;
    let networks = [("RGB", &recipe.visual), ("motion", &recipe.motion)];
    let job = Job {
        example: "pretrain_maclr",
        recipe: &recipe,
        training: &recipe.training,
        keys: 1,
        masked: recipe.method.mask_own,
        clips: if with_motion { 4 } else { 2 },
        groups: recipe.method.groups,
        alignment: recipe.method.alignment.as_ref(),
        init_head: None,
        networks: &networks[..if with_motion { 2 } else { 1 }],
        motion: [with_motion, false],
        motion_clips: with_motion,
    };
    let Some(run) = Run::open(&args.options, on, &job)? else { return Ok(()) };
    let queue = run.queue(1, recipe.method.mask_own)?;
    let method = MaclrRun::new(&recipe, run.videos(), args.options.seed, &run.device)?;
    let mut method = method.over(run.ranks.all.clone(), &recipe)?.recomputing(args.options.running.recompute);
    if args.options.running.graph {
        method = method.recorded();
    }
    say_inflated(method.inflated());
    // A resumed run is restored later: here the network has its initial weights.
    let is_first = run.ranks.is_first();
    let scene = if is_first { Scene::before(&run, method.kept())? } else { None };
    // When nothing else can prevent the run from starting: a run that is refused leaves nothing.
    if is_first {
        draw_sheet(&run.out.join("sheet.png"), &run.train, &run.splits.train)?;
    }
    let train = fed_to(&run.device, &run.train);
    let load = Arc::new(move |epoch, video, clips| train.pair_of(epoch, video, clips));
    let Some(done) = run.pretrain(&mut method, load, &recipe.networks())? else { return Ok(()) };
    let [first, last] = run.first_and_last("loss_align")?;
    let mut summary = run.summary("maclr", 2, queue, &done);
    summary.set("alignment_first", first).set("alignment_last", last);
    if let Some(scene) = scene {
        scene.after(&run, method.kept(), &mut summary)?;
    }
    run.finish(summary, &done)
}
