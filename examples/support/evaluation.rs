//! An evaluation in progress: features of the videos of its parts, and what its summary says.

use super::evaluate::Options;
use super::init::Network;
use super::progress::Progress;
use super::protocol::Sampling;
use super::ranks::Ranks;
use super::summary::Summary;
use anyhow::{Context, Result};
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tubelet::error::ErrorKind;
use tubelet::eval::Features;
use tubelet::eval::views::{Each, Frozen, Load, Row, Views, Work, extract, rows};
use tubelet::tensor::Device;
use tubelet::train::folder::Folder;
use tubelet::train::views::{Loader, ViewSpec};
use tubelet::video::Dataset;

/// Views per forward pass, and the most numbers that they may have: 2 GB of them.
const BATCH: usize = 16;
pub const MOST: usize = 1 << 29;

/// The most numbers that a rank computes before ranks exchange them, unless a single video has more.
const ROUND: usize = 1 << 24;

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

/// Takes the numbers of a video, and of how many views they are.
type Take<'a> = dyn FnMut(usize, usize, Vec<f32>) -> tubelet::Result<()> + 'a;

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
    /// The processes that share the evaluation: each passes a part of the videos through the network.
    pub ranks: Ranks,
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

    /// For the sentence of the result: [`Options::elsewhere`] in parentheses, or nothing.
    pub fn elsewhere(&self) -> String {
        self.options.elsewhere(&self.start).map_or(String::new(), |what| format!(" ({what})"))
    }

    /// Length of the features of a view.
    fn dim(&self) -> usize {
        self.network.features()
    }

    /// How the features of a video's views become its row.
    fn row(&self) -> Row {
        Row { pool: self.sampling.pool, crops: self.views.crops, unit: self.sampling.unit }
    }

    /// Length of a video's row.
    pub fn row_len(&self) -> usize {
        self.row().len(&self.network, self.views.count())
    }

    /// The work of passing `views` of some of the videos of part `part` through the network, and a bar for it.
    fn work(&self, part: usize, views: Views, some: Range<usize>) -> (Work, Progress) {
        let (loader, [dims, _], videos) = (self.parts[part].loader.clone(), self.spec.dims(), some.len());
        // Where views are made, so that a signal ends the work within a batch, however many views a video has.
        let go_on = go_on(self.stop.clone(), &self.out);
        let load: Arc<Load> = Arc::new(move |video, view| {
            go_on()?;
            let [clip, crop] = views.place(view);
            Ok(loader.view(some.start + video, clip, crop)?.data)
        });
        let batch = (MOST / dims.iter().product::<usize>()).clamp(1, BATCH);
        let label = format!("features of {} videos", self.parts[part].data.split.name());
        let bar = Progress::new(&label, "clips", (videos * views.count()) as u64, 0);
        let workers = rayon::current_num_threads();
        (Work { videos, views: views.count(), dims, batch, workers, load }, bar)
    }

    /// Calls `row(video, features)` with the row of each video of part `part`, in order; of several ranks all do so.
    pub fn rows(&mut self, part: usize, row: &mut dyn FnMut(usize, Vec<f32>) -> tubelet::Result<()>) -> Result<()> {
        let (views, of) = (self.views, self.row());
        let compute = |network: &mut Frozen, work: &Work, row: &mut Take| {
            rows(network, work, of, &mut |video, values| row(video, work.views, values))
        };
        self.shared(part, views, self.row_len(), &compute, &mut |video, values| row(video, values.to_vec()))
    }

    /// The rows of all videos of part `part`, with their labels.
    pub fn features(&mut self, part: usize) -> Result<Features> {
        let mut values = Vec::with_capacity(self.parts[part].len() * self.row_len());
        self.rows(part, &mut |_, row| {
            values.extend(row);
            Ok(())
        })?;
        Ok(Features::new(self.row_len(), values, self.parts[part].labels())?)
    }

    /// Calls `row(video, view, features)` for `views` of the videos of part `part`, in order; of several ranks all do so.
    pub fn each_view(&mut self, part: usize, views: Views, row: &mut Each) -> Result<()> {
        let d = self.dim();
        let compute = |network: &mut Frozen, work: &Work, row: &mut Take| {
            let mut all = Vec::with_capacity(work.views * d);
            extract(network, work, &mut |video, view, features| {
                all.extend_from_slice(features);
                if view + 1 < work.views { Ok(()) } else { row(video, work.views, std::mem::take(&mut all)) }
            })
        };
        let each = views.count() * d;
        self.shared(part, views, each, &compute, &mut |video, all| {
            all.chunks_exact(d).enumerate().try_for_each(|(view, features)| row(video, view, features))
        })
    }

    /// Calls `take(video, numbers)` for each video of part `part` in order, with the `each` numbers that `compute` has of it.
    /// Several ranks compute those of as many videos, and exchange them.
    fn shared(
        &mut self,
        part: usize,
        views: Views,
        each: usize,
        compute: &dyn Fn(&mut Frozen, &Work, &mut Take) -> tubelet::Result<()>,
        take: &mut dyn FnMut(usize, &[f32]) -> tubelet::Result<()>,
    ) -> Result<()> {
        let (videos, ranks, stop) = (self.parts[part].len(), self.ranks.clone(), self.stop.clone());
        let (rank, size) = (ranks.all.rank(), ranks.all.size());
        let of_rank = if size == 1 { videos } else { (ROUND / each).clamp(1, videos.div_ceil(size).max(1)) };
        for first in (0..videos).step_by((of_rank * size).max(1)) {
            let own = [rank, rank + 1].map(|rank| (first + rank * of_rank).min(videos));
            let (work, bar) = self.work(part, views, own[0]..own[1]);
            let mut numbers = Vec::new();
            let (part, network) = (&self.parts[part], &mut self.network);
            let mut row = |video: usize, views: usize, values: Vec<f32>| {
                bar.inc(views as u64);
                finite(part.name(own[0] + video), &values)?;
                if size == 1 {
                    return take(video, &values);
                }
                numbers.extend(values);
                Ok(())
            };
            ranks.together(&stop, || Ok(compute(network, &work, &mut row)?))?;
            bar.finish();
            if size > 1 {
                numbers.resize(of_rank * each, 0.0);
                let all = ranks.gather(&numbers, &self.device)?;
                (first..videos).zip(all.chunks_exact(each)).try_for_each(|(video, of)| take(video, of))?;
            }
        }
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
