//! Pre-trains a video network without labels with MCL, from video files (or procedural clips) to an evaluated
//! representation.
//!
//! `cargo run --release --example pretrain_mcl` needs no other options; `--data DIR` trains on real videos.

mod support;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::process::ExitCode;
use std::sync::Arc;
use support::args::within;
use support::checks::init_file;
use support::focus::draw_focus;
use support::motion::FocusOptions;
use support::options::{Options, Preset, say_inflated, set};
use support::output::warn;
use support::presets::{self, Preset as Values};
use support::pretrain::{Job, Run};
use support::run::fed_to;
use support::saliency;
use support::settings::of_recipe;
use tubelet::train::limits;
use tubelet::train::mcl::{KEYS, MclRun, Recipe};
use tubelet::weights::ImageHead;

/// Pre-train on videos without labels (MCL), then evaluate the features with a linear probe.
///
/// Options without a stated default take it from the preset.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
struct Args {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    focus: FocusOptions,

    /// With --init: initialise the inter head from the file's projection head
    #[arg(long)]
    init_head: bool,

    /// Weight of the inter loss (against other videos)
    #[arg(long, value_parser = within::<f32>(limits::W_INTER))]
    w_inter: Option<f32>,
    /// Weight of the intra loss (against other clips of the video)
    #[arg(long, value_parser = within::<f32>(limits::W_INTRA))]
    w_intra: Option<f32>,
    /// Weight of the order loss at the end of the run; it increases from 0
    #[arg(long, value_parser = within::<f32>(limits::W_ORDER))]
    w_order: Option<f32>,
    /// Normalise the query network by running statistics, which then never change
    #[arg(long)]
    frozen_norm: bool,
}

/// What the presets set, for `--help`.
fn presets() -> Vec<Values> {
    let all = [
        (Preset::Tiny, Recipe::tiny()),
        (Preset::Small, Recipe::small()),
        (Preset::Long, Recipe::long()),
        (Preset::Paper, Recipe::paper()),
        (Preset::PaperKinetics, Recipe::paper_kinetics()),
    ];
    all.into_iter().filter_map(|(preset, recipe)| Some((preset.name(), of_recipe(&recipe).ok()?))).collect()
}

impl Args {
    fn recipe(&self) -> Result<Recipe> {
        let mut r = match self.options.preset() {
            Preset::Tiny => Recipe::tiny(),
            Preset::Small => Recipe::small(),
            Preset::Long => Recipe::long(),
            Preset::Paper => Recipe::paper(),
            Preset::PaperKinetics => Recipe::paper_kinetics(),
        };
        self.options.set_net(&mut r.net)?;
        self.options.apply(&mut r.training);
        self.focus.apply(&mut r.training.views.focus, &mut r.method.alignment)?;
        set(&mut r.method.w_inter, self.w_inter);
        set(&mut r.method.w_intra, self.w_intra);
        set(&mut r.method.w_order, self.w_order);
        set(&mut r.method.temperature, self.options.temperature);
        set(&mut r.method.temperature_intra, self.options.temperature);
        set(&mut r.method.momentum, self.options.ema);
        set(&mut r.method.groups, self.options.bn_groups);
        r.method.shuffle_keys &= !self.options.no_shuffle;
        r.method.mask_own &= !self.options.keep_own;
        r.method.frozen_norm |= self.frozen_norm;
        r.method.precision = self.options.precision;
        let init = self.options.init.is_some();
        ensure!(init || !self.init_head, "--init-head takes the head of the file of --init, which is absent");
        let head = if self.init_head { ImageHead::Inter } else { ImageHead::Dropped };
        r.init = init_file(self.options.init.as_deref())?.map(|path| (path, head));
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
    recipe.method.warnings().iter().for_each(warn);
    let focus = &recipe.training.views.focus;
    recipe.check_init().context("--init")?;
    let job = Job {
        example: "pretrain_mcl",
        recipe: &recipe,
        training: &recipe.training,
        keys: KEYS,
        masked: recipe.method.mask_own,
        clips: 1 + KEYS,
        groups: recipe.method.groups,
        alignment: Some(&recipe.method.alignment),
        init_head: Some(args.init_head),
        networks: &[("RGB", &recipe.net)],
        motion: [focus.needs_flow() || recipe.training.views.background_swap > 0.0; 2],
        motion_clips: false,
    };
    let Some(run) = Run::open(&args.options, on, &job)? else { return Ok(()) };
    let queue = run.queue(KEYS, recipe.method.mask_own)?;
    let method = MclRun::new(&recipe, run.videos(), args.options.seed, &run.device)?;
    let mut method = method.over(run.ranks.all.clone(), &recipe)?.recomputing(args.options.running.recompute);
    if args.options.running.graph {
        method = method.recorded();
    }
    say_inflated(method.inflated());
    // A resumed run is restored later: here the network has its initial weights.
    let is_first = run.ranks.is_first();
    let before = if is_first { saliency::look(&method, &run.test, &run.splits.test)? } else { None };
    // When nothing else can prevent the run from starting: a run that is refused leaves nothing.
    if focus.needs_maps() && is_first {
        draw_focus(&run.out.join("focus.png"), &run.train, &run.splits.train)?;
    }
    let train = fed_to(&run.device, &run.train);
    let load = Arc::new(move |epoch, video, clips| train.quad_of(epoch, video, clips));
    let Some(done) = run.pretrain(&mut method, load, &recipe.networks())? else { return Ok(()) };
    let after = saliency::look(&method, &run.test, &run.splits.test)?;
    let mut summary = run.summary("mcl", 1 + KEYS as u64, queue, &done);
    if let (Some(before), Some(after)) = (before, after) {
        saliency::draw(&run.out.join("saliency.png"), &before, &after, &run.test, &run.splits.test)?;
        summary
            .set(&run.before("overlap"), before.cosine)
            .set("overlap", after.cosine)
            .set(&run.before("overlap_correlation"), before.correlation)
            .set("overlap_correlation", after.correlation);
    }
    let [first, last] = run.first_and_last("loss_align")?;
    summary.set("alignment_first", first).set("alignment_last", last);
    run.finish(summary, &done)
}
