//! TV-L1 optical flow between two images, or along any number of videos: `.flo` files, and images in Middlebury's
//! colours.

mod support;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use support::args::{Common, program};
use support::extract::{Extract, picture, videos};
use support::stop::stop_flag;
use support::summary::Summary;
use tubelet::error::ErrorKind;
use tubelet::flow::{Gray, color, flo};
use tubelet::ops::tvl1::{self, Tvl1};
use tubelet::tensor::Device;
use tubelet::train::folder::Folder;
use tubelet::video::{Decode, folder};

/// Computes TV-L1 optical flow between two images, or between the frames of videos.
///
/// Two images give flow.flo and flow.png. Videos give one folder each, named after the video, with flow_00000.flo and
/// so on: the input of --flow-dir of the pre-training examples (with --gap 1 and --every 1), if both get the same
/// folder or lists, because names follow from them. A folder appears when it is complete, so the same command resumes
/// after an interruption. The last file written is summary.json.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Two images of equal size; or any number of videos: files, folders of .jpg or .png frames, folders that contain
    /// either, lists with a path (or a path and a label) per line
    #[arg(required = true, num_args = 1.., value_name = "INPUT")]
    input: Vec<PathBuf>,

    /// Ground-truth flow of the two images: the mean end-point error in pixels is written to the summary as `epe`
    #[arg(long, value_name = "TRUTH.flo")]
    epe: Option<PathBuf>,

    /// Motion in pixels drawn with full saturation; 0 = the largest motion
    #[arg(long, value_name = "PIXELS", default_value_t = 0.0)]
    radius: f32,

    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    video: Video,

    #[command(flatten)]
    tvl1: Parameters,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Videos")]
struct Video {
    /// Videos processed in parallel; they share the threads
    #[arg(long, value_name = "VIDEOS", default_value_t = 1)]
    jobs: usize,

    /// Also write an image of each field
    #[arg(long)]
    pictures: bool,

    /// Resize so that the shorter side has this many pixels; 0 = no resize. A run uses flow as it is if it has the size
    /// of the run's cached frames, and resizes flow of the video's own size
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    short_side: usize,

    /// Read at most this many frames; 0 = all
    #[arg(long, value_name = "FRAMES", default_value_t = 0)]
    max_frames: usize,

    /// Distance in frames between the two images of a field
    #[arg(long, value_name = "FRAMES", default_value_t = 1)]
    gap: usize,

    /// Start a field at every n-th frame
    #[arg(long, value_name = "FRAMES", default_value_t = 1)]
    every: usize,
}

#[derive(clap::Args)]
#[command(next_help_heading = "TV-L1 (defaults of OpenCV's DualTVL1OpticalFlow)")]
struct Parameters {
    /// Step size of the dual update
    #[arg(long, default_value_t = Tvl1::default().tau)]
    tau: f64,

    /// Weight of the data term (intensities 0 to 255) against smoothness; smaller is smoother
    #[arg(long, default_value_t = Tvl1::default().lambda)]
    lambda: f64,

    /// Strength of the coupling between the two fields of an iteration
    #[arg(long, default_value_t = Tvl1::default().theta)]
    theta: f64,

    /// Maximum number of pyramid levels
    #[arg(long, value_name = "LEVELS", default_value_t = Tvl1::default().scales)]
    scales: usize,

    /// Size of a pyramid level relative to the next finer one
    #[arg(long, value_name = "RATIO", default_value_t = Tvl1::default().scale_step)]
    scale_step: f64,

    /// Warps per level
    #[arg(long, default_value_t = Tvl1::default().warps)]
    warps: usize,

    /// A warp ends when an iteration changes the flow by at most this (root mean square), in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = Tvl1::default().epsilon)]
    epsilon: f64,

    /// Iterations after each median filter
    #[arg(long, value_name = "N", default_value_t = Tvl1::default().inner_iterations)]
    inner: usize,

    /// Median filters per warp
    #[arg(long, value_name = "N", default_value_t = Tvl1::default().outer_iterations)]
    outer: usize,

    /// Side of the median filter in pixels: 1 (none), 3 or 5
    #[arg(long, value_name = "PIXELS", default_value_t = Tvl1::default().median)]
    median: usize,
}

impl Parameters {
    fn tvl1(&self) -> Tvl1 {
        Tvl1 {
            tau: self.tau,
            lambda: self.lambda,
            theta: self.theta,
            scales: self.scales,
            scale_step: self.scale_step,
            warps: self.warps,
            epsilon: self.epsilon,
            inner_iterations: self.inner,
            outer_iterations: self.outer,
            median: self.median,
        }
    }
}

fn main() -> ExitCode {
    program(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let p = args.tvl1.tvl1();
    named(p.check())?;
    ensure!(args.radius >= 0.0 && args.radius.is_finite(), "--radius {} must be 0 or more pixels", args.radius);
    let Video { gap, every, jobs, .. } = args.video;
    ensure!(gap > 0 && every > 0, "--gap {gap} and --every {every} must be at least one frame");
    ensure!((1..=1024).contains(&jobs), "--jobs {jobs} must be 1 to 1024 videos");
    let device = args.common.start()?;
    let out = args.common.out("extract_flow");
    let mut summary = Summary::default();
    summary
        .set("method", "tvl1")
        .set("device", args.common.device_name(&device))
        .set("threads", rayon::current_num_threads());
    match args.input.as_slice() {
        [a, b] if is_image(a) && is_image(b) => images(args, [a, b], &p, &device, &out, &mut summary)?,
        _ => return along(args, p, &device, &out, summary),
    }
    summary.set("out", out.display().to_string());
    summary.finish(&out)
}

/// The error of a parameter by the name of its option.
fn named(result: tubelet::error::Result<()>) -> Result<()> {
    result.map_err(|e| match e.kind() {
        ErrorKind::Param { name, value, rule, .. } => {
            let option = name.trim_end_matches("_iterations").replace('_', "-");
            anyhow::anyhow!("--{option} {value}: {rule}")
        }
        _ => e.into(),
    })
}

fn is_image(path: &Path) -> bool {
    path.is_file() && image::ImageFormat::from_path(path).is_ok_and(|format| format != image::ImageFormat::Gif)
}

/// The flow between two images.
fn images(args: &Args, paths: [&Path; 2], p: &Tvl1, device: &Device, out: &Path, summary: &mut Summary) -> Result<()> {
    let [a, b] = [gray(paths[0])?, gray(paths[1])?];
    let truth = args.epe.as_ref().map(flo::read).transpose().context("--epe")?;
    let began = Instant::now();
    let flow = match device {
        Device::Cpu => tvl1::flow(&a, &b, p)?, // all threads on one pair
        _ => tvl1::flow_pairs_on(device, &[(&a, &b)], p)?.remove(0),
    };
    let seconds = began.elapsed().as_secs_f64();
    let epe = truth.map(|truth| flow.end_point_error(&truth)).transpose().context("--epe")?;
    let folder = Folder::open(out).context("--out")?;
    folder.settle(&serde_json::json!({"program": "extract_flow", "input": "two images"}), &[]).context("--out")?;
    flo::write(out.join("flow.flo"), &flow)?;
    let radius = color::radius(&flow);
    picture(&out.join("flow.png"), &flow, if args.radius > 0.0 { args.radius } else { radius })?;
    summary.set("height", flow.h()).set("width", flow.w());
    describe(summary, 1, seconds, radius);
    if let Some(epe) = epe {
        summary.set("epe", epe);
    }
    Ok(())
}

/// The flow between the frames of videos.
fn along(args: &Args, p: Tvl1, device: &Device, out: &Path, mut summary: Summary) -> Result<()> {
    let Video { short_side, max_frames, gap, every, jobs, pictures } = args.video;
    ensure!(args.epe.is_none(), "--epe compares the flow between two images, but the input is not two images");
    let videos = videos(&args.input)?;
    let some = |n: usize| (n > 0).then_some(n);
    let how = Decode { short_side: some(short_side), max_frames: some(max_frames), ..Decode::default() };
    let folder = Folder::open(out).context("--out")?;
    // Everything that the fields depend on, by the names of the options.
    folder.settle(
        &serde_json::json!({
            "program": "extract_flow",
            "--short-side": short_side,
            "--max-frames": max_frames,
            "--gap": gap,
            "--every": every,
            "--tau": p.tau,
            "--lambda": p.lambda,
            "--theta": p.theta,
            "--scales": p.scales,
            "--scale-step": p.scale_step,
            "--warps": p.warps,
            "--epsilon": p.epsilon,
            "--inner": p.inner_iterations,
            "--outer": p.outer_iterations,
            "--median": p.median,
        }),
        &[],
    )?;
    let (stop, began) = (stop_flag()?, Instant::now());
    let extract = Extract {
        out,
        how,
        gap,
        every,
        flows: tvl1::Flows::new(device, &p),
        pictures: pictures.then_some(args.radius),
        jobs,
        threads: rayon::current_num_threads(),
        stop: &stop,
    };
    let done = extract.run(&videos)?;
    summary.set("videos", videos.len()).set("videos_written", done.written).set("videos_there", done.there);
    summary.set("videos_failed", done.failed.len()).set("jobs", jobs);
    describe(&mut summary, done.pairs, began.elapsed().as_secs_f64(), done.largest);
    if let (Some((t, h, w, fps)), [_]) = (done.last, videos.as_slice()) {
        summary.set("frames", t).set("height", h).set("width", w).set("fps", fps);
    }
    if done.written == 0 {
        // Nothing was measured now.
        for name in MEASURED {
            summary.set(name, serde_json::Value::Null);
        }
        summary.keep(out, "videos", &[&MEASURED[..], &MEASURED_OF].concat());
    }
    summary.set("out", out.display().to_string());
    summary.finish(out)?;
    if let Some((name, why)) = done.failed.first() {
        bail!("{} of {} videos have no flow; the first, {}: {why}", done.failed.len(), videos.len(), name.display());
    }
    Ok(())
}

/// What [`describe`] says.
const MEASURED: [&str; 4] = ["pairs", "seconds", "pairs_per_second", "largest_motion"];
/// What it was measured of, and with.
const MEASURED_OF: [&str; 7] = ["frames", "height", "width", "fps", "jobs", "threads", "device"];

fn describe(summary: &mut Summary, pairs: usize, seconds: f64, largest: f32) {
    summary.set("pairs", pairs).set("seconds", seconds);
    summary.set("pairs_per_second", pairs as f64 / seconds.max(1e-9)).set("largest_motion", largest);
}

fn gray(path: &Path) -> Result<Gray> {
    let picture = folder::image(path)?;
    Ok(Gray::from_rgb(&picture.rgb, picture.h, picture.w)?)
}
