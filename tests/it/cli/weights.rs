//! The example `weights`: what it prints of a file, and what it writes.

use crate::networks::r3d::trunk;
use crate::support::goldens::fill_params;
use crate::support::programs::example;
use std::path::Path;
use std::process::{Command, Output};
use tubelet::nn::Arch;
use tubelet::weights::{Config, Matching, load_weights, save_weights};

fn weights(dir: &Path, args: &[&str]) -> Option<Output> {
    Some(Command::new(example("weights")?).current_dir(dir).args(args).output().unwrap())
}

fn printed(out: &Output) -> String {
    let [text, errors] = [&out.stdout, &out.stderr].map(|b| String::from_utf8_lossy(b).into_owned());
    assert!(!errors.contains("panicked"), "{errors}");
    text + &errors
}

#[test]
fn a_network_is_imported_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = trunk(&Arch::by_name("motion_r2d50").unwrap().net()).1;
    fill_params(&mut params);
    let file = dir.path().join("maclr.safetensors");
    save_weights(&file, &[("model_state.encoder_q.", &params), ("model_state.encoder_k.", &params)]).unwrap();
    let import = |arch, out| weights(dir.path(), &["import", "maclr.safetensors", "--arch", arch, "--out", out]);
    let Some(out) = import("motion_r2d50", "good") else { return };
    let text = printed(&out);
    assert!(out.status.success(), "{text}");
    assert!(text.contains("below `model_state.encoder_q.` of the file; names of SlowFast, pathway 1"), "{text}");
    assert!(text.contains("265 tensors of the network found"), "{text}");
    let mut got = trunk(&Arch::by_name("motion_r2d50").unwrap().net()).1;
    let config = Config::load(&dir.path().join("good/config.json")).unwrap();
    assert_eq!((config.arch.as_deref(), &*config.origin), (Some("motion_r2d50"), "Imported from maclr.safetensors"));
    load_weights(&dir.path().join("good/model.safetensors"), &mut [("", &mut got)], &Matching::EXACT).unwrap();
    for ((_, a), (_, b)) in got.iter().zip(params.iter()) {
        assert!(a.value.load().unwrap() == b.value.load().unwrap(), "{}", a.name);
    }

    let out = import("motion_r3d50", "bad").unwrap();
    let text = printed(&out);
    assert!(!out.status.success() && text.contains("of another shape:"), "{text}");
    assert!(
        text.contains("error: --arch motion_r3d50: maclr.safetensors: these are the weights of another network"),
        "{text}"
    );
    assert!(!dir.path().join("bad").exists());
    let text = printed(&import("slow_r5", "bad").unwrap());
    assert!(text.contains("slow_r50"), "{text}");
}

#[test]
fn a_file_is_described() {
    let dir = tempfile::tempdir().unwrap();
    let file = crate::root().join("tests/fixtures/weights/objects_old.pth").canonicalize().unwrap();
    let file = file.to_str().unwrap();
    let Some(out) = weights(dir.path(), &["inspect", file]) else { return };
    let text = printed(&out);
    assert!(text.contains("format: PyTorch (stream") && text.contains("tensors: 20, 115 numbers"), "{text}");
    assert!(text.contains("F32   state_dict.module.0.weight [3, 2, 1, 2, 2]"), "{text}");
    let module = file.replace("objects_old", "module");
    let text = printed(&weights(dir.path(), &["inspect", &module]).unwrap());
    assert!(text.starts_with("error: ") && text.lines().count() == 1, "{text}");
}
