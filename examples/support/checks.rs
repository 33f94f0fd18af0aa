//! Checks before a run starts: its files, the machine's memory, the lengths of the videos.

use super::output::{count, say, say_aside, warn};
use super::pretrain::Job;
use super::run::foresee;
use super::settings::{EARLIER, FREE};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tubelet::error::ErrorKind;
use tubelet::files::check_writable;
use tubelet::train::checkpoint::weights_of;
use tubelet::train::folder::Folder;
use tubelet::train::pretrain::{Earlier, fewer_than_done, steps_done, steps_per_epoch};
use tubelet::train::views::{Loader, ViewSpec};
use tubelet::video::cache::Foreseen;
use tubelet::video::{Dataset, Ffmpeg, FlowSource, Input, Item, Short, Split, Splits};

/// Seconds of a part of a single video: two clips of the presets and more.
const PART: f64 = 10.0;
/// Maximum number of problems of one kind that are named.
pub const NAMED: usize = 5;
/// Steps below which a run is too short to learn from random or foreign features.
const FEW_STEPS: u64 = 100;

/// Warns of a run of so few `steps` in all.
pub fn warn_of_few_steps(epochs: u64, steps: u64) {
    if steps < FEW_STEPS {
        warn(format_args!("--epochs {epochs} are {steps} steps: with so few videos more passes are needed"));
    }
}

/// Refuses a path that cannot become a folder, because it or one of its parents is a file.
pub fn folder_to_be(option: &str, path: &Path) -> Result<()> {
    let there = path.ancestors().find(|p| p.exists());
    let file = there.filter(|p| !p.is_dir());
    ensure!(file.is_none(), "{option} {}: {} is not a folder", path.display(), file.unwrap_or(path).display());
    Ok(())
}

/// Refuses folders of output, each with its option, inside of the folder `--data`: in the next run, pictures in them could
/// be taken for videos.
pub fn outside_of_data(folders: [(&str, &PathBuf); 2], data: Option<&Path>) -> Result<()> {
    let Some(data) = data.filter(|data| data.is_dir()) else { return Ok(()) };
    let Some(data_whole) = whole(data) else { return Ok(()) };
    for (option, path) in folders {
        let other = data_whole.parent().unwrap_or(&data_whole).join("runs").join(path.file_name().unwrap_or_default());
        ensure!(
            !whole(path).is_some_and(|path| path.starts_with(&data_whole)),
            "{option} {} lies inside of --data {}, where it could be taken for videos: choose a folder outside, such as \
             {option} {}",
            path.display(),
            data.display(),
            other.display()
        );
    }
    Ok(())
}

/// The path without links, of which the last folders need not exist.
fn whole(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|there| {
        let from = if there == Path::new("") { Path::new(".") } else { there };
        Some(from.canonicalize().ok()?.join(path.strip_prefix(there).ok()?))
    })
}

/// Reads the videos of `--data` and `--test`: training videos of two classes or more, or some without labels. Errors name
/// the option that specified the file.
pub fn lists(input: Input) -> Result<Splits> {
    let splits = input.open().map_err(|e| of_option(e, input.test))?;
    two_classes(&splits.train)?;
    Ok(splits)
}

/// Refuses videos without labels, where classes are compared; `data` is the path of `--data`.
pub fn labelled(splits: &Splits, data: Option<&Path>) -> Result<()> {
    let what = "its videos have no labels, and classes are compared here (`extract_features` takes them)";
    ensure!(splits.train.is_labelled(), "--data {}: {what}", data.unwrap_or(Path::new("")).display());
    Ok(())
}

/// Names the option whose file an error is about.
pub fn of_option(e: tubelet::error::Error, test: Option<&Path>) -> anyhow::Error {
    let about_test = match e.kind() {
        ErrorKind::Data { path, .. } | ErrorKind::Format { path, .. } | ErrorKind::Io { path, .. } => {
            test == Some(path)
        }
        _ => false,
    };
    anyhow::Error::new(e).context(if about_test { "--test" } else { "--data" })
}

/// Refuses training videos of a single class, with which the features cannot be evaluated.
fn two_classes(train: &Dataset) -> Result<()> {
    let label = train.items.first().and_then(|first| first.label);
    let Some(one) = label.filter(|_| train.items.iter().all(|item| item.label == label)) else { return Ok(()) };
    bail!(
        "--data: all training videos are of class {}: training needs no labels, but its features are evaluated by telling \
         classes apart, so give videos of two classes or more, or videos without labels (all directly in a folder)",
        train.classes[one]
    );
}

/// Cuts a single video without a label into parts, which count as videos: the losses compare different ones. Refuses what
/// cannot be cut.
pub fn several_videos(splits: Splits, data: Option<&Path>) -> Result<Splits> {
    if splits.train.is_labelled() || splits.train.len() != 1 {
        return Ok(splits);
    }
    let data = data.unwrap_or(Path::new("")).display();
    let train = splits.train.in_parts(PART, &Ffmpeg::default()).with_context(|| format!("--data {data}"))?;
    ensure!(
        train.len() > 1,
        "--data {data}: there is one video, the losses compare different videos, and only a file of {} seconds or more is cut \
         into parts that count as such: give several videos",
        2.0 * PART
    );
    say(format_args!("{data} is cut into {} parts of {PART} seconds and more, which count as videos", train.len()));
    Ok(Splits { train, ..splits })
}

/// The file of weights that `--init` stands for.
pub fn init_file(init: Option<&Path>) -> Result<Option<PathBuf>> {
    init.map(|path| weights_of(path).context("--init")).transpose()
}

/// Prints which videos of `data` a run would skip; returns how many are left.
fn left(data: &Dataset, seen: &Foreseen) -> usize {
    for (_, name, why) in seen.failed.iter().take(NAMED) {
        say_aside(format_args!("would be skipped: {name}: {why}"));
    }
    let more = seen.failed.len().saturating_sub(NAMED);
    if more > 0 {
        let videos = count(more, "more video", "more videos");
        say_aside(format_args!("would be skipped: {videos} of the {} list", data.split.name()));
    }
    data.len() - seen.failed.len()
}

/// A video with its length.
pub struct Length<'a> {
    pub name: &'a str,
    pub frames: usize,
    pub fps: f64,
    /// Whether motion clips are sampled from it.
    pub motion: bool,
}

/// Which of the training videos have at least `least` frames (`--min-frames`), or a number that is not known yet. Prints how
/// many have not, with the first of them.
pub fn long_enough(videos: &[(&str, Option<usize>)], least: usize) -> Vec<bool> {
    let keep: Vec<bool> = videos.iter().map(|(_, frames)| frames.is_none_or(|n| n >= least)).collect();
    let left: Vec<String> = videos
        .iter()
        .zip(&keep)
        .filter(|(_, keep)| !**keep)
        .map(|((name, frames), _)| format!("{name} ({})", frames.unwrap_or(0)))
        .collect();
    if !left.is_empty() {
        let (of, named) = (count(left.len(), "training video has", "training videos have"), left.len().min(NAMED));
        let more = if left.len() > named { format!(", and {} more", left.len() - named) } else { String::new() };
        let named = left[..named].join(", ");
        say_aside(format_args!("left out: {of} fewer frames than --min-frames {least}: {named}{more}"));
    }
    keep
}

/// Leaves the training videos with fewer frames than `least` out; returns how many.
pub fn leave_out(train: &mut Loader, data: &Dataset, least: usize) -> Result<usize> {
    let name = |(i, (frames, _)): (&usize, (usize, f64))| (data.items[*i].name.as_str(), Some(frames));
    let videos: Vec<_> = train.videos.iter().zip(train.lengths()?).map(name).collect();
    let mut keep = long_enough(&videos, least).into_iter();
    let before = train.videos.len();
    train.videos.retain(|_| keep.next().unwrap_or(true));
    Ok(before - train.videos.len())
}

/// How many videos are shorter than an RGB clip, and how many others are shorter than a motion clip. Prints a warning,
/// or refuses them if `--refuse-short` was given.
pub fn short<'a>(views: &ViewSpec, videos: impl Iterator<Item = Length<'a>>) -> Result<[usize; 2]> {
    let (mut short, mut first) = ([0; 2], [None, None]);
    for video in videos {
        let [rgb, motion] = views.short(video.frames, video.fps);
        for (i, is) in [rgb, motion && video.motion].into_iter().enumerate().filter(|(_, is)| *is) {
            short[i] += usize::from(is);
            first[i].get_or_insert((video.name, video.frames));
        }
    }
    let clips = [
        format!("shorter than a clip of --frames {} --stride {}", views.frames, views.stride),
        format!(
            "long enough for a clip of {} frames, and shorter than a motion clip of --motion-frames {}",
            views.frames, views.motion_frames
        ),
    ];
    for ((n, clip), first) in short.into_iter().zip(clips).zip(first) {
        let Some((name, frames)) = first else { continue };
        let are = count(n, "video is", "videos are");
        if views.short == Short::Refuse {
            bail!("--refuse-short: {are} {clip}; the first, {name}, has {}", count(frames, "frame", "frames"));
        }
        warn(format_args!("{are} {clip}; their frames are repeated"));
    }
    Ok(short)
}

/// Refuses what the run would refuse after reading its lists and before decoding a video, and prints what it would
/// skip. Returns the numbers of training and test videos that are left.
pub fn dry_run<'a, R>(cache: &Path, job: &Job<R>, splits: &'a Splits) -> Result<[usize; 2]> {
    let (views, mut lengths, mut usable) = (&job.training.views, Vec::new(), Vec::new());
    let parts = [(&splits.train, job.motion[0], job.motion_clips), (&splits.test, job.motion[1], false)];
    for (data, flow, motion) in parts {
        let seen = foresee(cache, data, views, flow)?;
        let least = if data.split == Split::Train { job.training.min_frames } else { 0 };
        let name = |(item, length): (&'a Item, &Option<(usize, f64)>)| (item.name.as_str(), length.map(|(n, _)| n));
        let keep = long_enough(&data.items.iter().zip(&seen.lengths).map(name).collect::<Vec<_>>(), least);
        usable.push(left(data, &seen) - keep.iter().filter(|keep| !**keep).count());
        for ((item, length), _) in data.items.iter().zip(seen.lengths).zip(keep).filter(|(_, keep)| *keep) {
            lengths.extend(length.map(|(frames, fps)| Length { name: &item.name, frames, fps, motion }));
        }
    }
    steps_per_epoch(usable[0], job.training.batch)?;
    job.training.queue_length(usable[0], job.keys, job.masked)?;
    short(views, lengths.into_iter())?;
    Ok([usable[0], usable[1]])
}

/// Refuses clips that do not fit into main memory: those of a step of `batch` videos, `clips` per video, and as many again
/// that are prepared meanwhile. Memory for the networks is not included.
pub fn check_memory(views: &ViewSpec, batch: usize, clips: usize) -> Result<()> {
    let Some(total) = main_memory() else { return Ok(()) };
    let [rgb, motion] = views.dims().map(|dims| dims.iter().product::<usize>());
    let bytes = 2 * 4 * (batch * clips) as u128 * rgb.max(motion) as u128;
    let giga = |bytes: u128| bytes as f64 * 1e-9;
    ensure!(
        bytes <= total,
        "the clips of two steps are {:.1} GB, and this machine has {:.1} GB of memory: make --batch ({}), --side ({}), \
         --frames ({}) or --motion-frames ({}) smaller",
        giga(bytes),
        giga(total),
        batch,
        views.side,
        views.frames,
        views.motion_frames
    );
    Ok(())
}

/// Adds `--cache` to an error about the cache folder, `--flow-dir` to one about flow from that folder, and the option of
/// `data` to one about all of its videos.
pub fn of_cache<T>(result: tubelet::error::Result<T>, cache: &Path, data: &Dataset, flow: &FlowSource) -> Result<T> {
    if let (Err(e), FlowSource::Folder(root)) = (&result, flow)
        && e.to_string().contains(&root.display().to_string())
    {
        return result.with_context(|| format!("--flow-dir {}", root.display()));
    }
    let about_it = |e: &tubelet::error::Error| match e.kind() {
        ErrorKind::Io { path, .. } => path.starts_with(cache) || cache.starts_with(path),
        ErrorKind::Data { path, .. } => path == cache && check_writable(cache).is_err(),
        _ => false,
    };
    let none_left = |e: &tubelet::error::Error| matches!(e.kind(), ErrorKind::Data { path, .. } if path.as_os_str() == data.split.name());
    match result {
        Err(e) if none_left(&e) => Err(e).context(match data.split {
            Split::Train => "--data",
            Split::Test => "--data or --test",
        }),
        Err(e) if about_it(&e) => Err(e).with_context(|| format!("--cache {}", cache.display())),
        other => Ok(other?),
    }
}

/// Bytes of main memory, if the system reports it.
fn main_memory() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u128>().ok().map(|kilo| kilo * 1024)
}

/// Refuses test videos of a class of which there is no training video: a probe cannot tell it. `train` and `test` are the
/// videos that are used.
pub fn classes_can_be_tested(
    splits: &Splits,
    train: impl Iterator<Item = usize>,
    test: impl Iterator<Item = usize>,
) -> Result<()> {
    let known: BTreeSet<usize> = train.filter_map(|i| splits.train.items[i].label).collect();
    let unknown = test
        .map(|i| &splits.test.items[i])
        .find_map(|item| Some((item, item.label?)).filter(|(_, l)| !known.contains(l)));
    let Some((item, label)) = unknown else { return Ok(()) };
    let class = &splits.test.classes[label];
    bail!(
        "--test: {} is of class {class}, of which there is no training video, so it cannot be told by a probe",
        item.name
    )
}

/// Refuses to write the evaluation of a network into the folder of another one's. `finetune` may go on with a run whose first
/// weights have changed since.
pub fn same_network(out: &Path, settings: &Value) -> Result<()> {
    let Some(begun) = Folder::settings(out).context("--out")? else { return Ok(()) };
    let (name, program) = ("init.checksum", &settings["program"]);
    let evaluates = settings.get(name).is_some() && begun["program"] == *program && program != "finetune";
    if !evaluates || begun[name] == settings[name] {
        return Ok(());
    }
    // Beside the checksum, if the file had one.
    let of = |all: &Value| [&all[Folder::PATHS], all].iter().find_map(|at| at["--init"].as_str().map(str::to_owned));
    let (before, now) = (of(&begun), of(settings));
    let whose = match before {
        None => "another network (random weights)".to_owned(),
        Some(init) if Some(&init) == now.as_ref() => format!("other weights of {init}"),
        Some(init) => format!("another network ({init})"),
    };
    bail!("{} holds the evaluation of {whose}: choose another --out", out.display())
}

/// Whether there is a run in `out` to resume. Refuses one with other settings, videos or flow; with `skipped`, `settings`
/// name the skipped videos, too.
pub fn goes_on(out: &Path, settings: &Value, skipped: bool) -> Result<bool> {
    same_network(out, settings)?;
    let compare = if skipped { Folder::compare } else { Folder::compare_known };
    compare(out, settings, &FREE).map_err(|e| {
        // What other settings follow from, unless the option is there that chose them.
        let others = [
            (" videos.", Some(" --labels:"), "--data, --test or --split names other videos than when the run began"),
            (" --flow-dir.", None, "--flow-dir: this is not the flow that the run began with"),
            (" init.", Some(" --from-scratch:"), "--init: these are not the weights that the evaluation began with"),
        ];
        let text = e.to_string();
        let told = |(name, why, _): &&(&str, Option<&str>, &str)| {
            text.contains(name) && !why.is_some_and(|why| text.contains(why))
        };
        let of = |e: anyhow::Error, (.., what): &(&str, Option<&str>, &'static str)| e.context(*what);
        others.iter().filter(told).fold(anyhow::Error::new(e), of).context("--out")
    })
}

/// The numbers of epochs that the run in `out` was to have before, where it goes on with `epochs` of `per_epoch` steps. Prints
/// that they change now; refuses fewer than are done.
pub fn earlier_epochs(out: &Path, epochs: u64, per_epoch: u64) -> Result<Vec<Earlier>> {
    let Some(begun) = Folder::settings(out).context("--out")? else { return Ok(Vec::new()) };
    let (done, steps) = (steps_done(out).context("--out")?, per_epoch.saturating_mul(epochs));
    if steps < done {
        return Err(fewer_than_done(epochs, steps, done).into());
    }
    let mut earlier: Vec<Earlier> = match begun.get(EARLIER) {
        Some(list) => serde_json::from_value(list.clone())
            .with_context(|| format!("--out {}: settings.json: `{EARLIER}`", out.display()))?,
        None => Vec::new(),
    };
    let Some(before) = begun["--epochs"].as_u64().filter(|before| *before != epochs && done > 0) else {
        return Ok(earlier);
    };
    // A number that changes again before the next checkpoint was never in force.
    if earlier.last().is_none_or(|last| last.until < done) {
        earlier.push(Earlier { epochs: before, until: done });
    }
    say(format_args!(
        "--epochs was {before} and is {epochs}: the run goes on from step {done} with the learning rate of {} in all",
        count(epochs as usize, "epoch", "epochs")
    ));
    Ok(earlier)
}

/// Refuses to go on with the run in `out` where it skipped other videos than `skipped`, and names those that differ: each
/// set of videos makes another run.
pub fn same_are_skipped(out: &Path, skipped: &[String]) -> Result<()> {
    let Some(begun) = Folder::settings(out).context("--out")? else { return Ok(()) };
    let before: Vec<&str> =
        begun["videos.skipped"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let lost: Vec<&str> = skipped.iter().map(String::as_str).filter(|name| !before.contains(name)).collect();
    let found: Vec<&str> = before.iter().copied().filter(|name| !skipped.iter().any(|now| now == name)).collect();
    let first = match (lost.is_empty(), found.is_empty()) {
        (true, true) => return Ok(()),
        (false, _) => "make readable again what could be read, or ",
        (true, false) => "",
    };
    let named = |names: &[&str], when: &str| {
        let more = names.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let shown = names[..names.len().min(NAMED)].join(", ");
        (!names.is_empty()).then(|| format!("{shown}{more} could {when}"))
    };
    let differ = [
        named(&lost, "be read when this run began, and cannot be read now"),
        named(&found, "not be read when this run began, and can be read now"),
    ];
    let differ: Vec<String> = differ.into_iter().flatten().collect();
    bail!(
        "--data or --test: {}; a run goes on with the videos it began with: {first}choose another --out than {} to begin a \
         run with those that can be read now",
        differ.join("; "),
        out.display()
    )
}
