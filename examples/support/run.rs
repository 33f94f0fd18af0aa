//! Shared code of the pre-training examples: filling the cache, the sheet of clips, displaying a run.

use super::checks::of_cache;
use super::output::{count, say, say_aside, warn};
use super::progress::Progress;
use super::sheet::{Legend, Sample, Strip};
use super::{curves, sheet};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use tubelet::flow::{Gray, color, motion::MotionInput};
use tubelet::ops::tvl1;
use tubelet::tensor::Device;
use tubelet::train::pretrain::{At, Observer, Report, Scores};
use tubelet::train::views::{Loader, ViewSpec};
use tubelet::video::cache::{Builder, Foreseen, Holder, Progress as CacheProgress, Report as CacheReport};
use tubelet::video::pack::Verify;
use tubelet::video::{Cache, Dataset, Ffmpeg, Pack, Split};

/// Brings a split into the cache in folder `dir`, with flow if `motion`; with `verify`, existing files are compared
/// with their checksums. Videos that cannot be read are printed, and named in the second result.
pub fn loader(
    dir: &Path,
    data: &Dataset,
    views: &ViewSpec,
    motion: bool,
    seed: u64,
    verify: bool,
    stop: &AtomicBool,
) -> Result<(Loader, Vec<String>)> {
    let bar = Progress::new(&format!("{} videos", data.split.name()), "videos", data.len() as u64, 0);
    if Pack::is_at(dir) {
        let built = packed(dir, data, views, motion, verify.then_some(stop), &bar);
        bar.finish();
        let (cache, report) = built?;
        report.damaged.iter().for_each(warn);
        tell_failed(data, &report);
        return Ok(loader_of(cache, report, views, seed, motion));
    }
    let shown = Mutex::new(CacheShown::default());
    let flow = |pairs: &[(&Gray, &Gray)]| tvl1::flow_pairs(pairs, &views.flow);
    let progress = |p: CacheProgress| shown.lock().unwrap_or_else(|e| e.into_inner()).show(&bar, dir, p);
    let with = Builder {
        ffmpeg: Ffmpeg::default(),
        flow: Some(&flow),
        pairs: 1,
        threads: rayon::current_num_threads(),
        verify,
        stop,
        progress: &progress,
    };
    let built = Cache::build(dir, data, &views.cache(motion), &with);
    if !data.is_empty() {
        bar.finish();
    }
    let (cache, report) = of_cache(built, dir, data, &views.flow_source)?;
    if report.built > 0 {
        let [decoded, flowed, mapped] = [report.decoded, report.flowed, report.mapped];
        let name = data.split.name();
        say(format_args!(
            "{name} videos: {decoded} decoded, {flowed} flowed, {mapped} mapped now; the rest was in the cache"
        ));
    }
    tell_failed(data, &report);
    Ok(loader_of(cache, report, views, seed, motion))
}

/// The loader of the usable videos of a cache, and the names of the others.
fn loader_of(cache: Cache, report: CacheReport, views: &ViewSpec, seed: u64, motion: bool) -> (Loader, Vec<String>) {
    let loader = Loader { videos: cache.usable(), cache, spec: views.clone(), seed, motion, on_gpu: false };
    (loader, report.failed.into_iter().map(|(_, name, _)| name).collect())
}

/// The videos of a packed folder; with `verify`, the stop flag, all their data is compared with its checksums.
fn packed(
    dir: &Path,
    data: &Dataset,
    views: &ViewSpec,
    motion: bool,
    verify: Option<&AtomicBool>,
    bar: &Progress,
) -> Result<(Cache, CacheReport)> {
    let read = Mutex::new(0);
    let progress = |now: u64| {
        let mut read = read.lock().unwrap_or_else(|e| e.into_inner());
        bar.inc(now.saturating_sub(*read));
        *read = now.max(*read);
    };
    let verify = verify.map(|stop| Verify { threads: rayon::current_num_threads(), stop, progress: &progress });
    let pack = Arc::new(Pack::open(dir)?);
    of_cache(Cache::packed(&pack, data.split, &views.cache(motion), verify), dir, data, &views.flow_source)
}

/// Names the videos that cannot be used.
fn tell_failed(data: &Dataset, report: &CacheReport) {
    for (_, name, why) in &report.failed {
        say_aside(format_args!("skipped {name}: {why}"));
    }
    if data.split == Split::Test && !report.failed.is_empty() {
        let (n, all) = (report.failed.len(), count(data.len(), "test video", "test videos"));
        warn(format_args!("{n} of {all} skipped: scores are of the others, and differ from those of the whole set"));
    }
}

/// The loader of samples for networks on `device`. A GPU makes the RGB clips itself, of frames: it does so in a fraction of the
/// time, and frames are fewer bytes.
pub fn fed_to(device: &Device, loader: &Loader) -> Loader {
    Loader { on_gpu: *device != Device::Cpu, ..loader.clone() }
}

/// The problems that [`loader`] would find before it decodes a video; nothing is created.
pub fn foresee(dir: &Path, data: &Dataset, views: &ViewSpec, motion: bool) -> Result<Foreseen> {
    if Pack::is_at(dir) {
        let (cache, report) = packed(dir, data, views, motion, None, &Progress::new("", "videos", 0, 0))?;
        let lengths = (0..cache.len()).map(|i| cache.length(i).ok()).collect();
        return Ok(Foreseen { failed: report.failed, lengths });
    }
    let flow = |pairs: &[(&Gray, &Gray)]| tvl1::flow_pairs(pairs, &views.flow);
    let with = Builder {
        ffmpeg: Ffmpeg::default(),
        flow: Some(&flow),
        pairs: 1,
        threads: rayon::current_num_threads(),
        verify: false,
        stop: &AtomicBool::new(false),
        progress: &|_| {},
    };
    of_cache(Cache::foresee(dir, data, &views.cache(motion), &with), dir, data, &views.flow_source)
}

/// The progress of a cache that was displayed so far.
#[derive(Default)]
struct CacheShown {
    done: usize,
    waiting: Option<Holder>,
}

impl CacheShown {
    fn show(&mut self, bar: &Progress, dir: &Path, p: CacheProgress) {
        let now = p.done + p.failed;
        bar.inc(now.saturating_sub(self.done) as u64);
        self.done = now.max(self.done);
        if let Some(what) = &p.damaged {
            bar.warn(&format!("{what}; it is made again"));
        }
        if p.waiting != self.waiting {
            match &p.waiting {
                Some(holder) => {
                    bar.say(&format!("waiting for {holder}, which is writing into the cache {}", dir.display()));
                    bar.note(format!("waiting for {holder}"));
                }
                None => bar.note(String::new()),
            }
            self.waiting = p.waiting;
        }
    }
}

/// The first clips of some videos: the inputs of the RGB and the motion network, and the flow.
pub fn draw_sheet(out: &Path, loader: &Loader, data: &Dataset) -> Result<()> {
    let (mut samples, mut flows) = (Vec::new(), Vec::new());
    for video in sheet::shown(loader, data) {
        let pair = loader.pair(0, video)?;
        // With synthetic tubelets the second clip is of another video, and what both share is to be seen.
        let names = ["RGB input", "its positive"];
        let shown = if loader.spec.tubelets > 0 { 2 } else { 1 };
        let mut strips = Vec::new();
        for (name, rgb) in names.iter().zip(&pair.rgb).take(shown) {
            let [_, h, w, _] = rgb.dims;
            let bytes = sheet::bytes(rgb, &loader.spec.augment);
            let frames: Vec<&[u8]> = bytes.chunks_exact(h * w * 3).collect();
            strips.push(Strip::rgb(name, &frames, h, w)?);
        }
        if let Some([motion, _]) = &pair.motion {
            strips.push(Strip::motion("motion input", motion)?);
        }
        if loader.motion && loader.spec.motion.needs_flow() {
            let view = loader.cache.get(loader.videos[video])?;
            let frames = loader.motion_frames(&view, pair.starts[0])?;
            let fields: Vec<_> = frames.into_iter().map(|t| view.flow_field(view.field_of(t))).collect();
            flows.push((samples.len(), fields));
        }
        samples.push(Sample { title: data.items[loader.videos[video]].name.clone(), strips });
    }
    let spec = &loader.spec;
    let fastest = || flows.iter().flat_map(|(_, fields)| fields).map(color::radius).fold(0.0, f32::max);
    let radius = if spec.motion == MotionInput::Flow { spec.motion_clamp } else { fastest() };
    for (sample, fields) in &flows {
        samples[*sample].strips.push(Strip::flow("flow, not cropped", fields, radius)?);
    }
    let clamp = spec.motion_clamp;
    let motion = match spec.motion {
        MotionInput::FrameDifference => {
            "Motion input: the difference of two frames, brighter where it is larger.".into()
        }
        MotionInput::Flow => {
            format!("Motion input: flow in the same colours; each component is clipped at {clamp} (--motion-clamp).")
        }
        MotionInput::FlowAndEdges => format!(
            "Motion input: flow less its median, in red and green, and its edges in blue, clipped at {clamp} (--motion-clamp)."
        ),
        MotionInput::FlowEdges => format!("Motion input: edges of flow, white from {clamp} on (--motion-clamp)."),
    };
    let flow = format!(
        "Flow: the hue is the direction of motion, as on the wheel. Its rim is {radius:.1} pixels per frame of the cache \
         ({} pixels on the short side); what is faster is darker.",
        spec.cache_side
    );
    let clips = format!(
        "{} of {} training videos in their first epoch, {}{}{}{}.",
        samples.len(),
        loader.videos.len(),
        sheet::augmented(&spec.augment),
        match spec.background_swap {
            0.0 => String::new(),
            p => format!("; RGB clips are over another video's background with probability {p}"),
        },
        match spec.tubelets {
            0 => String::new(),
            n => format!("; the positive is of another video, with the same {n} synthetic tubelets"),
        },
        if flows.is_empty() { "" } else { "; flow is of the whole frames" }
    );
    let wheel = !flows.is_empty();
    let text = [Some(flow).filter(|_| wheel), Some(motion).filter(|_| loader.motion), Some(clips)]
        .into_iter()
        .flatten()
        .collect();
    sheet::draw(out, &Legend { text, wheel, key: Vec::new() }, &samples)
}

/// Displays a run on the terminal and as curves.
pub struct Show {
    out: PathBuf,
    bar: Option<Progress>,
    before: Option<Scores>,
    total: u64,
    /// A description of the network before the first step, for the curves.
    start: &'static str,
}

impl Show {
    /// A run of `total` steps that writes to the folder `out`; `start` describes the network before it, such as `random
    /// network`.
    pub fn new(out: PathBuf, total: u64, start: &'static str) -> Self {
        Show { out, bar: None, before: None, total, start }
    }

    /// Draws `curves.png`, with the scores before training as dashed lines; without scores the losses alone. If they cannot be drawn, a warning is
    /// printed: a run does not fail because of them.
    pub fn curves(&self, before: Option<Scores>) {
        let baselines = before.map(|s| vec![("probe_top1", s.probe), ("knn_top1", s.knn)]).unwrap_or_default();
        let (log, picture) = (self.out.join("metrics.jsonl"), self.out.join("curves.png"));
        if let Err(e) = curves::draw(&log, &baselines, self.start, &picture) {
            warn(format_args!("no curves: {e:#}"));
        }
    }
}

impl Observer for Show {
    fn damaged(&mut self, what: &[String], step: u64) {
        what.iter().for_each(warn);
        warn(format_args!("the run goes on from its checkpoint of step {step}"));
    }

    fn lost(&mut self, what: &str) {
        warn(what);
    }

    fn step(&mut self, at: At, steps: u64, report: &Report, _: f64) {
        let bar = self.bar.get_or_insert_with(|| Progress::new("training", "steps", self.total, at.step));
        bar.note(format!("loss {:.3}", report.loss));
        bar.inc(1);
        if at.step + 1 == steps
            && let Some(bar) = self.bar.take()
        {
            bar.finish();
        }
    }

    fn scores(&mut self, epochs: u64, scores: Scores) {
        self.before = self.before.or(Some(scores));
        let after = count(epochs as usize, "epoch", "epochs");
        let text = format!("after {after}: linear probe {:.3}, 1-NN {:.3}", scores.probe, scores.knn);
        match &self.bar {
            Some(bar) => bar.say(&text),
            None => say(text),
        }
    }

    fn epoch(&mut self, _: u64) {
        self.curves(self.before);
    }
}
