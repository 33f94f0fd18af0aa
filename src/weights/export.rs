//! Networks in a folder that other programs open: weights, description, and the network in plain PyTorch.

use super::config::Config;
use super::save_weights;
use crate::error::{Error, Result};
use crate::nn::Params;
use std::fs;
use std::path::Path;

/// The network in plain PyTorch, built from `config.json`.
const MODEL: &str = include_str!("model.py");

/// Writes `folder` (created if it is missing): `model.safetensors` with PyTorch's names and layout, `config.json`,
/// `model.py`, which builds the network from both, and `README.md`, which says what it is and how to use it.
///
/// # Errors
/// `Data` when the folder holds files that are not of an earlier export (nothing is written then); `Io` when it cannot
/// be written.
pub fn export(folder: &Path, params: &Params, config: &Config) -> Result<()> {
    check_export(folder)?;
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    save_weights(&folder.join("model.safetensors"), &[("", params)])?;
    let config_text = serde_json::to_string_pretty(config).map_err(|e| Error::data(folder, e))?;
    for (name, text) in [("model.py", MODEL), ("README.md", &card(params, config)), ("config.json", &config_text)] {
        let (path, temporary) = (folder.join(name), folder.join(format!("{name}.writing")));
        fs::write(&temporary, text).map_err(Error::io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// Refuses a folder that [`export`] would refuse.
///
/// # Errors
/// As [`export`].
pub fn check_export(folder: &Path) -> Result<()> {
    let Ok(mut entries) = fs::read_dir(folder) else { return crate::files::check_writable(folder) };
    if entries.next().is_some() && Config::load(&folder.join("config.json")).is_err() {
        return Err(Error::data(folder, "this folder holds other files: name a new one to write the network into"));
    }
    crate::files::check_writable(folder)
}

/// The model card.
fn card(params: &Params, config: &Config) -> String {
    let name = config.arch.as_deref().unwrap_or("a small 3D network");
    let count = params.count();
    let features = config.network.features();
    let input = config.input.as_ref().map_or_else(String::new, |i| {
        format!(
            "\n## Input\n\nClips of {} frames ({}), every {} frames of {}, {side} x {side} pixels, values in 0..1 minus {:?} \
             divided by {:?}, in the order `{}`.\n",
            i.frames,
            i.kind,
            i.stride,
            i.fps.map_or("the video".to_owned(), |fps| format!("a video at {fps} frames per second")),
            i.mean,
            i.std,
            i.layout,
            side = i.side,
        )
    });
    format!(
        "# {name}\n\n{origin}. {count} parameters, {features} features.\n{input}\n## Use\n\n```python\nimport model\n\
         net = model.load(\".\")\nfeatures = net(clips)\n```\n\n`model.py` is plain PyTorch and needs nothing else but \
         safetensors. `config.json` lists every layer. Written by tubelet, which reads the folder with `--init`.\n",
        origin = config.origin,
    )
}
