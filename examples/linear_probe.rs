//! Accuracy of a linear classifier on frozen features: of a pre-trained network, or of one with random weights.
//!
//! `cargo run --release --example linear_probe -- --init runs/pretrain_maclr` evaluates the default run.

mod support;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use support::args::within;
use support::checks::classes_can_be_tested;
use support::confusion;
use support::evaluate::Options;
use support::evaluation::{Evaluation, Part};
use support::output::{say, warn};
use support::protocol::{Classifier, Protocol};
use support::table::Table;
use tubelet::eval::scores::Scores;
use tubelet::eval::sgd::{Layer, Sgd, sgd};
use tubelet::eval::views::Views;
use tubelet::eval::{Features, probe::probe, svm::svm};
use tubelet::train::limits;
use tubelet::video::Dataset;
use tubelet::video::dataset::lines_of_list;

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
    /// Classifier [default: the preset's; small: logistic]
    #[arg(long, value_enum)]
    classifier: Option<Classifier>,
    /// Weight of the logistic regression's penalty, as in the pre-training examples
    #[arg(long, default_value_t = 0.03, value_parser = within::<f64>(limits::L2))]
    l2: f64,
    /// Penalty of the support vector machine's errors
    #[arg(long, default_value_t = 1.0, value_parser = within::<f64>(limits::C))]
    c: f64,
    /// Rate of the first step of gradient descent [default: the preset's]
    #[arg(long, value_parser = within::<f64>(limits::LR))]
    lr: Option<f64>,
    /// Passes of gradient descent over the videos [default: the preset's]
    #[arg(long, value_parser = within::<u64>(limits::EPOCHS))]
    epochs: Option<u64>,
    /// Videos per step of gradient descent [default: the preset's]
    #[arg(long, value_parser = within::<usize>(limits::BATCH))]
    batch: Option<usize>,
    /// Sources of the test videos, for an interval of accuracy over sources: lines of `name,source`, names as in
    /// predictions.csv [default: the recordings that names of public data sets tell]
    #[arg(long, value_name = "FILE")]
    groups: Option<PathBuf>,
}

fn main() -> ExitCode {
    support::args::end(run(&Args::parse()))
}

impl Args {
    /// The protocol with the given options.
    fn protocol(&self, preset: Protocol) -> Protocol {
        let mut p = preset;
        p.classifier = self.classifier.unwrap_or(p.classifier);
        p.lr = self.lr.unwrap_or(p.lr);
        p.epochs = self.epochs.unwrap_or(p.epochs);
        p.batch = self.batch.unwrap_or(p.batch);
        p
    }

    /// The settings of the classifier.
    fn settings(&self, p: &Protocol) -> Map<String, Value> {
        let more = match p.classifier {
            Classifier::Logistic => json!({"--l2": self.l2}),
            Classifier::Svm => json!({"--c": self.c}),
            Classifier::Sgd => json!({"--lr": p.lr, "--epochs": p.epochs, "--batch": p.batch}),
        };
        let mut all = Map::from_iter([("--classifier".to_owned(), p.classifier.name().into())]);
        all.extend(more.as_object().cloned().unwrap_or_default());
        all
    }
}

fn run(args: &Args) -> Result<()> {
    let options = &args.options;
    let mut prepared = options.prepare()?;
    prepared.protocol = args.protocol(prepared.protocol);
    let splits = options.videos.labelled(options.seed)?;
    classes_can_be_tested(&splits, 0..splits.train.len(), 0..splits.test.len())?;
    let groups = groups(&splits.test, args.groups.as_deref())?;
    let mut settings = args.settings(&prepared.protocol);
    settings.insert("--groups".to_owned(), support::settings::path(args.groups.as_deref()));
    let parts = vec![splits.train.clone(), splits.test.clone()];
    let opened = prepared.open(options, "linear_probe", parts, splits.layout.clone(), settings)?;
    let Some(mut run) = opened else { return Ok(()) };
    let [train, test] = [0, 1].map(|i| run.parts[i].loader.videos.clone());
    classes_can_be_tested(&splits, train.into_iter(), test.iter().copied())?;
    let (classes, scores) = classify(args, &mut run)?;
    let groups = groups.map(|all| test.iter().map(|&i| all[i]).collect::<Vec<usize>>());
    write(&run, &classes, &scores, groups.as_deref())
}

/// Trains the classifier and scores it: the labels of its classes, and figures in which classes are places among these.
fn classify(args: &Args, run: &mut Evaluation) -> Result<(Vec<usize>, Scores)> {
    let p = run.protocol;
    let how = Sgd { lr: p.lr, epochs: p.epochs, batch: p.batch, seed: args.options.seed };
    let unfinished = |done: bool| {
        if !done {
            warn("the classifier did not reach its minimum: rounding or the number of iterations ended the search");
        }
    };
    if p.classifier == Classifier::Sgd && !p.unit {
        return by_views(run, &how);
    }
    let (train, test) = (run.features(0)?, run.features(1)?);
    Ok(match p.classifier {
        Classifier::Logistic => {
            let result = probe(&train, &test, args.l2)?;
            unfinished(result.converged);
            (result.classes, result.scores)
        }
        Classifier::Svm => {
            let result = svm(&train, &test, args.c)?;
            unfinished(result.converged);
            (result.classes, result.scores)
        }
        Classifier::Sgd => {
            let layer = descend(&train, 1, &how)?;
            let rows = test.values().chunks_exact(test.d());
            let scores: Vec<f64> = rows.flat_map(|row| layer.scores(row)).collect();
            let figures = figures(&layer, &scores, test.labels())?;
            (layer.classes, figures)
        }
    })
}

/// Gradient descent on the features of the clips' middle squares; a test video's score is the mean of the probabilities
/// of all its views (`docs/papers/maclr.md` section 6).
fn by_views(run: &mut Evaluation, how: &Sgd) -> Result<(Vec<usize>, Scores)> {
    let middle = Views { crops: 1, ..run.views };
    let labels: Vec<usize> = run.parts[0].labels().into_iter().flat_map(|l| vec![l; middle.count()]).collect();
    let mut rows = Vec::with_capacity(labels.len() * run.dim());
    run.rows(0, middle, &mut |_, _, row| {
        rows.extend_from_slice(row);
        Ok(())
    })?;
    let layer = descend(&Features::new(run.dim(), rows, labels)?, middle.count(), how)?;
    let (labels, c, all) = (run.parts[1].labels(), layer.classes.len(), run.views);
    let mut scores = vec![0.0; labels.len() * c];
    run.rows(1, all, &mut |video, _, row| {
        let own = &mut scores[video * c..][..c];
        own.iter_mut().zip(layer.probabilities(row)).for_each(|(s, p)| *s += p / all.count() as f64);
        Ok(())
    })?;
    let figures = figures(&layer, &scores, &labels)?;
    Ok((layer.classes, figures))
}

fn descend(train: &Features, rows: usize, how: &Sgd) -> Result<Layer> {
    let layer = sgd(train, rows, how).context("--lr, --epochs and --batch")?;
    say(format_args!("gradient descent: loss {:.4} over the last pass", layer.loss));
    Ok(layer)
}

/// The figures of scores `[n c]`.
fn figures(layer: &Layer, scores: &[f64], labels: &[usize]) -> Result<Scores> {
    let places = labels.iter().filter_map(|label| layer.classes.binary_search(label).ok());
    Ok(Scores::new(scores, &places.collect::<Vec<_>>(), layer.classes.len())?)
}

/// The number of the source of each video, if any is known: those of the file, or the recordings by names. A video of
/// which none is known is its own.
fn groups(data: &Dataset, file: Option<&Path>) -> Result<Option<Vec<usize>>> {
    let mut sources = data.recordings();
    if let Some(file) = file {
        let lines = lines_of_list(file).context("--groups")?;
        let pairs: Option<BTreeMap<&str, &str>> = lines.iter().map(|(_, line)| line.rsplit_once(',')).collect();
        let Some(pairs) = pairs else { bail!("--groups {}: a line is `name,source`", file.display()) };
        let source = |name: &str| pairs.get(name).map(|source| (*source).to_owned());
        sources = data.items.iter().map(|item| source(&item.name)).collect();
        let missing = sources.iter().position(Option::is_none);
        if let Some(i) = missing {
            bail!("--groups {}: it has no line of the test video {}", file.display(), data.items[i].name);
        }
    }
    if sources.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let own = |(i, source): (usize, Option<String>)| source.unwrap_or_else(|| format!("\0{i}"));
    let number = |key: String| {
        let next = numbers.len();
        *numbers.entry(key).or_insert(next)
    };
    Ok(Some(sources.into_iter().enumerate().map(own).map(number).collect()))
}

/// Writes the tables, the picture and the summary.
fn write(run: &Evaluation, classes: &[usize], scores: &Scores, groups: Option<&[usize]>) -> Result<()> {
    let (test, confusion) = (&run.parts[1], scores.confusion());
    let names: Vec<&str> = classes.iter().map(|&label| test.data.classes[label].as_str()).collect();
    per_class(&names, scores).write(&run.out.join("per_class.csv"))?;
    predictions(test, &names, scores, groups).write(&run.out.join("predictions.csv"))?;
    let top1 = scores.top(1);
    let title = format!("{:.1} % of {} test videos are classified rightly", 100.0 * top1, test.len());
    confusion::draw(&run.out.join("confusion.png"), &title, &names, &confusion)?;
    let [low, high] = scores.interval(1, None)?;
    let by_group = groups.map(|groups| scores.interval(1, Some(groups))).transpose()?;
    let mut summary = run.summary();
    let count = groups.map(|groups| groups.iter().max().map_or(0, |most| most + 1));
    summary
        .set("classifier", run.protocol.classifier.name())
        .set("videos_train", run.parts[0].len())
        .set("videos_test", test.len())
        .set("classes", names.len())
        .set("top1", top1)
        .set("top5", scores.top(5))
        .set("mean_class", scores.mean_class())
        .set("top1_low", low)
        .set("top1_high", high)
        .set("groups", count)
        .set("top1_group_low", by_group.map(|[low, _]| low))
        .set("top1_group_high", by_group.map(|[_, high]| high));
    summary.finish(&run.out)
}

fn per_class(names: &[&str], scores: &Scores) -> Table {
    let mut table = Table::new(["class", "videos", "right", "accuracy"]);
    for (name, (n, right)) in names.iter().zip(scores.per_class()) {
        let share = if n == 0 { String::new() } else { format!("{:.4}", right as f64 / n as f64) };
        table.row([name, &n.to_string(), &right.to_string(), &share]);
    }
    table
}

fn predictions(test: &Part, names: &[&str], scores: &Scores, groups: Option<&[usize]>) -> Table {
    let mut table = Table::new(["file", "class", "predicted", "right", "group"]);
    for (i, &predicted) in scores.predicted().iter().enumerate() {
        let (class, guess) = (test.class(i), names[predicted]);
        let group = groups.map_or(String::new(), |groups| groups[i].to_string());
        table.row([test.name(i), class, guess, if class == guess { "1" } else { "0" }, &group]);
    }
    table
}
