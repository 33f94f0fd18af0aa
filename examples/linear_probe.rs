//! Accuracy of a linear classifier on frozen features: of a pre-trained network, or of one with random weights.
//!
//! `cargo run --release --example linear_probe -- --init runs/pretrain_maclr` evaluates the default run.

mod support;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::process::ExitCode;
use support::args::within;
use support::checks::classes_can_be_tested;
use support::classified::{self, Groups};
use support::evaluate::{Options, Task};
use support::evaluation::{Evaluation, go_on};
use support::output::{say, warn};
use support::progress::Progress;
use support::protocol::{Classifier, PoolOption, Protocol, ProtocolOption};
use tubelet::eval::penalty::{Tried, best, try_penalties};
use tubelet::eval::scores::Scores;
use tubelet::eval::sgd::{Layer, Sgd, sgd_while};
use tubelet::eval::views::Views;
use tubelet::eval::{Features, GoOn, Pool, probe::probe_while, svm::svm_while};
use tubelet::files::fnv1a;
use tubelet::train::limits;

/// Train a linear classifier on the features of a frozen network, and score it on held-out videos.
///
/// Features are computed once: gradient descent, too, is trained on stored features of the training views, not on new
/// random crops in each pass. An interrupted evaluation begins again with the decoded frames of the cache, and gives
/// the same figures.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
struct Args {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    protocol: ProtocolOption,
    #[command(flatten)]
    pool: PoolOption,
    /// Classifier [default: the preset's; small: logistic]
    #[arg(long, value_enum)]
    classifier: Option<Classifier>,
    /// Weight of the logistic regression's penalty, as in the pre-training examples. Of several, separated by commas, one is
    /// chosen on training videos: each source (--groups) is left out in turn [default: 0.03]
    #[arg(long, value_delimiter = ',', value_parser = within::<f64>(limits::L2))]
    l2: Vec<f64>,
    /// Penalty of the support vector machine's errors [default: 1]
    #[arg(long, value_parser = within::<f64>(limits::C))]
    c: Option<f64>,
    /// Rate of the first step of gradient descent [default: the preset's]
    #[arg(long, value_parser = within::<f64>(limits::LR))]
    lr: Option<f64>,
    /// Passes of gradient descent over the videos [default: the preset's]
    #[arg(long, value_parser = within::<u64>(limits::EPOCHS))]
    epochs: Option<u64>,
    /// Videos per step of gradient descent [default: the preset's]
    #[arg(long, value_parser = within::<usize>(limits::BATCH))]
    batch: Option<usize>,
    #[command(flatten)]
    groups: Groups,
}

fn main() -> ExitCode {
    support::args::program(|| run(&Args::parse()))
}

impl Args {
    /// The protocol with the given options.
    fn chosen(&self, preset: Protocol) -> Result<Protocol> {
        let mut p = preset;
        p.classifier = self.classifier.unwrap_or(p.classifier);
        p.lr = self.lr.unwrap_or(p.lr);
        p.epochs = self.epochs.unwrap_or(p.epochs);
        p.batch = self.batch.unwrap_or(p.batch);
        p.sampling.pool = self.pool.pool;
        ensure!(
            p.sampling.pool == Pool::Mean || p.classifier != Classifier::Sgd || p.sampling.unit,
            "--pool {}: --preset {} trains a classifier on single clips, and takes their mean alone",
            p.sampling.pool.name(),
            p.sampling.preset
        );
        for (option, given, of) in [
            ("--l2", !self.l2.is_empty(), Classifier::Logistic),
            ("--c", self.c.is_some(), Classifier::Svm),
            ("--lr", self.lr.is_some(), Classifier::Sgd),
            ("--epochs", self.epochs.is_some(), Classifier::Sgd),
            ("--batch", self.batch.is_some(), Classifier::Sgd),
        ] {
            let (taken, of) = (p.classifier == of, of.name());
            ensure!(!given || taken, "{option} is an option of --classifier {of}, and this is {}", p.classifier.name());
        }
        Ok(p)
    }

    fn l2(&self) -> &[f64] {
        if self.l2.is_empty() { &[0.03] } else { &self.l2 }
    }

    fn c(&self) -> f64 {
        self.c.unwrap_or(1.0)
    }

    /// The settings of the classifier.
    fn settings(&self, p: &Protocol) -> Map<String, Value> {
        let more = match p.classifier {
            Classifier::Logistic => match self.l2() {
                [one] => json!({"--l2": one}),
                several => json!({"--l2": several}),
            },
            Classifier::Svm => json!({"--c": self.c()}),
            Classifier::Sgd => json!({"--lr": p.lr, "--epochs": p.epochs, "--batch": p.batch}),
        };
        let mut all = Map::from_iter([("--classifier".to_owned(), p.classifier.name().into())]);
        all.extend(more.as_object().cloned().unwrap_or_default());
        all
    }
}

fn run(args: &Args) -> Result<()> {
    let options = &args.options;
    let on = options.common.start_ranks()?;
    let protocol = args.chosen(args.protocol.preset.protocol())?;
    let prepared = options.prepare_on(on, protocol.sampling.clone())?;
    let splits = options.videos.labelled(options.seed)?;
    classes_can_be_tested(&splits, 0..splits.train.len(), 0..splits.test.len())?;
    let groups = args.groups.of(&splits.test)?;
    let several = protocol.classifier == Classifier::Logistic && args.l2().len() > 1;
    let sources = several.then(|| args.groups.of_training(&splits.train)).transpose()?;
    let mut settings = args.settings(&protocol);
    if let Some(sources) = &sources {
        // They decide which penalty is taken.
        let bytes: Vec<u8> = sources.iter().flat_map(|source| (*source as u64).to_le_bytes()).collect();
        settings.insert("--groups.hash".to_owned(), format!("{:016x}", fnv1a(&bytes)).into());
    }
    let task = Task {
        program: "linear_probe",
        data: vec![splits.train.clone(), splits.test.clone()],
        layout: splits.layout.clone(),
        settings,
        plan: Vec::new(),
    };
    let Some(mut run) = prepared.open(options, task)? else { return Ok(()) };
    let [train, test] = [0, 1].map(|i| run.parts[i].loader.videos.clone());
    classes_can_be_tested(&splits, train.iter().copied(), test.iter().copied())?;
    let sources: Option<Vec<usize>> = sources.map(|all| train.iter().map(|&i| all[i]).collect());
    let classified = classify(args, &protocol, &mut run, sources.as_deref())?;
    let Some(Classified { classes, scores, l2 }) = classified else { return Ok(()) };
    let groups = groups.map(|all| all.keep(&test));
    let mut summary = run.summary();
    summary
        .set("classifier", protocol.classifier.name())
        .set("pool", protocol.sampling.pool.name())
        .set("l2", l2)
        .set("ranks", run.ranks.world.size);
    classified::write(&run, summary, &classes, &scores, groups.as_ref())
}

/// A trained classifier.
struct Classified {
    /// The labels of its classes.
    classes: Vec<usize>,
    /// Figures, in which classes are places among these.
    scores: Scores,
    /// The penalty of a logistic regression.
    l2: Option<f64>,
}

/// Trains the classifier and scores it. All ranks compute features; the first alone trains, and has a result. `sources` are those
/// of the training videos, where the penalty is to be chosen.
fn classify(args: &Args, p: &Protocol, run: &mut Evaluation, sources: Option<&[usize]>) -> Result<Option<Classified>> {
    let how = Sgd { lr: p.lr, epochs: p.epochs, batch: p.batch, seed: args.options.seed };
    let go_on = go_on(run.stop.clone(), &run.out);
    if p.classifier == Classifier::Sgd && !p.sampling.unit {
        return by_views(run, &how, &go_on);
    }
    let parts = [run.features(0)?, run.features(1)?];
    run.ranks.on_first(&run.stop, || of_features(args, p, &how, parts, sources, &go_on))
}

/// Trains the classifier on the features of the training videos and scores it on those of the test videos.
fn of_features(
    args: &Args,
    p: &Protocol,
    how: &Sgd,
    [train, test]: [Features; 2],
    sources: Option<&[usize]>,
    go_on: GoOn,
) -> Result<Classified> {
    let unfinished = |done: bool| {
        if !done {
            warn("the classifier did not reach its minimum: rounding or the number of iterations ended the search");
        }
    };
    let (classes, scores, l2) = match p.classifier {
        Classifier::Logistic => {
            let l2 = match sources {
                None => args.l2()[0],
                Some(sources) => chosen(&train, sources, args.l2(), go_on)?,
            };
            let result = probe_while(&train, &test, l2, go_on)?;
            unfinished(result.converged);
            (result.classes, result.scores, Some(l2))
        }
        Classifier::Svm => {
            let result = svm_while(&train, &test, args.c(), go_on)?;
            unfinished(result.converged);
            (result.classes, result.scores, None)
        }
        Classifier::Sgd => {
            let layer = descend(&train, 1, how, go_on)?;
            let rows = test.values().chunks_exact(test.d());
            let scores: Vec<f64> = rows.flat_map(|row| layer.scores(row)).collect();
            let figures = figures(&layer, &scores, test.labels())?;
            (layer.classes, figures, None)
        }
    };
    Ok(Classified { classes, scores, l2 })
}

/// The penalty of several that reaches most on sources that are left out.
fn chosen(train: &Features, sources: &[usize], penalties: &[f64], go_on: GoOn) -> Result<f64> {
    let apart: BTreeSet<usize> = sources.iter().copied().collect();
    let bar = Progress::new("choosing --l2", "sources", (apart.len() * penalties.len()) as u64, 0);
    let tried = try_penalties(train, sources, penalties, go_on, &|| bar.inc(1));
    bar.finish();
    let tried = tried.context("--l2 and --groups")?;
    let of = |t: &Tried| format!("{} {:.3}", t.l2, t.mean_class);
    let best = best(&tried).context("--l2: no penalty was tried")?;
    say(format_args!(
        "mean accuracy of classes on sources that are left out, by --l2: {}; {} is taken",
        tried.iter().map(of).collect::<Vec<_>>().join(", "),
        best.l2
    ));
    Ok(best.l2)
}

/// Gradient descent on the features of the clips' middle squares; a test video's score is the mean of the probabilities
/// of all its views (`docs/papers/maclr.md` section 6).
fn by_views(run: &mut Evaluation, how: &Sgd, go_on: GoOn) -> Result<Option<Classified>> {
    let middle = Views { crops: 1, ..run.views };
    let labels: Vec<usize> = run.parts[0].labels().into_iter().flat_map(|l| vec![l; middle.count()]).collect();
    let mut rows = Vec::with_capacity(labels.len() * run.row_len());
    run.each_view(0, middle, &mut |_, _, row| {
        rows.extend_from_slice(row);
        Ok(())
    })?;
    let train = Features::new(run.row_len(), rows, labels)?;
    let layer = run.ranks.on_first(&run.stop, || descend(&train, middle.count(), how, go_on))?;
    let (labels, all) = (run.parts[1].labels(), run.views);
    let c = layer.as_ref().map_or(0, |layer| layer.classes.len());
    let mut scores = vec![0.0; labels.len() * c];
    run.each_view(1, all, &mut |video, _, row| {
        let Some(layer) = &layer else { return Ok(()) };
        let own = &mut scores[video * c..][..c];
        own.iter_mut().zip(layer.probabilities(row)).for_each(|(s, p)| *s += p / all.count() as f64);
        Ok(())
    })?;
    let Some(layer) = layer else { return Ok(None) };
    let figures = figures(&layer, &scores, &labels)?;
    Ok(Some(Classified { classes: layer.classes, scores: figures, l2: None }))
}

fn descend(train: &Features, rows: usize, how: &Sgd, go_on: GoOn) -> Result<Layer> {
    let layer = sgd_while(train, rows, how, go_on).context("--lr, --epochs and --batch")?;
    say(format_args!("gradient descent: loss {:.4} over the last pass", layer.loss));
    Ok(layer)
}

/// The figures of scores `[n c]`.
fn figures(layer: &Layer, scores: &[f64], labels: &[usize]) -> Result<Scores> {
    let places = labels.iter().filter_map(|label| layer.classes.binary_search(label).ok());
    Ok(Scores::new(scores, &places.collect::<Vec<_>>(), layer.classes.len())?)
}
