//! Retrieval of motion whatever it looks like: procedural videos in which the match of a query has its motion and another
//! look, and the distractors have its look and another motion.
//!
//! `cargo run --release --example motion_similarity -- --init runs/pretrain_maclr` evaluates the default run.

mod support;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use support::args::{Common, arch, one_of, within};
use support::checks::same_network;
use support::evaluation::MOST;
use support::init::{self, Network};
use support::options::set;
use support::output::{count, say};
use support::progress::Progress;
use support::protocol::PoolOption;
use support::settings::path;
use support::similarity::{self, Found, Set};
use support::stop::{go_on, stop_flag};
use support::summary::Summary;
use tubelet::eval::views::{Frozen, Load, Row, Views, Work, rows};
use tubelet::eval::{GoOn, Pool};
use tubelet::nn::nets::Naming;
use tubelet::nn::{Arch, Precision};
use tubelet::tensor::Device;
use tubelet::train::folder::Folder;
use tubelet::train::limits;
use tubelet::train::views::ViewSpec;
use tubelet::video::procedural::{Change, SimilaritySpec};

/// Whether the work goes on, asked again and again.
type Check = dyn Fn() -> tubelet::Result<()> + Send + Sync;

/// Views per forward pass.
const BATCH: usize = 16;

/// Measure how well the features of a frozen network tell motion apart from looks.
///
/// A query's candidates are its match, which moves as it does and differs in one part of its look (object, texture, background,
/// style or view), and eleven distractors, which look as it does and move otherwise. R@1 is the share of queries whose
/// match has the most similar features, by their cosine; guessing has 1/12. A network with random weights and histograms of
/// optical flow are measured on the same videos. An interrupted evaluation begins again, and gives the same figures.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
struct Args {
    /// The network: a run's folder (its newest intact checkpoint, RGB query network), a folder with model.safetensors,
    /// or a file of weights; without it, random weights
    #[arg(long, value_name = "RUN|DIR|FILE")]
    init: Option<PathBuf>,
    /// Its architecture [default: what the run or the folder says; otherwise the small network of pretrain_maclr]
    #[arg(long, value_name = "NAME", value_parser = arch())]
    arch: Option<&'static Arch>,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pool: PoolOption,
    /// Seed of the videos, and of random weights
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within::<u64>(limits::SEED))]
    seed: u64,
    /// Queries; each has a match of every change and eleven distractors. The camera stands still for twelve of them, one of
    /// each motion, and pans for the next twelve
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = within::<usize>(limits::QUERIES))]
    queries: usize,
    /// Check network and options, print the plan and stop: nothing is rendered or written
    #[arg(long)]
    dry_run: bool,
    /// Precision of the network, as in the pre-training examples
    #[arg(long, default_value_t = Precision::F32, value_parser = one_of(Precision::ALL.map(|p| (p.name(), p))))]
    precision: Precision,
    /// Clips per video, evenly spaced [default: those of the run's probe, or 3]
    #[arg(long, value_parser = within::<usize>(limits::CLIPS))]
    clips: Option<usize>,
    /// Frames of a clip [default: as the network was trained, or 8]
    #[arg(long, value_parser = within::<usize>(limits::FRAMES))]
    frames: Option<usize>,
    /// Distance between frames of a clip, in frames of the video, of which there are 40 [default: as for --frames, or 2]
    #[arg(long, value_parser = within::<usize>(limits::STRIDE))]
    stride: Option<usize>,
    /// Side of the clips, pixels; the videos have 64 [default: as for --frames, or 48]
    #[arg(long, value_parser = within::<usize>(limits::SIDE))]
    side: Option<usize>,
}

fn main() -> ExitCode {
    support::args::program(|| run(&Args::parse()))
}

/// What is evaluated.
struct Prepared {
    device: Device,
    network: Network,
    views: Views,
    spec: ViewSpec,
    set: Set,
}

fn run(args: &Args) -> Result<()> {
    let began = Instant::now();
    let mut it = args.prepare()?;
    let out = args.common.out("motion_similarity");
    let settings = args.settings(&it)?;
    Folder::check(&out).with_context(|| format!("--out {}", out.display()))?;
    same_network(&out, &settings)?;
    Folder::compare(&out, &settings, &[]).context("--out")?;
    if args.dry_run {
        args.plan(&it);
        say(format_args!("checked: motion_similarity would write into {}; nothing was written", out.display()));
        return Ok(());
    }
    let folder = Folder::open(&out).context("--out")?;
    folder.settle(&settings, &[]).context("--out")?;
    let go_on: Arc<Check> = Arc::new(go_on(stop_flag()?, &out, "features are not kept; the same command begins again"));
    let flow = Found::new(&it.set, &it.set.flow_statistics(&*go_on)?)?;
    let found = Found::new(&it.set, &args.features(&it, go_on.clone())?)?;
    let random = match args.init {
        None => found.clone(),
        Some(_) => {
            it.network.forget(args.seed);
            Found::new(&it.set, &args.features(&it, go_on.clone())?)?
        }
    };
    similarity::table(&it.set, &found).write(&out.join("queries.csv"))?;
    draw(&it, &found, &out, &*go_on)?;
    let mut summary = args.summary(&it);
    // As for sources in linear_probe: fewer than three tell nothing of their spread.
    let interval = (args.queries >= 3).then(|| found.interval()).transpose()?;
    for (of, found) in [("", &found), ("random_", &random), ("flow_", &flow)] {
        for change in Change::ALL {
            summary.set(&format!("{of}r1_{}", change.name()), found.recall(|row| row.change == change));
        }
        summary
            .set(&format!("{of}r1_mean"), found.recall(|_| true))
            .set(&format!("{of}r1_still"), found.recall(|row| !row.pans))
            .set(&format!("{of}r1_pan"), found.recall(|row| row.pans));
    }
    for (name, end) in [("r1_mean_low", 0), ("r1_mean_high", 1)] {
        summary.set(name, interval.map(|interval| interval[end]));
    }
    summary.set("seconds", began.elapsed().as_secs_f64());
    let [mean, random, flow] = ["r1_mean", "random_r1_mean", "flow_r1_mean"].map(|name| summary.shown(name));
    let interval = match interval {
        Some(_) => format!(" (95 % interval {} to {})", summary.shown("r1_mean_low"), summary.shown("r1_mean_high")),
        None => String::new(),
    };
    say(format_args!(
        "R@1 {mean}{interval}; random weights {random}, histograms of flow {flow}, guessing 0.083; files in {}",
        out.display()
    ));
    summary.finish(&out)
}

impl Args {
    /// Starts the threads, opens the device and reads the network.
    fn prepare(&self) -> Result<Prepared> {
        let device = self.common.start()?;
        let network = init::network(self.init.as_deref(), self.arch, self.seed)?;
        let motion = network.net.naming == Naming::SlowFast { pathway: 1 };
        ensure!(
            network.net.in_channels == 3 && !motion,
            "--arch {}: this network takes no clips of RGB, which is what is shown to it here",
            network.arch()
        );
        let mut spec = ViewSpec { stride: 2, ..ViewSpec::small() };
        match &network.clips {
            Some(clips) => clips.apply(&mut spec),
            None if network.file.is_some() => init::warn_of_assumed_clips(&spec),
            None => {}
        }
        set(&mut spec.frames, self.frames);
        set(&mut spec.stride, self.stride);
        set(&mut spec.side, self.side);
        let probe = network.clips.as_ref().and_then(|clips| clips.probe_clips).unwrap_or(3);
        let views = Views { clips: self.clips.unwrap_or(probe), crops: 1 };
        let [[t, h, w, c], _] = spec.dims();
        let fits = network.trunk.grids(&network.params, [t, h, w]);
        fits.with_context(|| format!("--frames {t} and --side {h}: the network takes no such clips"))?;
        let videos = SimilaritySpec::default();
        let step = spec.stride as f64 * videos.fps / spec.fps.unwrap_or(videos.fps);
        let (span, length) = (((t - 1) as f64 * step).round() as usize + 1, videos.frames);
        ensure!(
            span <= length,
            "--frames {t} and --stride {}: a clip spans {span} frames, and these videos have {length}: make one of them smaller",
            spec.stride
        );
        let numbers = t * h * w * c;
        ensure!(
            numbers <= MOST,
            "--frames {t} and --side {h}: a clip is {:.1} GB: make one smaller",
            numbers as f64 * 4e-9
        );
        Ok(Prepared { device, network, views, spec, set: Set::new(self.seed, self.queries)? })
    }

    /// The average features of every video.
    fn features(&self, it: &Prepared, go_on: Arc<Check>) -> Result<Vec<Vec<f32>>> {
        let Prepared { device, network, views, spec, set } = it;
        let mut frozen = Frozen::new(&network.trunk, &network.params.to(device)?, self.precision);
        let [dims, _] = spec.dims();
        if self.pool.pool != Pool::Mean {
            frozen = frozen.keeping_time(dims)?;
        }
        let (n, some) = (set.videos(), (MOST / dims.iter().product::<usize>()).clamp(1, BATCH));
        let load: Arc<Load> = Arc::new({
            let (set, spec, views) = (set.clone(), spec.clone(), *views);
            move |video, view| {
                go_on()?;
                let [clip, _] = views.place(view);
                set.view(video, clip, &spec)
            }
        });
        let from = if network.file.is_some() { "the network" } else { "random weights" };
        let bar = Progress::new(&format!("features of {from}"), "videos", n as u64, 0);
        let work =
            Work { videos: n, views: views.count(), dims, batch: some, workers: rayon::current_num_threads(), load };
        let mut found = Vec::with_capacity(n);
        let how = Row { pool: self.pool.pool, unit: true, ..Row::MEAN };
        rows(&mut frozen, &work, how, &mut |_, row| {
            found.push(row);
            bar.inc(1);
            Ok(())
        })?;
        bar.finish();
        let finite = found.iter().flatten().all(|v| v.is_finite());
        ensure!(
            finite,
            "--init: the network computes infinite or NaN features of these videos: its weights are damaged"
        );
        Ok(found)
    }

    /// Everything that the result depends on.
    fn settings(&self, it: &Prepared) -> Result<serde_json::Value> {
        let (spec, network) = (&it.spec, &it.network);
        let mut all = json!({
            "program": "motion_similarity",
            "init.checksum": network.checksum,
            "--arch": network.arch(),
            "--seed": self.seed,
            "--queries": self.queries,
            "--precision": self.precision,
            "--clips": it.views.clips,
            "--pool": self.pool.pool.name(),
            "--frames": spec.frames,
            "--stride": spec.stride,
            "--side": spec.side,
            "fps": spec.fps,
            "mean": spec.augment.mean.map(|v| v.to_string()),
            "std": spec.augment.std.map(|v| v.to_string()),
        });
        // The network may have moved, where its checksum says that it is the same.
        let at = json!({"--init": path(self.init.as_deref()), "init.file": path(network.file.as_deref())});
        all[if network.checksum.is_some() { Folder::PATHS } else { "init" }] = at;
        Ok(all)
    }

    /// Prints what the evaluation would do.
    fn plan(&self, it: &Prepared) {
        let (spec, set) = (&it.spec, &it.set);
        let from = it.network.file.as_ref().map_or("random weights".to_owned(), |file| file.display().to_string());
        let views = format!(
            "{} of each video: {} frames {} apart, {}x{}",
            count(it.views.clips, "clip", "clips"),
            spec.frames,
            spec.stride,
            spec.side,
            spec.side
        );
        let rows = [
            ("videos", format!("{} of {}, procedural", set.videos(), count(self.queries, "query", "queries"))),
            ("views", views),
            ("network", format!("{}, {} features, {from}", it.network.arch(), it.network.trunk.features_dim())),
            ("device", format!("{}; precision {}", self.common.device_name(&it.device), self.precision)),
        ];
        rows.iter().for_each(|(name, text)| say(format_args!("{name:<9} {text}")));
    }

    fn summary(&self, it: &Prepared) -> Summary {
        let mut summary = Summary::default();
        let init = self.init.as_ref().map_or("random".to_owned(), |path| path.display().to_string());
        summary
            .set("init", init)
            .set("arch", it.network.arch())
            .set("device", self.common.device_name(&it.device))
            .set("precision", self.precision.name())
            .set("seed", self.seed)
            .set("threads", rayon::current_num_threads())
            .set("queries", self.queries)
            .set("videos", it.set.videos())
            .set("clips", it.views.clips)
            .set("pool", self.pool.pool.name())
            .set("frames", it.spec.frames)
            .set("stride", it.spec.stride)
            .set("side", it.spec.side)
            .set("r1_chance", 1.0 / similarity::CANDIDATES as f64);
        summary
    }
}

fn draw(it: &Prepared, found: &Found, out: &std::path::Path, go_on: GoOn) -> Result<()> {
    similarity::draw(&it.set, found, &out.join("similarity.png"))?;
    similarity::animate(&it.set, found, &out.join("similarity.apng"), go_on)
}
