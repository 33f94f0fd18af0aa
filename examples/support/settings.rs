//! The settings of a run in `settings.json`: one flat object, keyed by option name if there is an option, otherwise by
//! the field's path in the recipe.

use super::options::Options;
use super::pretrain::Job;
use super::ranks::RANKS;
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;
use tubelet::train::folder::Folder;
use tubelet::video::Splits;

/// Paths in a recipe, and the options that set them.
pub const OPTIONS: [(&str, &str); 43] = [
    ("training.epochs", "--epochs"),
    ("training.batch", "--batch"),
    ("training.accumulate", ACCUMULATE),
    ("training.wire", "--wire"),
    ("training.lr", "--lr"),
    ("training.warmup_epochs", "--warmup-epochs"),
    ("training.sgd.weight_decay", "--weight-decay"),
    ("training.queue", "--queue"),
    ("training.probe_clips", "--probe-clips"),
    ("training.min_frames", "--min-frames"),
    ("training.views.frames", "--frames"),
    ("training.views.stride", "--stride"),
    ("training.views.side", "--side"),
    ("training.views.background_swap", "--background-swap"),
    ("training.views.drift", "--drift"),
    ("training.views.tubelets", "--tubelets"),
    ("training.views.motion", "--motion"),
    ("training.views.motion_clamp", "--motion-clamp"),
    ("training.views.motion_frames", "--motion-frames"),
    ("training.views.focus.sampling", "--motion-sampling"),
    ("training.views.focus.crop", "--motion-crop"),
    ("training.views.focus.legacy", "--legacy-focus"),
    ("method.precision", "--precision"),
    ("method.temperature", "--temperature"),
    ("method.momentum", "--ema"),
    ("method.groups", "--bn-groups"),
    ("method.w_vv", "--w-vv"),
    ("method.w_mm", "--w-mm"),
    ("method.w_vm", "--w-vm"),
    ("method.w_mv", "--w-mv"),
    ("method.w_steps", "--w-steps"),
    ("method.w_inter", "--w-inter"),
    ("method.w_intra", "--w-intra"),
    ("method.w_order", "--w-order"),
    ("method.cross_positive", "--cross-positive"),
    ("method.symmetric", "--symmetric"),
    ("method.frozen_norm", "--frozen-norm"),
    ("method.alignment.weight", "--w-align"),
    ("method.alignment.warm_weight", "--w-align-warmup"),
    ("method.alignment.last_weight", "--w-align-end"),
    ("method.alignment.form", "--align-form"),
    ("method.alignment.module", "--align-module"),
    ("method.alignment.cosines.target_norm", "--target-norm"),
];

/// Settings that may change when a run goes on: they change nothing of what was computed. What the number of epochs was before
/// is a setting, too.
pub const FREE: [&str; 6] = ["--epochs", EARLIER, "--probe-every", "training.views.short", RANKS, ACCUMULATE];

/// In how many micro-batches each rank computes its part of a step.
pub const ACCUMULATE: &str = "--accumulate";

/// The numbers of epochs that a run was to have before, [`tubelet::train::pretrain::Earlier`].
pub const EARLIER: &str = "epochs.earlier";

/// The same for switches that disable something in a recipe.
pub const SWITCHED_OFF: [(&str, &str); 3] = [
    ("method.shuffle_keys", "--no-shuffle"),
    ("method.mask_own", "--keep-own"),
    ("training.views.tied_crops", "--untied-crops"),
];

/// All settings that a resumed run must share with its start.
pub fn of_run<R: Serialize>(options: &Options, job: &Job<R>, splits: &Splits) -> Result<Value> {
    let mut all = of_recipe(job.recipe)?;
    let mut put = |name: &str, value: Value| all.insert(name.to_owned(), value);
    put("program", job.example.into());
    // For the reader: data may have moved. What is compared are the hashes of the videos and of their flow below. Nothing
    // stands for the content of --init, so its path is compared.
    let paths = [("--data", &options.videos.data), ("--test", &options.videos.test), ("--flow-dir", &options.flow_dir)];
    put(Folder::PATHS, paths.map(|(option, p)| (option.to_owned(), path(p.as_deref()))).into_iter().collect());
    put("--init", path(options.init.as_deref()));
    if let Some(head) = job.init_head {
        put("--init-head", head.into());
    }
    put("--seed", options.seed.into());
    put("--probe-every", options.probe_every.into());
    put(EARLIER, Value::Array(Vec::new()));
    for (data, motion) in [&splits.train, &splits.test].into_iter().zip(job.motion) {
        let flow = options.flow_dir.as_ref().filter(|_| motion).map(|dir| data.flow_fingerprint(dir)).transpose();
        let flow = flow.context("--flow-dir")?.map(|hash| format!("{hash:016x}"));
        put(&format!("--flow-dir.{}.hash", data.split.name()), flow.into());
        let name = format!("videos.{}", data.split.name());
        put(&format!("{name}.hash"), format!("{:016x}", data.fingerprint()?).into());
        put(&name, data.len().into());
    }
    Ok(Value::Object(all))
}

/// The flat settings of `recipe`.
pub fn of_recipe(recipe: &impl Serialize) -> Result<Map<String, Value>> {
    // By way of text, so that an f32 keeps the digits it was given, instead of those of the nearest f64.
    let text = serde_json::to_string(recipe).context("the settings cannot be written")?;
    let mut flat = Map::new();
    flatten(serde_json::from_str(&text).context("the settings cannot be read again")?, String::new(), &mut flat);
    Ok(flat)
}

fn flatten(value: Value, at: String, flat: &mut Map<String, Value>) {
    let Value::Object(fields) = value else {
        let (name, value) = named(at, value);
        flat.insert(name, value);
        return;
    };
    for (key, field) in fields {
        flatten(field, if at.is_empty() { key } else { format!("{at}.{key}") }, flat);
    }
}

fn named(place: String, value: Value) -> (String, Value) {
    if let Some((_, option)) = OPTIONS.iter().find(|(p, _)| *p == place) {
        return ((*option).to_owned(), value);
    }
    match (SWITCHED_OFF.iter().find(|(p, _)| *p == place), &value) {
        (Some((_, option)), Value::Bool(on)) => ((*option).to_owned(), Value::Bool(!on)),
        _ => (place, value),
    }
}

/// A path as a setting; non-UTF-8 parts are shown as well as possible.
pub fn path(path: Option<&Path>) -> Value {
    path.map_or(Value::Null, |p| p.to_string_lossy().into_owned().into())
}

/// Everything in `settings` that a run's results depend on, except the number of epochs.
pub fn identity(settings: &Value) -> String {
    let mut all = settings.clone();
    if let Some(all) = all.as_object_mut() {
        for name in FREE.into_iter().chain([Folder::PATHS]) {
            all.remove(name);
        }
    }
    all.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tubelet::dist::sum::Wire;
    use tubelet::ssl::alignment::Alignment;
    use tubelet::train::{maclr, mcl};

    #[test]
    fn settings_are_flat_and_go_by_the_options_names() {
        let mut maclr = maclr::Recipe::small();
        let align = Alignment { last_weight: Some(0.0), ..Alignment::from_scratch("layer3.0") };
        maclr.method.alignment = Some(align);
        (maclr.training.lr, maclr.training.wire) = (0.03, Wire::Bf16);
        (maclr.training.views.background_swap, maclr.training.views.tubelets) = (0.5, 2);
        maclr.training.views.drift = 3;
        let (maclr, mcl) = (of_recipe(&maclr).unwrap(), of_recipe(&mcl::Recipe::small()).unwrap());
        for (_, option) in OPTIONS.iter().chain(&SWITCHED_OFF) {
            assert!(maclr.contains_key(*option) || mcl.contains_key(*option), "{option}");
        }
        assert!(maclr.values().chain(mcl.values()).all(|v| !v.is_object()));
        assert_eq!(maclr["--lr"].to_string(), "0.03");
        assert_eq!((&maclr["--motion"], &maclr["--no-shuffle"]), (&"flow-edges".into(), &false.into()));
        assert!(maclr.contains_key("training.views.flow.warps") && maclr.contains_key("visual.stages"));
    }
}
