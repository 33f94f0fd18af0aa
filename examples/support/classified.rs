//! What a classification of test videos writes: tables, the confusion of classes, and the summary with its intervals.

use super::confusion;
use super::evaluation::{Evaluation, Part};
use super::output::{count, say, warn};
use super::summary::Summary;
use super::table::{Table, fields};
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tubelet::eval::scores::Scores;
use tubelet::video::Dataset;
use tubelet::video::dataset::lines_of_list;

/// `#[command(flatten)] groups: Groups`.
#[derive(clap::Args)]
pub struct Groups {
    /// Sources of the test videos, for an interval of accuracy over sources: lines of `name,source`, names as in
    /// predictions.csv [default: the recordings that names of public data sets tell]
    #[arg(long, value_name = "FILE")]
    groups: Option<PathBuf>,
}

/// The sources of test videos.
pub struct Sources {
    /// Their names.
    names: Vec<String>,
    /// The place of each video's source among these.
    of: Vec<usize>,
}

/// The fewest sources over which an interval is given, and the fewest over which it is more than rough: it is made of the
/// sources alone, so that with two of them it lies between their two accuracies.
const FEWEST: usize = 3;
const ROUGH: usize = 10;

impl Groups {
    /// The source of each video of `data`, as far as it is known.
    fn known(&self, data: &Dataset) -> Result<Vec<Option<String>>> {
        match &self.groups {
            Some(file) => in_file(data, file).with_context(|| format!("--groups {}", file.display())),
            None => Ok(data.recordings()),
        }
    }

    /// A number for the source of each training video, of which there are at least two.
    pub fn of_training(&self, data: &Dataset) -> Result<Vec<usize>> {
        let known = self.known(data)?.into_iter().collect::<Option<Vec<String>>>();
        let what = "the sources of training videos are left out in turn, and those of some are not known";
        let known = known.with_context(|| format!("--l2: {what}: give --groups with lines of these, too"))?;
        let names: BTreeSet<&String> = known.iter().collect();
        ensure!(names.len() > 1, "--l2: the training videos are of one source, and each is left out in turn");
        let mut seen = BTreeMap::new();
        let mut again =
            known.iter().zip(&data.items).map(|(source, item)| *seen.entry(item.label).or_insert(source) != source);
        let what = "no class of the training videos is of two sources, so leaving one out tells nothing";
        ensure!(again.any(|is| is), "--l2 and --groups: {what}");
        Ok(known.iter().map(|source| names.iter().position(|name| *name == source).unwrap_or(0)).collect())
    }

    /// The source of each video of `data`, if any is known: those of the file, or the recordings by names. A video of
    /// which none is known is its own. Prints how many there are.
    pub fn of(&self, data: &Dataset) -> Result<Option<Sources>> {
        let known = self.known(data)?;
        if known.iter().all(Option::is_none) {
            return Ok(None);
        }
        let (mut names, mut numbers) = (Vec::new(), BTreeMap::new());
        let of = known.into_iter().zip(&data.items).map(|(source, item)| {
            let name = source.unwrap_or_else(|| item.name.clone());
            *numbers.entry(name.clone()).or_insert_with(|| {
                names.push(name);
                names.len() - 1
            })
        });
        let of = of.collect();
        let by = if self.groups.is_some() { "by --groups" } else { "recordings by their names (--groups sets others)" };
        say(format_args!("the test videos are of {}, {by}", count(names.len(), "source", "sources")));
        if names.len() < FEWEST {
            warn(format_args!("no interval over sources is given for fewer than {FEWEST}"));
        } else if names.len() < ROUGH {
            warn("the interval over so few sources is rough");
        }
        Ok(Some(Sources { names, of }))
    }
}

impl Sources {
    /// Those of the videos `kept` alone.
    pub fn keep(self, kept: &[usize]) -> Sources {
        Sources { of: kept.iter().map(|&i| self.of[i]).collect(), ..self }
    }
}

/// The source of each video of `data` by the lines of `file`.
fn in_file(data: &Dataset, file: &Path) -> Result<Vec<Option<String>>> {
    let mut sources: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for (number, line) in lines_of_list(file)? {
        let mut all = fields(&line);
        let source = all.pop().map(|source| source.trim().to_owned()).unwrap_or_default();
        ensure!(!all.is_empty() && !source.is_empty(), "line {number}: a line is `name,source`");
        // A name with commas need not be quoted.
        let name = all.join(",");
        if let Some((before, other)) = sources.get(&name).filter(|(_, other)| *other != source) {
            bail!("line {number}: {name} is of {source} here, and of {other} in line {before}");
        }
        sources.insert(name, (number, source));
    }
    let of = |name: &str| sources.get(name).map(|(_, source)| source.clone());
    let all: Vec<Option<String>> = data.items.iter().map(|item| of(&item.name)).collect();
    if let Some(i) = all.iter().position(Option::is_none) {
        bail!("it has no line of the {} video {}", data.split.name(), data.items[i].name);
    }
    Ok(all)
}

/// Writes the tables, the picture and the summary: of `summary` and the figures of `scores`, whose classes are places among
/// the labels `classes`. `groups` are the sources of the test videos.
pub fn write(
    run: &Evaluation,
    mut summary: Summary,
    classes: &[usize],
    scores: &Scores,
    groups: Option<&Sources>,
) -> Result<()> {
    let (test, confusion) = (&run.parts[1], scores.confusion());
    let names: Vec<&str> = classes.iter().map(|&label| test.data.classes[label].as_str()).collect();
    per_class(&names, scores).write(&run.out.join("per_class.csv"))?;
    predictions(test, &names, scores, groups).write(&run.out.join("predictions.csv"))?;
    let top1 = scores.top(1);
    let title = format!("{:.1} % of {} test videos are classified rightly", 100.0 * top1, test.len());
    confusion::draw(&run.out.join("confusion.png"), &title, &names, &confusion)?;
    let [low, high] = scores.interval(1, None)?;
    let used = groups.map(|groups| groups.of.iter().collect::<BTreeSet<_>>().len());
    let enough = groups.filter(|_| used >= Some(FEWEST));
    let by_group = enough.map(|groups| scores.interval(1, Some(&groups.of))).transpose()?;
    summary
        .set("videos_train", run.parts[0].len())
        .set("videos_test", test.len())
        .set("classes", names.len())
        .set("top1", top1)
        .set("top5", scores.top(5))
        .set("mean_class", scores.mean_class())
        .set("top1_low", low)
        .set("top1_high", high)
        .set("groups", used)
        .set("top1_group_low", by_group.map(|[low, _]| low))
        .set("top1_group_high", by_group.map(|[_, high]| high));
    let [top1, low, high] = ["top1", "top1_low", "top1_high"].map(|name| summary.shown(name));
    let videos = count(test.len(), "test video", "test videos");
    let (elsewhere, out) = (run.elsewhere(), run.out.display());
    say(format_args!("accuracy {top1} (95 % interval {low} to {high}) on {videos}{elsewhere}; files in {out}"));
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

fn predictions(test: &Part, names: &[&str], scores: &Scores, groups: Option<&Sources>) -> Table {
    let mut table = Table::new(["file", "class", "predicted", "right", "group"]);
    for (i, &predicted) in scores.predicted().iter().enumerate() {
        let (class, guess) = (test.class(i), names[predicted]);
        let group = groups.map_or("", |groups| &groups.names[groups.of[i]]);
        table.row([test.name(i), class, guess, if class == guess { "1" } else { "0" }, group]);
    }
    table
}
