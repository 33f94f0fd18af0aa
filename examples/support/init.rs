//! The network that an evaluation takes: of a run, of an exported folder, of a file of weights, or a random one.

use super::output::{say, warn};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tubelet::nn::{ARCHES, Arch, Net, Params, Trunk};
use tubelet::train::checkpoint::newest_intact;
use tubelet::train::folder::Folder;
use tubelet::train::maclr::Recipe;
use tubelet::train::views::ViewSpec;
use tubelet::weights::{Config, ImageHead, InputSpec, NETWORKS, Source, Start, names, read_networks};

/// Prefix of the RGB network's names in a run's weights: of a pre-training, or of training with labels.
const PREFIXES: [&str; 2] = ["encoder_q.", ""];

/// A trunk with its weights, and the clips that it was trained with.
pub struct Network {
    /// Its table.
    pub net: Net,
    /// The structure.
    pub trunk: Trunk,
    /// The weights.
    pub params: Params,
    /// The file of the weights; `None` for random ones.
    pub file: Option<PathBuf>,
    /// The checksum of that file, if it has one.
    pub checksum: Option<String>,
    /// Clips as it was trained with them, as far as that is known.
    pub clips: Option<Clips>,
    /// `--data` of the run that trained it; `None` for procedural clips, or where that is not known.
    pub trained_on: Option<String>,
}

/// Clips as a network was trained with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Clips {
    pub frames: usize,
    pub stride: usize,
    pub fps: Option<f64>,
    pub side: usize,
    /// Short side of the cached frames from which clips were cropped.
    pub cache_side: Option<usize>,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    /// Clips of a video whose features were averaged for the run's probe.
    pub probe_clips: Option<usize>,
}

impl Network {
    /// Random weights of `seed` in place of those that were read.
    pub fn forget(&mut self, seed: u64) {
        self.params = Trunk::with_params(&self.net, seed).1;
        (self.file, self.checksum, self.trained_on) = (None, None, None);
    }

    /// The architecture's name: `small` for the networks of the presets `tiny` and `small`, `custom` for any other
    /// without one.
    pub fn arch(&self) -> &'static str {
        let named = Arch::of(&self.net).map(|arch| arch.name);
        named.unwrap_or(if self.net == Recipe::small().visual { "small" } else { "custom" })
    }
}

/// What a place says of its network.
struct Described {
    net: Option<Net>,
    clips: Option<Clips>,
    /// `--data` of its run.
    trained_on: Option<String>,
    /// What stands before its names in the file.
    at: Option<&'static str>,
    file: PathBuf,
}

/// The network of `--init` and `--arch`; without both the small one of `pretrain_maclr`, with random weights of `seed`.
/// Nothing but the file of weights and the descriptions beside it is read.
pub fn network(init: Option<&Path>, arch: Option<&'static Arch>, seed: u64) -> Result<Network> {
    let Some(path) = init else {
        say("without --init the network has random weights: this shows what features without any training are worth");
        let net = arch.map_or_else(|| Recipe::small().visual, Arch::net);
        let (trunk, params) = Trunk::with_params(&net, seed);
        return Ok(Network { net, trunk, params, file: None, checksum: None, clips: None, trained_on: None });
    };
    let option = || format!("--init {}", path.display());
    let described = describe(path).with_context(option)?;
    let mut source = Source::open(&described.file).with_context(option)?;
    let net = match (arch, described.net) {
        (Some(arch), _) => arch.net(),
        (None, Some(net)) => net,
        (None, None) => published(&source).with_context(option)?,
    };
    let (trunk, mut params) = Trunk::with_params(&net, seed);
    let checksum = source.verify().with_context(option)?;
    let start = Start::find(source, &net, &params, ImageHead::Dropped, described.at).with_context(option)?;
    let mut clips = described.clips;
    if let Some(input) = start.input().filter(|_| clips.is_none()) {
        say(format_args!("clips as the published network was trained, whose names the file has: {input}"));
        clips = Some(clips_of(&input));
    }
    let report = start.fill(&mut params);
    match arch {
        Some(arch) => report.with_context(|| format!("--arch {}", arch.name)),
        None => report.map_err(anyhow::Error::new),
    }
    .with_context(option)?;
    let (file, trained_on) = (Some(described.file), described.trained_on);
    Ok(Network { net, trunk, params, file, checksum, clips, trained_on })
}

/// The network of a file that is known by the names in it.
fn published(source: &Source) -> Result<Net> {
    let arch = names::recognise(source.tensors(), None).and_then(|known| Arch::by_name(known.arch));
    let all = || ARCHES.iter().map(|arch| arch.name).collect::<Vec<_>>().join(", ");
    arch.map(Arch::net)
        .ok_or_else(|| anyhow!("nothing beside it says which network this is: give --arch, one of {}", all()))
}

/// Finds the weights in `path` and what describes them.
fn describe(path: &Path) -> Result<Described> {
    let plain = |file: PathBuf| Described { net: None, clips: None, trained_on: None, at: None, file };
    if !path.is_dir() {
        // A checkpoint's weights lie in `checkpoints/step-N` of their run.
        let run = path.ancestors().nth(3).filter(|run| path.ends_with("weights.safetensors") && is_run(run));
        return match run {
            Some(run) => of_run(run, path.to_owned()),
            None => Ok(plain(path.to_owned())),
        };
    }
    let (config, model) = (path.join("config.json"), path.join("model.safetensors"));
    if config.is_file() {
        let (path, config) = (&config, Config::load(&config)?);
        return Ok(Described {
            clips: clips_in_config(path, &config)?,
            net: Some(config.network),
            trained_on: None,
            at: None,
            file: model,
        });
    }
    if model.is_file() {
        return Ok(plain(model));
    }
    ensure!(
        is_run(path),
        "this folder is neither that of a run (settings.json and checkpoints) nor an exported network \
         (model.safetensors)"
    );
    let Some((checkpoint, damaged)) = newest_intact(&path.join("checkpoints"))? else {
        bail!("this run has no checkpoint yet");
    };
    damaged.iter().for_each(|what| warn(format_args!("{what}; the checkpoint before it is used")));
    of_run(path, checkpoint.weights())
}

fn is_run(path: &Path) -> bool {
    path.join("settings.json").is_file() && path.join("checkpoints").is_dir()
}

/// The RGB network of a run: by its `networks.json`, or by its settings, where every field of the recipe is.
fn of_run(run: &Path, file: PathBuf) -> Result<Described> {
    let settings = Folder::settings(run)?.unwrap_or_default();
    let trained_on = settings[Folder::PATHS]["--data"].as_str().map(str::to_owned);
    let described = run.join(NETWORKS);
    if described.is_file() {
        let mut networks = read_networks(&described)?;
        let known = PREFIXES.into_iter().find_map(|at| Some((at, networks.remove(at)?)));
        let (at, config) = known.ok_or_else(|| anyhow!("{}: it describes no RGB network", described.display()))?;
        let clips = match clips_in(&settings) {
            None => clips_in_config(&described, &config)?,
            known => known,
        };
        return Ok(Described { net: Some(config.network), clips, trained_on, at: Some(at), file });
    }
    // MaCLR's recipe calls it `visual`, MCL's `net`.
    let net = ["visual", "net"].into_iter().find_map(|name| field::<Net>(&settings, name));
    let net = net.ok_or_else(|| anyhow!("{}: its settings describe no RGB network: give --arch", run.display()))?;
    Ok(Described { net: Some(net), clips: clips_in(&settings), trained_on, at: Some(PREFIXES[0]), file })
}

/// The field `name` of flat settings, put together from those whose names begin with it.
fn field<T: DeserializeOwned>(settings: &Value, name: &str) -> Option<T> {
    let mut whole = settings.get(name).cloned();
    let parts =
        settings.as_object()?.iter().filter_map(|(key, v)| Some((key.strip_prefix(name)?.strip_prefix('.')?, v)));
    for (path, value) in parts {
        let mut at = whole.get_or_insert_default();
        for part in path.split('.') {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[part];
        }
        *at = value.clone();
    }
    serde_json::from_value(whole?).ok()
}

/// The clips of a run by its settings.
fn clips_in(settings: &Value) -> Option<Clips> {
    Some(Clips {
        frames: field(settings, "--frames")?,
        stride: field(settings, "--stride")?,
        fps: field(settings, "training.views.fps")?,
        side: field(settings, "--side")?,
        cache_side: field(settings, "training.views.cache_side")?,
        mean: field(settings, "training.views.augment.mean")?,
        std: field(settings, "training.views.augment.std")?,
        probe_clips: field(settings, "--probe-clips"),
    })
}

/// The clips in the description of a network, which lies at `path`.
fn clips_in_config(path: &Path, config: &Config) -> Result<Option<Clips>> {
    let Some(input) = &config.input else { return Ok(None) };
    let (path, kind) = (path.display(), &input.kind);
    ensure!(kind == InputSpec::RGB, "{path}: its `input.kind` is `{kind}`, and what is evaluated takes clips of rgb");
    Ok(Some(clips_of(input)))
}

/// The RGB clips `input`, which was checked: its stride is whole, and colours are three.
fn clips_of(input: &InputSpec) -> Clips {
    let triple = |values: &[f32]| std::array::from_fn(|channel| values[channel]);
    Clips {
        frames: input.frames,
        stride: input.stride as usize,
        fps: input.fps,
        side: input.side,
        cache_side: input.short_side,
        mean: triple(&input.mean),
        std: triple(&input.std),
        probe_clips: None,
    }
}

/// Warns that it is not known which clips a network was trained with, and says which are taken.
pub fn warn_of_assumed_clips(views: &ViewSpec) {
    let [rgb, _] = views.inputs();
    warn(format_args!(
        "--init does not say which clips its network was trained with; {rgb} are assumed: set `input` in the config.json of \
         its folder, or --frames, --stride and --side"
    ));
}

impl Clips {
    /// Puts them into `views`.
    pub fn apply(&self, views: &mut ViewSpec) {
        let Clips { frames, stride, fps, side, cache_side, mean, std, .. } = self;
        (views.frames, views.stride, views.fps, views.side) = (*frames, *stride, *fps, *side);
        (views.augment.mean, views.augment.std) = (*mean, *std);
        views.cache_side = cache_side.unwrap_or(views.cache_side);
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::of_recipe;
    use super::*;
    use tubelet::train::mcl;

    #[test]
    fn the_network_and_the_clips_of_a_run_are_in_its_settings() {
        let (small, paper) = (Recipe::small(), Recipe::paper().unwrap());
        for recipe in [&small, &paper] {
            let settings = Value::Object(of_recipe(recipe).unwrap());
            assert_eq!(field::<Net>(&settings, "visual"), Some(recipe.visual.clone()));
            let (clips, views) = (clips_in(&settings).unwrap(), &recipe.training.views);
            let mut other = ViewSpec { frames: 1, stride: 1, fps: Some(7.0), side: 8, cache_side: 9, ..views.clone() };
            clips.apply(&mut other);
            assert_eq!(format!("{other:?}"), format!("{views:?}"));
            assert_eq!(clips.probe_clips, Some(recipe.training.probe_clips));
        }
        let settings = Value::Object(of_recipe(&mcl::Recipe::paper()).unwrap());
        assert_eq!(field::<Net>(&settings, "net"), Some(Net::p3d_a50()));
        assert_eq!(field::<Net>(&settings, "visual"), None);
        assert_eq!(clips_in(&Value::Null), None);
    }
}
