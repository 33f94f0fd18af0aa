//! Packs a large data set: frames, and optionally flow, of all videos in tar files, prepared by many independent processes.
//!
//! `pack --data D --cache C --shard i/n` for each i, then `pack --cache C --merge`; `pack --cache C --verify` at any time after.

mod support;

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgGroup, Parser, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use support::args::{DeviceChoice, within};
use support::checks::{folder_to_be, lists, outside_of_data};
use support::output::{count, say, warn};
use support::progress::Progress;
use support::stop::stop_flag;
use tubelet::error::ErrorKind;
use tubelet::flow::Gray;
use tubelet::ops::tvl1;
use tubelet::tensor::Device;
use tubelet::train::limits;
use tubelet::train::views::ViewSpec;
use tubelet::train::{maclr, mcl};
use tubelet::video::cache::{Builder, Holder, Progress as Done};
use tubelet::video::pack::{self, Gap, PackSpec, Shard, Verify};
use tubelet::video::{CacheSpec, Ffmpeg, Input, Pack, Splits};

/// The actions that take no settings.
const NOT_SHARD: [&str; 2] = ["merge", "verify"];

/// Settings of the library that are options here.
const OPTIONS: [&str; 2] = ["shard_bytes", "group"];

/// How many videos without data, or damaged ones, are printed.
const SHOWN: usize = 20;

/// Prepare frames and flow of a large data set, in tar files, by many processes that need nothing of each other.
///
/// Each process prepares one shard (--shard i/n); started again after it was stopped or killed, it goes on. When all are
/// complete, --merge writes the index. The folder can then be moved, and runs take it as --cache without --data.
#[derive(Parser)]
#[command(version, group(ArgGroup::new("action").required(true).args(["shard", "merge", "verify"])))]
struct Args {
    /// The packed folder; all shards have the same
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
    /// Prepare shard i of n: 0/8 is the first of eight
    #[arg(long, value_name = "i/n", requires = "data")]
    shard: Option<Shard>,
    /// Write the index, when all shards are complete
    #[arg(long)]
    merge: bool,
    /// Read all packed data and name what is damaged; with --data also the originals that have changed since
    #[arg(long)]
    verify: bool,

    /// The videos, as in the pre-training examples: a folder or a list
    #[arg(long, value_name = "PATH", conflicts_with = "merge")]
    data: Option<PathBuf>,
    /// With a list as --data: the list of test videos
    #[arg(long, value_name = "LIST", requires = "data")]
    test: Option<PathBuf>,
    /// With lists of UCF101 or HMDB51: which of their splits [default: the first]
    #[arg(long, value_name = "N", requires = "data", value_parser = within::<u64>(limits::SPLIT))]
    split: Option<u64>,

    /// The preset of the runs that will read it, which says the size of the frames and what flow is computed
    #[arg(long, default_value = "small", conflicts_with_all = NOT_SHARD)]
    preset: Preset,
    /// Pack TV-L1 flow as well as frames
    #[arg(long, conflicts_with_all = NOT_SHARD)]
    flow: bool,
    /// Where flow is computed: cpu, cuda:N, or auto (a GPU if there is a usable one). All shards must have the same: the last
    /// digits differ
    #[arg(long, value_name = "DEVICE", default_value = "cpu", conflicts_with_all = NOT_SHARD)]
    device: DeviceChoice,
    /// No tar file is larger, unless a single video is
    #[arg(long, value_name = "BYTES", default_value_t = PackSpec::SHARD_BYTES, conflicts_with_all = NOT_SHARD)]
    shard_bytes: u64,
    /// Videos, in the order of the data set, that one thread prepares in turn
    #[arg(long, value_name = "VIDEOS", default_value_t = PackSpec::GROUP, conflicts_with_all = NOT_SHARD)]
    group: u64,
    /// Number of threads; 0 = all of the machine
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "merge", value_parser = within::<usize>(limits::THREADS))]
    threads: usize,
}

/// Presets of the runs that read a packed folder.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Preset {
    /// tiny and small of both methods: 80 pixels
    Small,
    /// paper of pretrain_maclr: 256 pixels
    MaclrPaper,
    /// paper of pretrain_mcl: 240 pixels, flow of every frame
    MclPaper,
    /// paper-kinetics of pretrain_mcl: 256 pixels, flow of every frame
    MclPaperKinetics,
}

impl Preset {
    fn views(self) -> Result<ViewSpec> {
        Ok(match self {
            Preset::Small => ViewSpec::small(),
            Preset::MaclrPaper => maclr::Recipe::paper()?.training.views,
            Preset::MclPaper => mcl::Recipe::paper().training.views,
            Preset::MclPaperKinetics => mcl::Recipe::paper_kinetics().training.views,
        })
    }
}

fn main() -> ExitCode {
    support::args::program(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let stop = stop_flag()?;
    match args.shard {
        Some(shard) => prepare(args, shard, &stop),
        None if args.merge => merge(&args.cache, &stop),
        None => verify(args, &stop),
    }
}

fn splits(args: &Args) -> Result<Option<Splits>> {
    let (test, split) = (args.test.as_deref(), args.split);
    let Some(data) = args.data.as_deref() else { return Ok(None) };
    let splits = lists(Input { data, test, split })?;
    splits.train.warnings.iter().chain(&splits.test.warnings).for_each(warn);
    Ok(Some(splits))
}

fn threads(args: &Args) -> usize {
    match args.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    }
}

/// Where flow is computed.
fn device(args: &Args) -> Result<Device> {
    ensure!(args.flow || args.device == DeviceChoice::Cpu, "--device: it is for flow alone, which --flow packs");
    match args.device {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(n) => Device::cuda(n).with_context(|| format!("--device cuda:{n}")),
        DeviceChoice::Auto => {
            let (device, reason) = Device::auto();
            reason.iter().for_each(|reason| say(format_args!("computing on the CPU: {reason}")));
            Ok(device)
        }
    }
}

/// Prepares a shard.
fn prepare(args: &Args, shard: Shard, stop: &AtomicBool) -> Result<()> {
    outside_of_data([("--cache", &args.cache); 2], args.data.as_deref())?;
    folder_to_be("--cache", &args.cache)?;
    let Some(splits) = splits(args)? else { bail!("--shard {shard}: the videos are missing (--data)") };
    let views = args.preset.views()?;
    let cache = CacheSpec { maps: None, ..views.cache(true) };
    let cache = CacheSpec { motion: cache.motion.filter(|_| args.flow), ..cache };
    let device = device(args)?;
    let gpu_flow = device != Device::Cpu;
    let spec = PackSpec { cache, shard_bytes: args.shard_bytes, group: args.group, gpu_flow };
    let lanes = tvl1::Lanes::new(&device, &views.flow).context("--device")?;
    let (threads, began) = (threads(args), Instant::now());
    let shown = Mutex::new(Shown { bar: None, done: 0, waiting: Waiting::default() });
    let flow = |pairs: &[(&Gray, &Gray)]| lanes.of(pairs);
    let progress = |p: Done| shown.lock().unwrap_or_else(|e| e.into_inner()).show(shard, &args.cache, p);
    let (ffmpeg, pairs) = (Ffmpeg::default(), lanes.pairs());
    let with = Builder { ffmpeg, flow: Some(&flow), pairs, threads, verify: false, stop, progress: &progress };
    let report = pack::shard(&args.cache, &splits, &spec, shard, &with);
    if let Some(bar) = shown.into_inner().unwrap_or_else(|e| e.into_inner()).bar {
        bar.finish();
    }
    let report = named(report, &args.cache)?;
    tell_gaps(&report.gaps);
    let seconds = began.elapsed().as_secs_f64();
    say(format_args!(
        "shard {shard} is complete: {} packed now in {seconds:.1} s ({:.2} a second and thread), {} before; {}, {:.1} MB; {} without \
         data",
        count(report.packed, "video", "videos"),
        report.packed as f64 / seconds.max(1e-9) / threads as f64,
        report.reused,
        count(report.volumes, "tar file", "tar files"),
        report.bytes as f64 / 1e6,
        report.gaps.len()
    ));
    Ok(())
}

/// An error by the name of its option: that of a setting, or the packed folder.
fn named<T>(result: tubelet::Result<T>, dir: &Path) -> Result<T> {
    result.map_err(|e| match e.kind() {
        ErrorKind::Param { name, value, rule, .. } if OPTIONS.contains(name) => {
            anyhow::anyhow!("--{} {value}: {rule}", name.replace('_', "-"))
        }
        _ => anyhow::Error::from(e).context(format!("--cache {}", dir.display())),
    })
}

fn tell_gaps(gaps: &[Gap]) {
    for gap in gaps.iter().take(SHOWN) {
        warn(format_args!("without data: {}: {}", gap.name, gap.why));
    }
    if gaps.len() > SHOWN {
        warn(format_args!("and {} more without data", gaps.len() - SHOWN));
    }
}

/// The progress that was displayed so far.
struct Shown {
    bar: Option<Progress>,
    done: usize,
    waiting: Waiting,
}

/// Who was waited for last.
#[derive(Default)]
struct Waiting(Option<Holder>);

impl Waiting {
    fn tell(&mut self, dir: &Path, holder: Holder) {
        if self.0.as_ref() != Some(&holder) {
            say(format_args!("waiting for {holder}, which holds the lock of {}", dir.display()));
            self.0 = Some(holder);
        }
    }
}

impl Shown {
    fn show(&mut self, shard: Shard, dir: &Path, p: Done) {
        if let Some(holder) = p.waiting {
            return self.waiting.tell(dir, holder);
        }
        let now = p.done + p.failed;
        // What was complete before counts for no rate.
        let before = p.reused as u64;
        let bar =
            self.bar.get_or_insert_with(|| Progress::new(&format!("shard {shard}"), "videos", p.total as u64, before));
        if self.done == 0 {
            self.done = before as usize;
        }
        bar.inc(now.saturating_sub(self.done) as u64);
        self.done = now.max(self.done);
    }
}

fn merge(dir: &Path, stop: &AtomicBool) -> Result<()> {
    let mut waiting = Waiting::default();
    let merged = pack::merge(dir, stop, |holder| waiting.tell(dir, holder));
    let merged = merged.with_context(|| format!("--cache {}", dir.display()))?;
    tell_gaps(&merged.gaps);
    say(format_args!(
        "merged: {} in {}, {:.1} MB; {} without data",
        count(merged.videos as usize, "video", "videos"),
        count(merged.volumes, "tar file", "tar files"),
        merged.bytes as f64 / 1e6,
        merged.gaps.len()
    ));
    Ok(())
}

fn verify(args: &Args, stop: &AtomicBool) -> Result<()> {
    let dir = &args.cache;
    let pack = Pack::open(dir).with_context(|| format!("--cache {}", dir.display()))?;
    let pass = |label: &str, go: &mut dyn FnMut(Verify) -> tubelet::Result<Vec<pack::Damage>>| {
        let (bar, shown) = (Progress::new(label, "videos", pack.index().len(), 0), Mutex::new(0));
        let progress = |now: u64| {
            let mut shown = shown.lock().unwrap_or_else(|e| e.into_inner());
            bar.inc(now.saturating_sub(*shown));
            *shown = now.max(*shown);
        };
        let found = go(Verify { threads: threads(args), stop, progress: &progress });
        bar.finish();
        found
    };
    let (mut damage, mut read) = (Vec::new(), [0; 3]);
    if let Some(splits) = splits(args)? {
        damage.extend(pass("comparing", &mut |with| pack::originals(&pack, &splits, with))?);
    }
    let known = damage.len();
    damage.extend(pass("reading", &mut |with| {
        let verified = pack::verify(&pack, with)?;
        read = [verified.videos as usize, verified.volumes, verified.gaps];
        Ok(verified.damage)
    })?);
    damage.iter().take(SHOWN).for_each(|d| warn(format_args!("{}: {}", d.of, d.what)));
    if damage.len() > SHOWN {
        warn(format_args!("and {} more", damage.len() - SHOWN));
    }
    if !damage.is_empty() {
        bail!(
            "{} of the packed folder {} and {} changed: remove the tar files that are named, and their shards make them again",
            count(damage.len() - known, "part is damaged", "parts are damaged"),
            dir.display(),
            count(known, "original has", "originals have")
        );
    }
    let [videos, volumes, gaps] = read;
    let (videos, volumes) = (count(videos, "video", "videos"), count(volumes, "tar file", "tar files"));
    say(format_args!("the packed folder is whole: {videos} in {volumes}; {gaps} without data"));
    Ok(())
}
