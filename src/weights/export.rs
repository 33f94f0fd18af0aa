//! Networks in a folder that other programs open: weights, description, and the network in plain PyTorch.

use super::Source;
use super::config::Config;
use super::save_weights;
use crate::error::{Error, Result};
use crate::nn::Params;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// The network in plain PyTorch, built from `config.json`.
const MODEL: &str = include_str!("model.py");
/// The files of a network's folder. The description is the last that is written: a folder with it is finished.
const WEIGHTS: &str = "model.safetensors";
const TEXTS: [&str; 3] = ["model.py", "README.md", "config.json"];

/// Writes `folder` (created if it is missing): `model.safetensors` with PyTorch's names and layout, `config.json`,
/// `model.py`, which builds the network from both, and `README.md`, which says what it is and how to use it.
///
/// # Errors
/// `Data` when the folder holds files that are not of an earlier export, finished or interrupted (nothing is written
/// then); `Io` when it cannot be written.
pub fn export(folder: &Path, params: &Params, config: &Config) -> Result<()> {
    check_export(folder)?;
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    save_weights(&folder.join(WEIGHTS), &[("", params)])?;
    let config_text = serde_json::to_string_pretty(config).map_err(|e| Error::data(folder, e))?;
    for (name, text) in TEXTS.into_iter().zip([MODEL, &card(params, config), &config_text]) {
        let (path, temporary) = (folder.join(name), folder.join(unfinished(name)));
        let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|e| {
            let _ = fs::remove_file(&temporary); // ignore a second error; the first is returned
            Error::io("write", &path)(e)
        })?;
    }
    Ok(())
}

/// The name of a file until it is complete.
fn unfinished(name: &str) -> String {
    format!("{name}.writing")
}

/// Refuses a folder that [`export`] would refuse.
///
/// # Errors
/// As [`export`].
pub fn check_export(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return crate::files::check_writable(folder) };
    let names: Vec<OsString> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    if !names.is_empty() && Config::load(&folder.join("config.json")).is_err() && !is_interrupted(folder, &names) {
        return Err(Error::data(folder, "this folder holds other files: name a new one to write the network into"));
    }
    crate::files::check_writable(folder)
}

/// Whether these are all the files of a folder that [`export`] had begun to write. Weights alone do not say whose they are,
/// but for their checksum.
fn is_interrupted(folder: &Path, names: &[OsString]) -> bool {
    let own = |file: &str, name: &OsString| *name == *file || *name == *unfinished(file);
    let known = names.iter().all(|name| TEXTS.into_iter().chain([WEIGHTS]).any(|file| own(file, name)));
    let weights = folder.join(WEIGHTS);
    known
        && match weights.exists() {
            true => Source::open(&weights).is_ok_and(|source| source.is_of_this_program()),
            false => names.iter().all(|name| *name == *unfinished(WEIGHTS)),
        }
}

/// The model card.
fn card(params: &Params, config: &Config) -> String {
    let name = config.arch.as_deref().unwrap_or("a small 3D network");
    let count = params.count();
    let features = config.network.features();
    let input = config.input.as_ref();
    let input =
        input.map_or_else(String::new, |i| format!("\n## Input\n\nClips of {i}, in the order `{}`.\n", i.layout));
    let classes = config.classes.as_ref().map_or_else(String::new, |names| {
        let names: String = names.iter().enumerate().map(|(i, name)| format!("- {i}: {name}\n")).collect();
        format!("\n## Classes\n\n{names}")
    });
    let named =
        if config.classes.is_some() { "names = [net.config[\"classes\"][i] for i in logits.argmax(1)]\n" } else { "" };
    let classify = match config.classifier {
        Some(_) => format!("logits = net.classify(features)\n{named}"),
        None => String::new(),
    };
    format!(
        "# {name}\n\n{origin}. {count} parameters, {features} features.\n{input}{classes}\n## Use\n\n```python\nimport model\n\
         net = model.load(\".\")\nfeatures = net(clips)\n{classify}```\n\n`model.py` is plain PyTorch and needs nothing else but \
         safetensors. `config.json` lists every layer. Written by tubelet, which reads the folder with `--init`.\n",
        origin = config.origin,
    )
}
