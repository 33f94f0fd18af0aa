//! Checks videos before a run: what is missing, unreadable, too short, there twice, or has two labels.
//!
//! `cargo run --release --example check_data -- --data DIR` takes the same `--data` and `--test` as the pre-trainings.

mod support;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use support::args::within;
use support::checks::{NAMED, of_option};
use support::options::{Preset, set};
use support::output::{count, say, say_aside, warn};
use support::plan;
use support::progress::Progress;
use support::run::foresee;
use support::stop::stop_flag;
use tubelet::error::ErrorKind;
use tubelet::train::limits;
use tubelet::train::maclr::Recipe;
use tubelet::train::mcl;
use tubelet::train::pretrain::steps_per_epoch;
use tubelet::train::views::ViewSpec;
use tubelet::video::dataset::{Problem, ProblemKind};
use tubelet::video::{Dataset, Decode, Ffmpeg, Input, Item, Source, read};

/// Videos that are looked at before their problems are written.
const CHUNK: usize = 256;
/// The shorter side of frames that are decoded to see whether they can be.
const DECODED_SIDE: usize = 32;

/// Check videos before a run: what is missing, unreadable, too short, there twice, or has two labels.
///
/// Exits with status 0 when a run can use the videos, otherwise with 1. Videos that cannot be read are no reason for 1, as long as
/// others are left: a run skips them.
///
/// Every line of the lists is read, and a line that cannot be is counted and named; the others are checked. Of each video the size
/// is looked at; of files the header is read with ffprobe, of folders of frames the names and the header of the first. Only files of
/// equal size, and five frames each of folders with as many frames, are read to find copies: 4 KiB first, then those that are
/// still equal, 4 GiB in all. Nothing is decoded, except with --decode, and then one video at a time for each of --jobs. Memory is
/// needed for the list, about 1.5 KB a line, and not for what is decoded.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Videos, as for the pre-trainings: a folder, or a list
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// With a list as --data: the list of test videos
    #[arg(long, value_name = "LIST")]
    test: Option<PathBuf>,
    /// With lists of UCF101 or HMDB51: which of their splits [default: the first]
    #[arg(long, value_name = "N", value_parser = within::<u64>(limits::SPLIT))]
    split: Option<u64>,
    /// Preset whose clips the videos should be long enough for, and whose steps they should be enough for
    #[arg(long, default_value = "small")]
    preset: Preset,
    /// Frames of an RGB clip [default: the preset's]
    #[arg(long, value_parser = within::<usize>(limits::FRAMES))]
    frames: Option<usize>,
    /// Distance between frames of an RGB clip, in frames of the video [default: the preset's]
    #[arg(long, value_parser = within::<usize>(limits::STRIDE))]
    stride: Option<usize>,
    /// Videos per step, of which a run needs as many for training [default: the preset's]
    #[arg(long, value_parser = within::<usize>(limits::BATCH))]
    batch: Option<usize>,
    /// Decode every frame of each video; without it only headers are read
    #[arg(long)]
    decode: bool,
    /// Videos that are looked at in parallel, at most 1024; 0 = as many as the machine has threads
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within::<usize>(limits::THREADS))]
    jobs: usize,
    /// A cache of earlier runs: lengths of videos in it are known
    #[arg(long, value_name = "DIR", default_value = "runs/cache")]
    cache: PathBuf,
    /// Write all problems to this file as CSV
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    support::args::program(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.jobs)
        .build_global()
        .with_context(|| format!("--jobs {}: they cannot be started", args.jobs))?;
    let stop = stop_flag()?;
    let mut training = match args.preset {
        Preset::Tiny => Recipe::tiny().training,
        Preset::Small | Preset::Long => Recipe::small().training,
        Preset::Paper => Recipe::paper()?.training,
        Preset::PaperKinetics => mcl::Recipe::paper_kinetics().training,
    };
    set(&mut training.batch, args.batch);
    let views = &mut training.views;
    set(&mut views.frames, args.frames);
    set(&mut views.stride, args.stride);
    let mut problems = Problems::new(args.report.as_deref())?;
    let input = Input { data: &args.data, test: args.test.as_deref(), split: args.split };
    let splits = input.inspect(|problem| problems.take(problem)).map_err(|e| of_option(e, input.test))?;
    say(format_args!("{}: {}", args.data.display(), splits.layout));
    splits.train.warnings.iter().chain(&splits.test.warnings).for_each(warn);
    let mut left = Vec::new();
    for data in [&splits.train, &splits.test].into_iter().filter(|data| !data.is_empty()) {
        left.push(look(data, args, &training.views, &stop, &mut problems)?);
    }
    say(format_args!("classes: {}", plan::classes(&splits.train, &splits.test)));
    let refused = problems.finish()?;
    let usable: Vec<String> =
        left.iter().zip(["for training", "for testing"]).map(|(n, of)| format!("{n} {of}")).collect();
    let usable = usable.join(", ");
    if refused > 0 {
        bail!(
            "a run refuses these videos, for {}; without these it could use {usable}",
            count(refused, "problem", "problems")
        );
    }
    ensure!(left.iter().all(|n| *n > 0), "a run cannot use these videos: {usable}");
    // A single video without a label is cut into parts.
    if splits.train.is_labelled() || splits.train.len() > 1 {
        steps_per_epoch(left[0], training.batch)
            .with_context(|| format!("usable: {usable}, but a run refuses so few"))?;
    }
    say(format_args!("usable: {usable}"));
    Ok(())
}

/// Looks at each video of `data`; returns how many can be used.
fn look(data: &Dataset, args: &Args, views: &ViewSpec, stop: &AtomicBool, problems: &mut Problems) -> Result<usize> {
    let seen = foresee(&args.cache, data, views, false)?;
    let mut why: BTreeMap<usize, String> = seen.failed.into_iter().map(|(i, _, why)| (i, why)).collect();
    let ffmpeg = Ffmpeg::default();
    let bar = Progress::new(&format!("{} videos", data.split.name()), "videos", data.len() as u64, 0);
    let (mut usable, all) = (data.len(), (0..data.len()).collect::<Vec<_>>());
    for chunk in all.chunks(CHUNK) {
        let lengths: Vec<tubelet::error::Result<Option<(usize, f64)>>> = {
            use rayon::prelude::*;
            let one = |&i: &usize| {
                let length = match () {
                    () if stop.load(Ordering::Relaxed) || why.contains_key(&i) => Ok(None),
                    () if args.decode => decoded(&data.items[i], &ffmpeg),
                    () if seen.lengths[i].is_some() => Ok(seen.lengths[i]),
                    () => stated(&data.items[i], &ffmpeg),
                };
                bar.inc(1);
                length
            };
            chunk.par_iter().map(one).collect()
        };
        if stop.load(Ordering::Relaxed) {
            bar.finish();
            let what = "not all videos were looked at".to_owned();
            return Err(tubelet::error::Error::from(ErrorKind::Stopped { path: args.data.clone(), what }).into());
        }
        for (&i, length) in chunk.iter().zip(lengths) {
            let mut tell = |kind, what| {
                let name = data.items[i].name.clone();
                problems.take(Problem { kind, name, line: None, what, refused: false });
            };
            match (why.remove(&i), length) {
                (Some(why), _) => {
                    usable -= 1;
                    tell(ProblemKind::Unreadable, why);
                }
                (None, Err(e)) if e.is_of_the_machine() => return Err(e.into()),
                (None, Err(e)) => {
                    usable -= 1;
                    tell(ProblemKind::Unreadable, e.to_string());
                }
                (None, Ok(Some((frames, fps)))) if views.short(frames, fps)[0] => {
                    let has = count(frames, "frame", "frames");
                    let clip = format!("a clip of --frames {} --stride {}", views.frames, views.stride);
                    tell(ProblemKind::Short, format!("has {has}, fewer than {clip}; they are repeated"));
                }
                (None, Ok(_)) => {}
            }
        }
    }
    bar.finish();
    Ok(usable)
}

/// Frames and their rate, as the header of a file states them.
fn stated(item: &Item, ffmpeg: &Ffmpeg) -> tubelet::error::Result<Option<(usize, f64)>> {
    let Source::File(path) = &item.source else { return Ok(None) };
    let probe = ffmpeg.probe(path)?;
    let frames = probe.frames.or_else(|| Some((probe.seconds? * probe.fps?).round() as usize));
    Ok(frames.zip(probe.fps))
}

/// Frames and their rate, when all were decoded.
fn decoded(item: &Item, ffmpeg: &Ffmpeg) -> tubelet::error::Result<Option<(usize, f64)>> {
    let how = Decode { short_side: Some(DECODED_SIDE), ..Decode::default() };
    let clip = read(&item.source, None, &how, ffmpeg)?;
    Ok(Some((clip.t, clip.fps)))
}

/// Counts problems, keeps the first of each kind to be shown, and writes all to the report.
struct Problems {
    report: Option<(PathBuf, BufWriter<File>)>,
    /// The first error of writing.
    failed: Option<anyhow::Error>,
    kinds: BTreeMap<ProblemKind, (usize, Vec<String>)>,
    refused: usize,
}

impl Problems {
    fn new(report: Option<&Path>) -> Result<Problems> {
        let open = |path: &Path| {
            let file = File::create(path).with_context(|| format!("--report {}", path.display()))?;
            let mut file = BufWriter::new(file);
            writeln!(file, "problem,refused,name,list,line,what")?;
            Ok::<_, anyhow::Error>((path.to_owned(), file))
        };
        let report = report.map(open).transpose()?;
        Ok(Problems { report, failed: None, kinds: BTreeMap::new(), refused: 0 })
    }

    fn take(&mut self, problem: Problem) {
        let Problem { kind, name, line, what, refused } = problem;
        self.refused += usize::from(refused);
        let (n, shown) = self.kinds.entry(kind).or_default();
        *n += 1;
        let place = line.as_ref().map(|(list, line)| format!(" in line {line} of {}", list.display()));
        if shown.len() < NAMED {
            shown.push(format!("{name}{} {what}", place.unwrap_or_default()));
        }
        let Some((path, file)) = &mut self.report else { return };
        let (list, line) = line.map(|(list, line)| (list.display().to_string(), line.to_string())).unwrap_or_default();
        let refused = if refused { "yes" } else { "no" };
        let row = [kind.name(), refused, &name, &list, &line, &what].map(quoted).join(",");
        if let (Err(e), None) = (writeln!(file, "{row}"), &self.failed) {
            self.failed = Some(anyhow::Error::new(e).context(format!("--report {}", path.display())));
        }
    }

    /// Prints the counts and the first problems; returns how many make a run refuse the videos.
    fn finish(mut self) -> Result<usize> {
        for (kind, (n, shown)) in &self.kinds {
            say(format_args!("{}: {n}", kind.name()));
            shown.iter().for_each(|line| say_aside(format_args!("  {line}")));
            if *n > shown.len() {
                let rest = if self.report.is_some() { "the report has all" } else { "--report FILE writes all" };
                say_aside(format_args!("  and {} more: {rest}", n - shown.len()));
            }
        }
        if let Some((path, file)) = &mut self.report {
            file.flush().with_context(|| format!("--report {}", path.display()))?;
        }
        self.failed.map_or(Ok(self.refused), Err)
    }
}

/// A field of a CSV file.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
