//! TV-L1 optical flow between two images, or along a video: `.flo` files and pictures in Middlebury's colours.

mod support;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use support::args::{Common, end};
use support::progress::Progress;
use support::summary::Summary;
use tubelet::flow::{Flow, Gray, color, flo};
use tubelet::ops::tvl1::{self, Tvl1};
use tubelet::tensor::Device;
use tubelet::video::{Clip, Decode, Ffmpeg, folder};

/// Computes TV-L1 optical flow: from one image to another, or from frame to frame of a video or a folder of frames.
/// Writes flow.flo and flow.png, or one of each per pair of frames (flow_00000.flo, ...), and summary.json.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Two images of one size, or one video file, or one folder of .jpg or .png frames
    #[arg(required = true, num_args = 1..=2, value_name = "INPUT")]
    input: Vec<PathBuf>,

    /// True flow of the two images: the mean end-point error in pixels goes into the summary as `epe`
    #[arg(long, value_name = "TRUTH.flo")]
    epe: Option<PathBuf>,

    /// Motion in pixels that gets full colour; 0 = the largest there is
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
#[command(next_help_heading = "Video")]
struct Video {
    /// Resize so that the shorter side has this many pixels; 0 = as it is
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    short_side: usize,

    /// Read at most this many frames; 0 = all
    #[arg(long, value_name = "FRAMES", default_value_t = 0)]
    max_frames: usize,

    /// From each frame to the one this many frames later
    #[arg(long, value_name = "FRAMES", default_value_t = 1)]
    gap: usize,

    /// Start at every how many-th frame
    #[arg(long, value_name = "FRAMES", default_value_t = 1)]
    every: usize,
}

#[derive(clap::Args)]
#[command(next_help_heading = "TV-L1 (defaults of OpenCV's DualTVL1OpticalFlow)")]
struct Parameters {
    /// Step of the dual update, no unit
    #[arg(long, default_value_t = Tvl1::default().tau)]
    tau: f64,

    /// Weight of equal brightness (0 to 255) against smoothness; smaller is smoother
    #[arg(long, default_value_t = Tvl1::default().lambda)]
    lambda: f64,

    /// Tightness of the coupling between the two halves of an iteration
    #[arg(long, default_value_t = Tvl1::default().theta)]
    theta: f64,

    /// Levels of the pyramid at most
    #[arg(long, value_name = "LEVELS", default_value_t = Tvl1::default().scales)]
    scales: usize,

    /// Size of a level relative to the next finer one
    #[arg(long, value_name = "RATIO", default_value_t = Tvl1::default().scale_step)]
    scale_step: f64,

    /// Warps on each level
    #[arg(long, default_value_t = Tvl1::default().warps)]
    warps: usize,

    /// A warp ends when the flow changes by at most this in an iteration (root mean square), in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = Tvl1::default().epsilon)]
    epsilon: f64,

    /// Iterations after each median filter
    #[arg(long, value_name = "N", default_value_t = Tvl1::default().inner_iterations)]
    inner: usize,

    /// Median filters on each warp
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
    end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let device = args.common.start()?;
    let p = args.tvl1.tvl1();
    p.check()?;
    ensure!(args.radius >= 0.0, "--radius {} must be 0 or more pixels", args.radius);
    let out = args.common.out("extract_flow");
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;

    let mut summary = Summary::default();
    summary
        .set("method", "tvl1")
        .set("device", args.common.device_name(&device))
        .set("threads", rayon::current_num_threads());
    match args.input.as_slice() {
        [a, b] => images(args, [a, b], &p, &device, &out, &mut summary)?,
        [video] => along(args, video, &p, &device, &out, &mut summary)?,
        _ => bail!("the input is two images, or one video or folder of frames"),
    }
    summary.set("out", out.display().to_string());
    summary.finish(&out)
}

/// The flow between two images.
fn images(args: &Args, paths: [&Path; 2], p: &Tvl1, device: &Device, out: &Path, summary: &mut Summary) -> Result<()> {
    let [a, b] = [gray(paths[0])?, gray(paths[1])?];
    let truth = args.epe.as_ref().map(flo::read).transpose()?;
    let began = Instant::now();
    let flow = match device {
        Device::Cpu => tvl1::flow(&a, &b, p)?, // all threads on one pair
        _ => tvl1::flow_pairs_on(device, &[(&a, &b)], p)?.remove(0),
    };
    let seconds = began.elapsed().as_secs_f64();
    flo::write(out.join("flow.flo"), &flow)?;
    let radius = color::radius(&flow);
    picture(&out.join("flow.png"), &flow, if args.radius > 0.0 { args.radius } else { radius })?;
    describe(summary, (flow.h(), flow.w()), 1, seconds, radius);
    if let Some(truth) = truth {
        summary.set("epe", flow.end_point_error(&truth)?);
    }
    Ok(())
}

/// The flow from frame to frame.
fn along(args: &Args, path: &Path, p: &Tvl1, device: &Device, out: &Path, summary: &mut Summary) -> Result<()> {
    let Video { short_side, max_frames, gap, every } = args.video;
    ensure!(args.epe.is_none(), "--epe compares the flow between two images, but one input came");
    ensure!(gap > 0 && every > 0, "--gap {gap} and --every {every} must be at least one frame");
    let some = |n: usize| (n > 0).then_some(n);
    let how = Decode { short_side: some(short_side), max_frames: some(max_frames), ..Decode::default() };
    let clip = if path.is_dir() { folder::read(path, &how)? } else { Ffmpeg::default().decode(path, &how)? };
    let starts: Vec<usize> = (0..clip.t.saturating_sub(gap)).step_by(every).collect();
    ensure!(!starts.is_empty(), "{} has {} frames, too few for a gap of {gap}", path.display(), clip.t);

    // The fastest pixel of all sets the colours, so pictures come after the last flow, from the files.
    let name = |t: usize, kind: &str| out.join(format!("flow_{t:05}.{kind}"));
    let progress = Progress::new("flow", "pairs", starts.len() as u64, 0);
    let began = Instant::now();
    let mut radii = Vec::new();
    for some in starts.chunks(tvl1::PAIRS) {
        let frames: Vec<_> =
            some.iter().map(|&t| Ok((frame(&clip, t)?, frame(&clip, t + gap)?))).collect::<Result<_>>()?;
        let pairs: Vec<_> = frames.iter().map(|(a, b)| (a, b)).collect();
        for (&t, flow) in some.iter().zip(tvl1::flow_pairs_on(device, &pairs, p)?) {
            flo::write(name(t, "flo"), &flow)?;
            radii.push(color::radius(&flow));
        }
        progress.inc(some.len() as u64);
    }
    let seconds = began.elapsed().as_secs_f64();
    progress.finish();
    let largest = radii.into_iter().fold(0.0, f32::max);
    let radius = if args.radius > 0.0 { args.radius } else { largest };
    let progress = Progress::new("pictures", "pairs", starts.len() as u64, 0);
    starts.par_iter().try_for_each(|&t| {
        picture(&name(t, "png"), &flo::read(name(t, "flo"))?, radius)?;
        progress.inc(1);
        anyhow::Ok(())
    })?;
    progress.finish();
    describe(summary, (clip.h, clip.w), starts.len(), seconds, largest);
    summary.set("frames", clip.t).set("fps", clip.fps);
    Ok(())
}

fn describe(summary: &mut Summary, (h, w): (usize, usize), pairs: usize, seconds: f64, largest: f32) {
    summary.set("height", h).set("width", w).set("pairs", pairs).set("seconds", seconds);
    summary.set("pairs_per_second", pairs as f64 / seconds.max(1e-9)).set("largest_motion", largest);
}

fn frame(clip: &Clip, t: usize) -> tubelet::error::Result<Gray> {
    Gray::from_rgb(clip.frame(t), clip.h, clip.w)
}

fn gray(path: &Path) -> Result<Gray> {
    let picture = image::open(path).with_context(|| format!("cannot read {} as an image", path.display()))?.to_rgb8();
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    Ok(Gray::from_rgb(picture.as_raw(), h, w)?)
}

fn picture(path: &Path, flow: &Flow, radius: f32) -> Result<()> {
    let (w, h) = (u32::try_from(flow.w())?, u32::try_from(flow.h())?);
    image::save_buffer(path, &color::image(flow, radius), w, h, image::ColorType::Rgb8)
        .with_context(|| format!("cannot write {}", path.display()))
}
