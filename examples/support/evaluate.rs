//! Shared code of the examples that evaluate frozen features: options, and the path from a network and videos to
//! features.

use super::args::{Common, arch, one_of, within};
use super::checks::{folder_to_be, goes_on, outside_of_data, same_are_skipped};
use super::evaluation::{Evaluation, MOST, Part};
use super::init::{self, Network};
use super::options::set;
use super::output::{count, say, warn};
use super::protocol::Sampling;
use super::ranks::Ranks;
use super::run::{foresee, loader};
use super::settings::path;
use super::stop::stop_flag;
use super::videos::VideoOptions;
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Instant;
use tubelet::eval::Pool;
use tubelet::eval::views::{Frozen, Views};
use tubelet::nn::nets::Naming;
use tubelet::nn::{Arch, Precision};
use tubelet::tensor::Device;
use tubelet::train::folder::Folder;
use tubelet::train::limits;
use tubelet::train::views::ViewSpec;
use tubelet::video::Dataset;

/// Clips per video where neither preset nor run says another number.
const CLIPS: usize = 4;

/// Options of all evaluations.
#[derive(clap::Args)]
pub struct Options {
    /// The network: a run's folder (its newest intact checkpoint, RGB query network), a folder with model.safetensors,
    /// or a file of weights; without it, random weights
    #[arg(long, value_name = "RUN|DIR|FILE")]
    pub init: Option<PathBuf>,
    /// Its architecture [default: what the run or the folder says; otherwise the small network of pretrain_maclr]
    #[arg(long, value_name = "NAME", value_parser = arch())]
    arch: Option<&'static Arch>,
    #[command(flatten)]
    pub videos: VideoOptions,
    #[command(flatten)]
    pub common: Common,
    /// Seed of everything random: weights, procedural clips (training and test videos), the part that --labels takes, the
    /// order of gradient descent
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within::<u64>(limits::SEED))]
    pub seed: u64,
    /// Check network, options and the list of videos, print the plan and stop: nothing is decoded or written
    #[arg(long)]
    dry_run: bool,
    /// Precision of the network, as in the pre-training examples
    #[arg(long, default_value_t = Precision::F32, value_parser = one_of(Precision::ALL.map(|p| (p.name(), p))))]
    pub precision: Precision,
    /// Clips per video, evenly spaced [default: the preset's; small: those of the run's probe, or 4]
    #[arg(long, value_parser = within::<usize>(limits::CLIPS))]
    clips: Option<usize>,
    /// Squares per clip: the middle, or left, middle and right (upper, middle and lower) [default: the preset's; small:
    /// 1]
    #[arg(long, value_parser = one_of([("1", 1usize), ("3", 3)]))]
    crops: Option<usize>,
    /// Frames of a clip [default: the preset's; small: as the network was trained, or 8]
    #[arg(long, value_parser = within::<usize>(limits::FRAMES))]
    frames: Option<usize>,
    /// Distance between frames of a clip, in frames of the video [default: as for --frames, or 4]
    #[arg(long, value_parser = within::<usize>(limits::STRIDE))]
    stride: Option<usize>,
    /// Side of the clips, pixels [default: as for --frames, or 48]
    #[arg(long, value_parser = within::<usize>(limits::SIDE))]
    side: Option<usize>,
}

/// What a program does with the network, and with which videos.
pub struct Task {
    /// The program's name.
    pub program: &'static str,
    /// The parts of the data.
    pub data: Vec<Dataset>,
    /// How the data is laid out, in words.
    pub layout: String,
    /// Settings of the program itself.
    pub settings: Map<String, Value>,
    /// Further rows of the plan that a dry run prints.
    pub plan: Vec<(&'static str, String)>,
}

/// What is evaluated, before any video is looked for.
pub struct Prepared {
    device: Device,
    pub ranks: Ranks,
    pub network: Network,
    sampling: Sampling,
    pub views: Views,
    pub spec: ViewSpec,
}

impl Options {
    /// Starts the threads, opens the device and reads the network, which is refused here if it is another one or too
    /// large for the clips. `sampling` is what the preset says of these.
    pub fn prepare(&self, sampling: Sampling) -> Result<Prepared> {
        self.prepare_on((self.common.start()?, Ranks::alone()), sampling)
    }

    /// The same of a program that may be one of several ranks, which are connected already.
    pub fn prepare_on(&self, (device, ranks): (Device, Ranks), sampling: Sampling) -> Result<Prepared> {
        self.videos.check()?;
        let network = init::network(self.init.as_deref(), self.arch, self.seed)?;
        // Motion networks, too, may take three channels: the same map three times.
        let motion = network.net.naming == Naming::SlowFast { pathway: 1 };
        ensure!(
            network.net.in_channels == 3 && !motion,
            "--arch {}: this network takes clips of {}, and what is evaluated is one of RGB",
            network.arch(),
            if motion { "motion".to_owned() } else { count(network.net.in_channels, "channel", "channels") }
        );
        if let Some(of) = sampling.network.filter(|of| *of != network.arch()) {
            warn(format_args!(
                "--preset {} is published for the network {of}, and this one is {}: its figures cannot be compared with the \
                 published ones",
                sampling.preset,
                network.arch()
            ));
        }
        if let Some(what) = self.elsewhere(&network) {
            say(what);
        }
        let mut spec = ViewSpec::small();
        if self.videos.procedural() {
            spec.stride = 2; // procedural videos are short
        }
        let known = network.clips.as_ref();
        if let Some(clips) = known {
            clips.apply(&mut spec);
        } else if let Some([mean, std]) = sampling.colours {
            (spec.augment.mean, spec.augment.std) = (mean, std);
        }
        spec.segments = sampling.segments;
        if let Some([frames, stride, side]) = sampling.clip {
            (spec.frames, spec.stride, spec.side, spec.cache_side) = (frames, stride, side, 256);
        }
        set(&mut spec.frames, self.frames);
        set(&mut spec.stride, self.stride);
        set(&mut spec.side, self.side);
        spec.cache_side = spec.cache_side.max(spec.side);
        if network.file.is_some() && known.is_none() && (sampling.clip.is_none() || sampling.colours.is_none()) {
            init::warn_of_assumed_clips(&spec);
        }
        let probe = known.and_then(|clips| clips.probe_clips).unwrap_or(CLIPS);
        let mut views = sampling.views.unwrap_or(Views { clips: probe, crops: 1 });
        set(&mut views.clips, self.clips);
        set(&mut views.crops, self.crops);
        let [[t, h, w, _], _] = spec.dims();
        let fits = network.trunk.grids(&network.params, [t, h, w]);
        fits.with_context(|| format!("--frames {t} and --side {h}: the network takes no such clips"))?;
        let numbers = t * h * w * 3;
        ensure!(
            numbers <= MOST,
            "--frames {t} and --side {h}: a clip is {:.1} GB, and at most {:.1} GB are allowed: make one of them smaller",
            numbers as f64 * 4e-9,
            MOST as f64 * 4e-9
        );
        Ok(Prepared { device, ranks, network, sampling, views, spec })
    }

    /// That the videos are procedural clips and the network was trained on others, if so.
    pub fn elsewhere(&self, network: &Network) -> Option<String> {
        let data = network.trained_on.as_ref().filter(|_| self.videos.procedural())?;
        Some(format!("on procedural videos, since no --data is given; the network was trained on {data}"))
    }
}

impl Prepared {
    /// As [`Prepared::begin`], and binds the folder to these settings.
    pub fn open(self, options: &Options, task: Task) -> Result<Option<Evaluation<'_>>> {
        let Some(run) = self.begin(options, task)? else { return Ok(None) };
        if run.ranks.is_first() {
            run.settle(&[])?;
        }
        if run.again {
            say(format_args!("evaluating again what {} is of: the figures are the same", run.out.display()));
        }
        Ok(Some(run))
    }

    /// Checks everything that can be checked before decoding, opens the folder `--out` and fills the cache with the videos.
    /// A dry run ends here and opens nothing. Of several ranks all do so, but the first alone opens the folder; nothing is
    /// written before they agree.
    pub fn begin(self, options: &Options, task: Task) -> Result<Option<Evaluation<'_>>> {
        let Task { program, data, layout, settings: more, plan } = task;
        let out = options.common.out(program);
        outside_of_data([("--out", &out), ("--cache", &options.videos.cache)], options.videos.data.as_deref())?;
        folder_to_be("--cache", &options.videos.cache)?;
        data.iter().flat_map(|data| &data.warnings).for_each(warn);
        let mut settings = self.settings(options, program, &data, more)?;
        let ranks = self.ranks.clone();
        let is_first = ranks.is_first();
        let check_out = || match is_first {
            true => Folder::check(&out).with_context(|| format!("--out {}", out.display())),
            false => Ok(()),
        };
        let mut facts = settings.clone();
        facts["--dry-run"] = options.dry_run.into();
        if options.dry_run {
            for data in &data {
                let seen = foresee(&options.videos.cache, data, &self.spec, false)?;
                for (_, name, why) in &seen.failed {
                    warn(format_args!("would be skipped: {name}: {why}"));
                }
            }
            check_out()?;
            ranks.agree_to_start(&facts, &out)?;
            goes_on(&out, &settings, false)?;
            self.plan(options, &data, &layout, &plan);
            say(format_args!("checked: {program} would write into {}; nothing was written", out.display()));
            return Ok(None);
        }
        check_out()?;
        ranks.agree_to_start(&facts, &out)?;
        let folder = if is_first { Folder::open(&out).context("--out")? } else { Folder::of_first_rank(&out) };
        let again = goes_on(&out, &settings, false)?;
        let stop = stop_flag()?;
        // Of the ranks on a machine, which share a cache, one compares it with its checksums.
        let verify = !options.videos.no_verify && ranks.world.local_rank == 0;
        let cache = &options.videos.cache;
        let (mut parts, mut skipped) = (Vec::new(), Vec::new());
        let fill = || {
            for data in data {
                let (loader, names) = loader(cache, &data, &self.spec, false, options.seed, verify, &stop)?;
                skipped.extend(names);
                parts.push(Part { data, loader });
            }
            Ok(())
        };
        ranks.together(&stop, fill)?;
        settings["videos.skipped"] = skipped.clone().into();
        same_are_skipped(&out, &skipped)?;
        goes_on(&out, &settings, true)?;
        ranks.agree_on_videos(&settings)?;
        let Prepared { device, network: start, sampling, views, spec, .. } = self;
        let mut network = Frozen::new(&start.trunk, &start.params.to(&device)?, options.precision);
        if sampling.pool != Pool::Mean {
            network = network.keeping_time(spec.dims()[0])?;
        }
        let (skipped, began) = (skipped.len(), Instant::now());
        Ok(Some(Evaluation {
            options,
            start,
            network,
            views,
            sampling,
            spec,
            device,
            ranks,
            settings,
            folder,
            stop,
            out,
            layout,
            parts,
            skipped,
            again,
            began,
        }))
    }

    /// Everything that the result depends on.
    fn settings(&self, options: &Options, program: &str, data: &[Dataset], more: Map<String, Value>) -> Result<Value> {
        let (spec, views) = (&self.spec, self.views);
        let init = path(options.init.as_deref());
        let mut all = json!({
            "program": program,
            "init.file": path(self.network.file.as_deref()),
            "init.checksum": self.network.checksum,
            "--arch": self.network.arch(),
            "--preset": self.sampling.preset,
            "--seed": options.seed,
            "--precision": options.precision.name(),
            "--clips": views.clips,
            "--crops": views.crops,
            "--frames": spec.frames,
            "--stride": spec.stride,
            "--side": spec.side,
            "fps": spec.fps,
            "cache_side": spec.cache_side,
            "mean": spec.augment.mean.map(|v| v.to_string()),
            "std": spec.augment.std.map(|v| v.to_string()),
            "unit": self.sampling.unit,
            "--pool": self.sampling.pool.name(),
        });
        // The network may have moved, where its checksum says that it is the same.
        let mut paths =
            json!({"--data": path(options.videos.data.as_deref()), "--test": path(options.videos.test.as_deref())});
        if self.network.checksum.is_some() {
            paths["--init"] = init;
            paths["init.file"] = all["init.file"].take();
        } else {
            all["--init"] = init;
        }
        all[Folder::PATHS] = paths;
        for data in data {
            let name = format!("videos.{}", data.split.name());
            all[format!("{name}.hash")] = format!("{:016x}", data.fingerprint()?).into();
            all[name] = data.len().into();
        }
        more.into_iter().for_each(|(name, value)| all[name] = value);
        Ok(all)
    }

    /// Prints what the evaluation would do.
    fn plan(&self, options: &Options, data: &[Dataset], layout: &str, more: &[(&str, String)]) {
        let (spec, views) = (&self.spec, self.views);
        let videos: Vec<String> = data.iter().map(|data| format!("{} {}", data.len(), data.split.name())).collect();
        let from = self.network.file.as_ref().map_or("random weights".to_owned(), |file| file.display().to_string());
        let rows = [
            ("data", layout.to_owned()),
            ("videos", format!("{}; {}", videos.join(", "), count(data[0].classes.len(), "class", "classes"))),
            (
                "views",
                format!(
                    "{} of each video, {}: {} frames {} apart, {}x{}",
                    count(views.clips, "clip", "clips"),
                    count(views.crops, "square", "squares"),
                    spec.frames,
                    spec.stride,
                    spec.side,
                    spec.side
                ),
            ),
            ("network", format!("{}, {} features, {from}", self.network.arch(), self.network.trunk.features_dim())),
            ("--pool", self.sampling.pool.name().to_owned()),
            ("device", format!("{}; precision {}", options.common.device_name(&self.device), options.precision)),
            ("--cache", options.videos.cache.display().to_string()),
        ];
        rows.iter().chain(more).for_each(|(name, text)| say(format_args!("{name:<9} {text}")));
    }
}
