//! The example `weights`: what it prints of a file, and what it writes.

use crate::networks::r3d::trunk;
use crate::support::goldens::fill_params;
use crate::support::programs::example;
use std::path::Path;
use std::process::{Command, Output};
use tubelet::nn::nets::Naming;
use tubelet::nn::{Arch, HeadSpec, Net, Params};
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

/// The heads of MaCLR's release, of MoCo v2 and of a classifier: the folder's description has them.
#[test]
fn a_head_of_a_known_form_is_imported_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net { naming: Naming::SlowFast { pathway: 0 }, ..Arch::by_name("motion_r2d50").unwrap().net() };
    let head = HeadSpec { hidden: 6, code: 4, normalised: false };
    let codes = Config::new(&net, "").maclr(head).params().unwrap();
    let classes = Config::new(&net, "").classifier(5).params().unwrap();
    let projection = ["head.pathway0_projection_0", "head.pathway0_projection_1"];
    for (file, params, named, want) in [
        ("maclr", &codes, [("head.projection.0", projection[0]), ("head.projection.2", projection[1])], 4),
        ("own", &codes, [("", ""), ("", "")], 4),
        ("moco", &codes, [("head.projection.0", "fc.0"), ("head.projection.2", "fc.2")], 4),
        ("classes", &classes, [("", ""), ("", "")], 2),
    ] {
        let mut theirs = Params::new();
        for (_, p) in params.iter() {
            let old = named.iter().find(|(ours, _)| !ours.is_empty() && p.name.starts_with(ours));
            theirs.push(old.map_or(p.name.clone(), |(ours, old)| p.name.replace(ours, old)), p.value.clone(), p.role);
        }
        fill_params(&mut theirs);
        let name = format!("{file}.safetensors");
        save_weights(&dir.path().join(&name), &[("encoder_q.", &theirs)]).unwrap();
        let import = ["import", &name, "--arch", "motion_r2d50", "--out", file];
        let Some(out) = weights(dir.path(), &import) else { return };
        let text = printed(&out);
        assert!(text.contains(&format!("{want} tensors of its head found")) && !text.contains("left out"), "{text}");
        let config = Config::load(&dir.path().join(file).join("config.json")).unwrap();
        assert_eq!(config.heads.values().next(), (want == 4).then_some(&head), "{file}");
        assert_eq!(config.classifier.as_ref().map(|linear| linear.to), (want == 2).then_some(5), "{file}");
        let mut got = config.params().unwrap();
        let model = dir.path().join(file).join("model.safetensors");
        load_weights(&model, &mut [("", &mut got)], &Matching::EXACT).unwrap();
        for ((_, a), (_, b)) in got.iter().zip(theirs.iter()) {
            assert!(a.value.load().unwrap() == b.value.load().unwrap(), "{file}: {} of {}", a.name, b.name);
        }
        let out = weights(dir.path(), &[&import[..], &["--no-head"]].concat()).unwrap();
        assert!(printed(&out).contains(&format!("{want} tensors of the file left out")), "{}", printed(&out));
    }
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

#[test]
fn a_recognised_file_needs_no_arch_and_brings_its_clips() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = Config::new(&Net::r3d_18(), "").classifier(5).params().unwrap();
    fill_params(&mut params);
    save_weights(&dir.path().join("r3d.safetensors"), &[("", &params)]).unwrap();
    let Some(out) = weights(dir.path(), &["import", "r3d.safetensors", "--out", "r3d"]) else { return };
    let text = printed(&out);
    assert!(text.contains("recognised: torchvision's r3d_18; --arch r3d_18 is taken"), "{text}");
    assert!(
        text.contains("input, as the published network was trained: 16 frames (rgb) 1 apart in a video at 15"),
        "{text}"
    );
    let input = Config::load(&dir.path().join("r3d/config.json")).unwrap().input.unwrap();
    assert_eq!((input.frames, input.stride, input.fps, input.side), (16, 1.0, Some(15.0), 112));
    assert_eq!(
        (&input.mean[..], &input.std[..]),
        (&[0.43216, 0.394_666, 0.37645][..], &[0.22803, 0.22145, 0.216_989][..])
    );
    let card = std::fs::read_to_string(dir.path().join("r3d/README.md")).unwrap();
    assert!(
        card.contains("Clips of 16 frames (rgb) 1 apart") && card.contains("logits = net.classify(features)"),
        "{card}"
    );
    // An evaluation takes them, from the folder and from the file itself.
    for init in ["r3d", "r3d.safetensors"] {
        let mut command = Command::new(example("extract_features").unwrap());
        let out =
            command.current_dir(dir.path()).args(["--init", init, "--dry-run", "--threads", "2"]).output().unwrap();
        let text = printed(&out);
        assert!(text.contains("16 frames 1 apart, 112x112") && !text.contains("warning"), "{init}: {text}");
    }
}

/// A network that no published one is: its name must be said, what stands in the way is printed in part, and names are
/// printed so that a terminal obeys none.
#[test]
fn a_file_that_is_not_recognised_is_refused_with_the_names_and_few_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = trunk(&Arch::by_name("motion_r2d50").unwrap().net()).1;
    fill_params(&mut params);
    let mut odd = Params::new();
    let (_, first) = params.iter().next().unwrap();
    odd.push("a\u{1b}[2Jb", first.value.clone(), first.role);
    save_weights(&dir.path().join("own.safetensors"), &[("", &params), ("", &odd)]).unwrap();
    let Some(out) = weights(dir.path(), &["import", "own.safetensors", "--out", "new"]) else { return };
    let text = printed(&out);
    assert!(text.contains("no published network is recognised in it: give --arch, one of cvrl_r3d50, "), "{text}");
    let import = ["import", "own.safetensors", "--out", "new", "--arch"];
    let text = printed(&weights(dir.path(), &[&import[..], &["slow_r50"]].concat()).unwrap());
    assert!(text.contains("(--all prints them)") && text.lines().count() < 70, "{text}");
    let all = printed(&weights(dir.path(), &[&import[..], &["slow_r50", "--all"]].concat()).unwrap());
    assert!(!all.contains("(--all prints them)") && all.lines().count() > 100, "{all}");
    let text = printed(&weights(dir.path(), &[&import[..], &["motion_r2d50"]].concat()).unwrap());
    assert!(text.contains("warning: it is not known which clips the network was trained with"), "{text}");
    let seen = printed(&weights(dir.path(), &["inspect", "own.safetensors", "--all"]).unwrap());
    assert!(seen.contains(r"a\u{1b}[2Jb") && text.contains(r"a\u{1b}[2Jb"), "{seen}");
    assert!(![&text, &all, &seen].iter().any(|text| text.contains('\u{1b}')));
    // A folder: which of its files is meant.
    for action in [&["inspect", "new"][..], &["import", "new", "--out", "other"]] {
        let text = printed(&weights(dir.path(), action).unwrap());
        assert!(text.contains("error: new: this is a folder; name its weights, new/model.safetensors"), "{text}");
    }
}
