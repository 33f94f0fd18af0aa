//! What a classification of test videos writes: tables, the confusion of classes, and the summary with its intervals.

use super::confusion;
use super::evaluation::{Evaluation, Part};
use super::settings::path;
use super::summary::Summary;
use super::table::Table;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
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

impl Groups {
    /// The number of the source of each video of `data`, if any is known.
    pub fn of(&self, data: &Dataset) -> Result<Option<Vec<usize>>> {
        sources(data, self.groups.as_deref())
    }

    /// As a setting.
    pub fn setting(&self) -> Value {
        path(self.groups.as_deref())
    }
}

/// The number of the source of each video, if any is known: those of the file, or the recordings by names. A video of
/// which none is known is its own.
fn sources(data: &Dataset, file: Option<&Path>) -> Result<Option<Vec<usize>>> {
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

/// Writes the tables, the picture and the summary: of `summary` and the figures of `scores`, whose classes are places among
/// the labels `classes`. `groups` are the sources of the test videos.
pub fn write(
    run: &Evaluation,
    mut summary: Summary,
    classes: &[usize],
    scores: &Scores,
    groups: Option<&[usize]>,
) -> Result<()> {
    let (test, confusion) = (&run.parts[1], scores.confusion());
    let names: Vec<&str> = classes.iter().map(|&label| test.data.classes[label].as_str()).collect();
    per_class(&names, scores).write(&run.out.join("per_class.csv"))?;
    predictions(test, &names, scores, groups).write(&run.out.join("predictions.csv"))?;
    let top1 = scores.top(1);
    let title = format!("{:.1} % of {} test videos are classified rightly", 100.0 * top1, test.len());
    confusion::draw(&run.out.join("confusion.png"), &title, &names, &confusion)?;
    let [low, high] = scores.interval(1, None)?;
    let by_group = groups.map(|groups| scores.interval(1, Some(groups))).transpose()?;
    let count = groups.map(|groups| groups.iter().max().map_or(0, |most| most + 1));
    summary
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
