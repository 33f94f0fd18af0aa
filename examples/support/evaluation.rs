//! An evaluation in progress: features of the videos of its parts, and what its summary says.

use super::evaluate::Options;
use super::init::Network;
use super::progress::Progress;
use super::protocol::Sampling;
use super::summary::Summary;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tubelet::error::ErrorKind;
use tubelet::eval::Features;
use tubelet::eval::views::{Each, Frozen, Load, Views, Work, extract, mean};
use tubelet::tensor::Device;
use tubelet::train::folder::Folder;
use tubelet::train::views::{Loader, ViewSpec};
use tubelet::video::Dataset;

/// Views per forward pass, and the most numbers that they may have: 2 GB of them.
const BATCH: usize = 16;
pub const MOST: usize = 1 << 29;

/// One part of the data, with its videos in the cache.
pub struct Part {
    pub data: Dataset,
    pub loader: Loader,
}

impl Part {
    /// Number of videos that can be used.
    pub fn len(&self) -> usize {
        self.loader.videos.len()
    }

    /// Video `i` of them: its place in the data set.
    pub fn place(&self, i: usize) -> usize {
        self.loader.videos[i]
    }

    /// The label of each; 0 in a data set without labels, whose features are only written.
    pub fn labels(&self) -> Vec<usize> {
        self.loader.videos.iter().map(|&i| self.data.items[i].label.unwrap_or(0)).collect()
    }

    /// The name of video `i`.
    pub fn name(&self, i: usize) -> &str {
        &self.data.items[self.place(i)].name
    }

    /// The name of its class; empty in a data set without labels.
    pub fn class(&self, i: usize) -> &str {
        self.data.items[self.place(i)].label.map_or("", |label| &self.data.classes[label])
    }
}

/// An evaluation with its output folder opened and its videos in the cache.
pub struct Evaluation<'a> {
    pub(super) options: &'a Options,
    /// The network of `--init`.
    pub start: Network,
    /// What computes the rows of views: its trunk, or what was trained from it.
    pub network: Frozen,
    pub views: Views,
    pub sampling: Sampling,
    pub(super) spec: ViewSpec,
    pub device: Device,
    /// Everything that the result depends on.
    pub settings: Value,
    /// Held until the end.
    pub folder: Folder,
    pub stop: Arc<AtomicBool>,
    pub out: PathBuf,
    pub(super) layout: String,
    pub parts: Vec<Part>,
    pub(super) skipped: usize,
    /// Whether the folder holds an evaluation with these settings, begun or finished.
    pub again: bool,
    pub(super) began: Instant,
}

impl Evaluation<'_> {
    /// Binds the folder to the settings, of which `free` may change.
    pub fn settle(&self, free: &[&str]) -> Result<()> {
        self.folder.settle(&self.settings, free).context("--out")
    }

    /// Length of the features.
    pub fn dim(&self) -> usize {
        self.network.features()
    }

    /// The work of passing `views` of the videos of part `part` through the network, and a bar for it.
    fn work(&self, part: usize, views: Views) -> (Work, Progress) {
        let (loader, [dims, _]) = (self.parts[part].loader.clone(), self.spec.dims());
        // Where views are made, so that a signal ends the work within a batch, however many views a video has.
        let go_on = go_on(self.stop.clone(), &self.out);
        let load: Arc<Load> = Arc::new(move |video, view| {
            go_on()?;
            let [clip, crop] = views.place(view);
            Ok(loader.view(video, clip, crop)?.data)
        });
        let (videos, batch) = (self.parts[part].len(), (MOST / dims.iter().product::<usize>()).clamp(1, BATCH));
        let label = format!("features of {} videos", self.parts[part].data.split.name());
        let bar = Progress::new(&label, "clips", (videos * views.count()) as u64, 0);
        let workers = rayon::current_num_threads();
        (Work { videos, views: views.count(), dims, batch, workers, load }, bar)
    }

    /// Calls `row(video, features)` with the average over all views of each video of part `part`, in order.
    pub fn means(&mut self, part: usize, row: &mut dyn FnMut(usize, Vec<f32>) -> tubelet::Result<()>) -> Result<()> {
        let (work, bar) = self.work(part, self.views);
        let each = work.views as u64;
        let part = &self.parts[part];
        mean(&mut self.network, &work, self.sampling.unit, &mut |video, values| {
            bar.inc(each);
            finite(part.name(video), &values)?;
            row(video, values)
        })?;
        bar.finish();
        Ok(())
    }

    /// The average features of all videos of part `part`, with their labels.
    pub fn features(&mut self, part: usize) -> Result<Features> {
        let mut values = Vec::with_capacity(self.parts[part].len() * self.dim());
        self.means(part, &mut |_, row| {
            values.extend(row);
            Ok(())
        })?;
        Ok(Features::new(self.dim(), values, self.parts[part].labels())?)
    }

    /// Calls `row(video, view, features)` for `views` of the videos of part `part`, in order.
    pub fn rows(&mut self, part: usize, views: Views, row: &mut Each) -> Result<()> {
        let (work, bar) = self.work(part, views);
        let part = &self.parts[part];
        extract(&mut self.network, &work, &mut |video, view, features| {
            bar.inc(1);
            finite(part.name(video), features)?;
            row(video, view, features)
        })?;
        bar.finish();
        Ok(())
    }

    /// Entries of the summary common to all evaluations.
    pub fn summary(&self) -> Summary {
        let (options, views, spec) = (self.options, self.views, &self.spec);
        let mut summary = Summary::default();
        let shown = |p: &Option<PathBuf>, none: &str| p.as_ref().map_or(none.to_owned(), |p| p.display().to_string());
        summary
            .set("init", shown(&options.init, "random"))
            .set("arch", self.start.arch())
            .set("preset", self.sampling.preset.as_str())
            .set("data", options.videos.origin())
            .set("layout", self.layout.as_str())
            .set("device", options.common.device_name(&self.device))
            .set("precision", options.precision.name())
            .set("seed", options.seed)
            .set("threads", rayon::current_num_threads())
            .set("videos_skipped", self.skipped)
            .set("views", views.count())
            .set("clips", views.clips)
            .set("crops", views.crops)
            .set("frames", spec.frames)
            .set("stride", spec.stride)
            .set("side", spec.side)
            .set("seconds", self.began.elapsed().as_secs_f64());
        summary
    }
}

/// Refuses what a network computed of the video called `name` if a number is infinite or NaN.
fn finite(name: &str, row: &[f32]) -> tubelet::Result<()> {
    if row.iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    let what = "what the network computes of this video is infinite or NaN: its weights (--init) are damaged, or are not \
                for clips with these colours (`input` of its config.json)";
    Err(ErrorKind::Data { path: name.into(), what: what.into() }.into())
}

/// A check of the stop flag, with what is told of an evaluation that was stopped.
pub fn go_on(stop: Arc<AtomicBool>, out: &Path) -> impl Fn() -> tubelet::Result<()> + use<> {
    let what = "features are not kept; the same command begins again, with the decoded frames of the cache";
    super::stop::go_on(stop, out, what)
}
