//! Trains a network with labels: fine-tunes a pre-trained one, or trains it from random weights, and tests it.
//!
//! `cargo run --release --example finetune -- --init runs/pretrain_maclr` fine-tunes the default run.

mod support;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};
use std::process::ExitCode;
use std::sync::Arc;
use support::args::{one_of, within};
use support::checks::{check_memory, classes_can_be_tested, earlier_epochs, warn_of_few_steps};
use support::classified::{self, Groups};
use support::evaluate::{Options, Prepared, Task};
use support::evaluation::Evaluation;
use support::options::set;
use support::output::{count, say, warn};
use support::protocol::{IMAGENET, MACLR, MCL, Sampling};
use support::ranks::{RANKS, WIRES};
use support::run::Show;
use support::settings::{EARLIER, FREE, OPTIONS, identity, of_recipe, path};
use support::summary::Summary;
use tubelet::augment::rand_augment::RandAugment;
use tubelet::dist::sum::Wire;
use tubelet::eval::Pool;
use tubelet::eval::scores::Scores;
use tubelet::eval::views::{Frozen, Score, Views};
use tubelet::train::checkpoint::newest_intact;
use tubelet::train::finetune::{Finetune, Labelled, Recipe, keep_share};
use tubelet::train::folder::{Folder, write_atomic};
use tubelet::train::limits;
use tubelet::train::pretrain::{Load, Outcome, Settings, check_run, pretrain, steps_per_epoch};
use tubelet::train::views::{Loader, ViewSpec};
use tubelet::video::Splits;
use tubelet::weights::NETWORKS;

/// Train a network with a linear classifier on labelled videos, and score it on held-out videos.
///
/// The network starts from --init, or from random weights without it. A run goes on where it was interrupted, with the
/// same bits. Options without a stated default take it from the preset.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Recipe: clips, augmentation, schedule and test
    #[arg(long, value_enum, default_value_t = Preset::Small)]
    preset: Preset,
    /// Take the architecture and the clips of --init, but random weights: the supervised reference
    #[arg(long, requires = "init")]
    from_scratch: bool,
    /// Train the classifier alone, on the frozen trunk: a linear probe with new random clips in each pass
    #[arg(long)]
    frozen: bool,
    /// Share of the training videos of each class that are used, at least one of each; a smaller share is a part of a
    /// larger one of the same --seed
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = within::<f64>(limits::LABELS))]
    labels: f64,
    /// Passes over the training videos
    #[arg(long, value_parser = within::<u64>(limits::EPOCHS))]
    epochs: Option<u64>,
    /// Videos per step
    #[arg(long, value_parser = within::<usize>(limits::BATCH))]
    batch: Option<usize>,
    /// Videos that pass through the network at once; gradients are added until --batch is reached
    #[arg(long, value_parser = within::<usize>(limits::MICRO_BATCH))]
    micro_batch: Option<usize>,
    /// Parts of a step whose gradients are added apart, each of one or more micro-batches: N of them have the bits of N ranks
    #[arg(long, value_name = "N", value_parser = within::<usize>(limits::ACCUMULATE))]
    accumulate: Option<usize>,
    /// How gradients travel between ranks: as f32, or rounded to bf16, which is half of the bytes
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = one_of(WIRES))]
    wire: Wire,
    /// Learning rate after the warm-up
    #[arg(long, value_parser = within::<f32>(limits::LR))]
    lr: Option<f32>,
    /// Epochs of linear warm-up
    #[arg(long, value_parser = within::<f64>(limits::WARMUP_EPOCHS))]
    warmup_epochs: Option<f64>,
    /// Weight decay (none on normalisations)
    #[arg(long, value_parser = within::<f32>(limits::WEIGHT_DECAY))]
    weight_decay: Option<f32>,
    /// Share of the features that are dropped before the classifier
    #[arg(long, value_parser = within::<f32>(limits::DROPOUT))]
    dropout: Option<f32>,
    /// Largest norm of the gradient; a longer one is scaled to it
    #[arg(long, value_parser = within::<f32>(limits::CLIP_NORM))]
    clip_norm: Option<f32>,
    /// Batches from which running statistics are computed anew at the end; 0 for none
    #[arg(long, value_parser = within::<usize>(limits::PRECISE_BN))]
    precise_bn: Option<usize>,
    /// Never flip clips: for data in which direction matters (always so for procedural clips)
    #[arg(long)]
    no_flip: bool,
    #[command(flatten)]
    groups: Groups,
}

/// Recipes (`--preset`). The table with their sources is in `docs/evaluation.md`.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Preset {
    /// A few hundred videos, minutes on two cores, with the clips of the network's own training
    Small,
    /// MaCLR's fine-tuning on UCF101: 32 frames 8 apart, batch 64, rate 0.01, 200 passes, 10 clips x 3 crops
    MaclrUcf101,
    /// MaCLR's linear evaluation on UCF101: the classifier alone, batch 256, rate 32, 200 passes
    MaclrUcf101Linear,
    /// MCL's on UCF101: 32 frames 2 apart, batch 256, dropout 0.9, RandAugment, 150 passes, 20 clips x 3 crops
    MclUcf101,
    /// MCL's on HMDB51: the same with another RandAugment
    MclHmdb51,
    /// Something-Something v2: a frame from each of 16 segments, no flip, rate 0.12, 22 passes with drops at 14 and 18
    Ssv2,
}

/// How a preset tests.
struct Test {
    score: Score,
    /// Whether the classifier is applied to each place of a map that is larger than in training.
    everywhere: bool,
}

impl Preset {
    fn recipe(self) -> Recipe {
        match self {
            Preset::Small => Recipe::small(),
            Preset::MaclrUcf101 => Recipe::maclr_ucf101(),
            Preset::MaclrUcf101Linear => Recipe::maclr_ucf101_linear(),
            Preset::MclUcf101 => Recipe::mcl(RandAugment { count: 1, magnitude: 23.0 }),
            Preset::MclHmdb51 => Recipe::mcl(RandAugment { count: 3, magnitude: 17.0 }),
            Preset::Ssv2 => Recipe::ssv2(),
        }
    }

    /// What is seen of a test video.
    fn sampling(self) -> Sampling {
        let preset = self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let recipe = self.recipe().views;
        let clip = |side| Some([recipe.frames, recipe.stride, side]);
        let views = |clips, crops| Some(Views { clips, crops });
        let network = None;
        let all = Sampling {
            preset,
            network,
            clip: None,
            views: None,
            segments: recipe.segments,
            colours: None,
            unit: false,
            pool: Pool::Mean,
        };
        let maclr = Sampling { network: Some(MACLR), ..all.clone() };
        match self {
            Preset::Small => all,
            Preset::MaclrUcf101 | Preset::MaclrUcf101Linear => {
                Sampling { clip: clip(256), views: views(10, 3), ..maclr }
            }
            Preset::MclUcf101 | Preset::MclHmdb51 => {
                let (clip, views, colours) = (clip(256), views(20, 3), Some(IMAGENET));
                Sampling { network: Some(MCL), clip, views, colours, ..all }
            }
            Preset::Ssv2 => Sampling { clip: clip(recipe.side), views: views(1, 1), ..maclr },
        }
    }

    fn test(self) -> Test {
        match self {
            Preset::MclUcf101 | Preset::MclHmdb51 => Test { score: Score::Logit, everywhere: false },
            Preset::Small => Test { score: Score::Probability, everywhere: false },
            _ => Test { score: Score::Probability, everywhere: true },
        }
    }
}

fn main() -> ExitCode {
    support::args::program(|| run(&Args::parse()))
}

impl Args {
    /// The recipe with the given options, for the clips that are tested.
    fn recipe(&self, prepared: &Prepared) -> Result<Recipe> {
        let (mut r, test) = (self.preset.recipe(), &prepared.spec);
        // Published recipes train on smaller squares than they test on, unless --side says a size for both.
        let side = if self.preset.sampling().clip.map(|[.., side]| side) == Some(test.side) {
            r.views.side
        } else {
            test.side
        };
        let mut augment = r.views.augment.clone();
        (augment.mean, augment.std) = (test.augment.mean, test.augment.std);
        if self.no_flip || self.options.videos.procedural() {
            augment.flip = 0.0;
        }
        r.views = ViewSpec { side, augment, ..test.clone() };
        set(&mut r.epochs, self.epochs);
        set(&mut r.batch, self.batch);
        set(&mut r.accumulate, self.accumulate);
        r.wire = self.wire;
        let ranks = &prepared.ranks;
        // Every part of a step has whole micro-batches.
        let part = (r.batch / (ranks.world.size * r.accumulate)).max(1);
        r.micro_batch = self.micro_batch.unwrap_or(r.micro_batch.min(part));
        set(&mut r.lr, self.lr);
        set(&mut r.warmup_epochs, self.warmup_epochs);
        set(&mut r.sgd.weight_decay, self.weight_decay);
        set(&mut r.dropout, self.dropout);
        r.clip_norm = self.clip_norm.or(r.clip_norm);
        set(&mut r.precise_bn, self.precise_bn);
        r.frozen |= self.frozen;
        r.precision = self.options.precision;
        r.division(ranks.all.clone())?;
        r.check(&prepared.network.net)?;
        if r.warmup_epochs > r.epochs as f64 {
            warn(format_args!(
                "the warm-up (--warmup-epochs {}) is longer than the run (--epochs {})",
                r.warmup_epochs, r.epochs
            ));
        }
        Ok(r)
    }

    /// The settings of training, by the options' names.
    fn settings(&self, recipe: &Recipe) -> Result<Map<String, Value>> {
        let named = |(name, value): (String, Value)| match name.contains('.') {
            true => {
                let place = format!("training.{name}");
                let option = OPTIONS.iter().find(|(of, _)| *of == place).map(|(_, option)| (*option).to_owned());
                (option.unwrap_or(place), value)
            }
            false => (format!("--{}", name.replace('_', "-")), value),
        };
        let mut all: Map<String, Value> = of_recipe(recipe)?.into_iter().map(named).collect();
        all.insert("--from-scratch".to_owned(), self.from_scratch.into());
        all.insert("--labels".to_owned(), self.labels.to_string().into());
        all.insert(EARLIER.to_owned(), Value::Array(Vec::new()));
        Ok(all)
    }
}

fn run(args: &Args) -> Result<()> {
    let options = &args.options;
    let on = options.common.start_ranks()?;
    let mut prepared = options.prepare_on(on, args.preset.sampling())?;
    if args.from_scratch {
        prepared.network.forget(options.seed);
    }
    keep_start(options, &mut prepared)?;
    let recipe = args.recipe(&prepared)?;
    let world = &prepared.ranks.world;
    check_memory(&recipe.views, recipe.batch / world.size * world.local_size, 1)?;
    let mut settings = args.settings(&recipe)?;
    settings.insert(RANKS.to_owned(), world.size.into());
    let mut splits = options.videos.labelled(options.seed)?;
    keep_share(&mut splits.train, args.labels, options.seed);
    let steps = steps_per_epoch(splits.train.len(), recipe.batch)?.saturating_mul(recipe.epochs);
    classes_can_be_tested(&splits, 0..splits.train.len(), 0..splits.test.len())?;
    let groups = args.groups.of(&splits.test)?;
    warn_of_few_steps(recipe.epochs, steps);
    let training = format!(
        "{} over {}: {steps} steps of {}, rate {}{}",
        count(usize::try_from(recipe.epochs)?, "pass", "passes"),
        count(splits.train.len(), "labelled video", "labelled videos"),
        recipe.batch,
        recipe.lr,
        if recipe.frozen { ", the classifier alone" } else { "" }
    );
    let task = Task {
        program: "finetune",
        data: vec![splits.train.clone(), splits.test.clone()],
        layout: splits.layout.clone(),
        settings,
        plan: vec![("training", training)],
    };
    let Some(mut run) = prepared.begin(options, task)? else { return Ok(()) };
    let (done, network) = train(args, &recipe, &mut run, &splits)?;
    run.network = network;
    let test = run.features(1)?;
    if !run.ranks.is_first() {
        return Ok(());
    }
    let values: Vec<f64> = test.values().iter().map(|v| f64::from(*v)).collect();
    let classes: Vec<usize> = (0..splits.train.classes.len()).collect();
    let scores = Scores::new(&values, test.labels(), classes.len())?;
    let groups = groups.map(|all| all.keep(&run.parts[1].loader.videos));
    let mut summary = run.summary();
    if args.from_scratch {
        summary.set("init", "random");
    }
    summary
        .set("labels", args.labels)
        .set("frozen", recipe.frozen)
        .set("epochs", recipe.epochs)
        .set("steps", done.steps)
        .set("batch", recipe.batch)
        .set("ranks", run.ranks.world.size)
        .set("accumulate", recipe.accumulate)
        .set("bytes_sent_per_step", done.sent_per_step)
        .set("train_seconds", done.train_seconds)
        .set("loss_first", done.loss_first)
        .set("loss_last", done.loss_last);
    classified::write(&run, summary, &classes, &scores, groups.as_ref())
}

/// A run that has a checkpoint goes on from that, so it does not matter if the run that `--init` names has newer weights
/// since.
fn keep_start(options: &Options, prepared: &mut Prepared) -> Result<()> {
    let out = options.common.out("finetune");
    let Some(begun) = Folder::settings(&out).context("--out")? else { return Ok(()) };
    let same = begun[Folder::PATHS]["--init"] == path(options.init.as_deref());
    let (Some(before), Some(now)) = (begun["init.checksum"].as_str(), &mut prepared.network.checksum) else {
        return Ok(());
    };
    if same && now != before && newest_intact(&out.join("checkpoints")).context("--out")?.is_some() {
        say("--init has other weights than when this run began: it goes on from its own checkpoint");
        before.clone_into(now);
    }
    Ok(())
}

/// Trains, from the folder's checkpoint if there is one; returns the network that is tested.
fn train(args: &Args, recipe: &Recipe, run: &mut Evaluation, splits: &Splits) -> Result<(Outcome, Frozen)> {
    let (seed, classes) = (args.options.seed, splits.train.classes.len());
    let [train, test] = [0, 1].map(|i| run.parts[i].loader.videos.clone());
    let per_epoch = steps_per_epoch(train.len(), recipe.batch)?;
    classes_can_be_tested(splits, train.iter().copied(), test.into_iter())?;
    let (ranks, is_first) = (run.ranks.clone(), run.ranks.is_first());
    if run.again {
        ranks.say_division(&run.out, recipe.accumulate, ["part", "parts"])?;
    }
    let earlier = earlier_epochs(&run.out, recipe.epochs, per_epoch)?;
    run.settings[EARLIER] = serde_json::to_value(&earlier)?;
    ranks.agree_on_videos(&run.settings)?;
    let labels: Vec<u32> = run.parts[0].labels().into_iter().map(u32::try_from).collect::<Result<_, _>>()?;
    let loader = Loader { spec: recipe.views.clone(), ..run.parts[0].loader.clone() };
    let of = recipe.clone();
    let load: Arc<Load<Labelled>> = Arc::new(move |epoch, video, _| of.clip(&loader, epoch, video, labels[video]));
    let (net, trunk) = (&run.start.net, &run.start.params);
    let method = Finetune::new(recipe, net, trunk, classes, (load.clone(), train.len()), seed, &run.device)?;
    let mut method = method.over(ranks.all.clone())?;
    let how = Settings {
        run: identity(&run.settings),
        seed,
        epochs: recipe.epochs,
        batch: recipe.batch,
        schedule: recipe.schedule(per_epoch),
        earlier,
        sgd: recipe.sgd,
        workers: rayon::current_num_threads(),
        probe_every: 0,
        trace: None,
    };
    check_run(&run.out, &how).context("--out")?;
    if is_first {
        run.settle(&FREE)?;
        Summary::set_aside(&run.out, recipe.epochs)?;
        let networks = serde_json::to_value(Recipe::networks(net, &splits.train.classes, &recipe.views))?;
        write_atomic(&run.out.join(NETWORKS), format!("{networks:#}\n").as_bytes())?;
        write_atomic(&run.out.join("classes.txt"), format!("{}\n", splits.train.classes.join("\n")).as_bytes())?;
    }
    let mut show = Show::new(run.out.clone(), per_epoch * recipe.epochs, "");
    let done = pretrain(&mut method, load, train.len(), None, &run.folder, &how, &run.stop, &mut show);
    let done = done.inspect_err(|e| ranks.all_stop(e))?;
    if is_first {
        show.curves(None);
    }
    if done.trained == 0 {
        say("all steps of this run had been taken before: nothing was trained now");
    }
    let test = args.preset.test();
    let [[t, h, w, _], _] = recipe.views.dims();
    let grids = run.start.trunk.grids(trunk, [t, h, w])?;
    let last = grids.last().map(|grid| [grid.extents[1], grid.extents[2]]).filter(|_| test.everywhere);
    Ok((done, Frozen::classifier(method.network(), classes, test.score, last, recipe.precision)))
}
