//! `finetune` as a program, and what takes its networks.

use crate::support::programs::{data, example, summary};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tubelet::weights::Config;

/// Options that make a run on the lists of [`data`] take a moment.
const LISTS: &str = "--data train.txt --test test.txt --frames 2 --stride 1 --side 16 --clips 2";

fn program(name: &str, dir: &Path, args: &str) -> Option<Output> {
    let mut command = Command::new(example(name)?);
    Some(command.current_dir(dir).args(args.split_whitespace()).output().unwrap())
}

fn tune(dir: &Path, args: &str) -> Option<Output> {
    let batch = if args.contains("--batch") { "" } else { "--batch 4" };
    program("finetune", dir, &format!("{LISTS} --threads 2 {batch} {args}"))
}

fn errors(out: &Output) -> String {
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && !errors.contains("panicked"), "{errors}");
    errors
}

#[test]
fn a_trained_network_is_tested_goes_on_and_is_taken_by_every_other_program() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let Some(out) = tune(d, "--epochs 2 --out tuned") else { return };
    let line = summary(&out);
    for name in [
        "init",
        "arch",
        "preset",
        "videos_train",
        "videos_test",
        "views",
        "seconds",
        "top1",
        "top5",
        "mean_class",
        "top1_low",
        "top1_high",
        "labels",
        "epochs",
        "steps",
        "loss_first",
        "loss_last",
        "train_seconds",
    ] {
        assert!(line.get(name).is_some_and(|v| !v.is_null()), "{name} in {line}");
    }
    assert_eq!((&line["init"], line["steps"].as_u64()), (&Value::from("random"), Some(2)));
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(told.contains("--epochs 2 are 2 steps: with so few videos more passes are needed"), "{told}");
    for file in ["confusion.png", "curves.png", "per_class.csv", "predictions.csv", "networks.json", "metrics.jsonl"] {
        assert!(d.join("tuned").join(file).is_file(), "{file}");
    }
    assert_eq!(fs::read_to_string(d.join("tuned/classes.txt")).unwrap(), "a\nb\n");
    // Its export knows the classes, and its card how to ask for them.
    let Some(out) = program("weights", d, "export tuned --out network") else { return };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let config = Config::load(&d.join("network/config.json")).unwrap();
    assert_eq!(config.classes, Some(vec!["a".to_owned(), "b".to_owned()]));
    let card = fs::read_to_string(d.join("network/README.md")).unwrap();
    assert!(card.contains("- 0: a\n- 1: b\n") && card.contains("logits = net.classify(features)"), "{card}");
    let text = String::from_utf8_lossy(&program("weights", d, "inspect tuned").unwrap().stderr).into_owned();
    let newest = "tuned/checkpoints/step-00000002/weights.safetensors";
    assert!(text.contains(&format!("name its weights, {newest}, or `weights export` the run")), "{text}");
    // Once more: nothing is trained, and the figures are the same.
    let weights = fs::read(d.join("tuned/checkpoints/step-00000002/weights.safetensors")).unwrap();
    let again = tune(d, "--epochs 2 --out tuned").unwrap();
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing was trained now"));
    assert_eq!(summary(&again)["top1"], line["top1"]);
    // More epochs go on from there; other settings are refused with both values.
    let child = tune(d, "--epochs 1 --init tuned --out child").unwrap();
    assert_eq!(summary(&child)["steps"].as_u64(), Some(1));
    let longer = tune(d, "--epochs 3 --out tuned").unwrap();
    assert_eq!(summary(&longer)["steps"].as_u64(), Some(3));
    assert!(!String::from_utf8_lossy(&longer.stdout).contains("the figures are the same"));
    let before = fs::read_to_string(d.join("tuned/summary-2-epochs.json")).unwrap();
    assert!(before.contains("\"steps\":2"), "{before}");
    // What began from its earlier weights goes on too.
    let child = tune(d, "--epochs 2 --init tuned --out child").unwrap();
    assert_eq!(summary(&child)["steps"].as_u64(), Some(2));
    assert!(String::from_utf8_lossy(&child.stdout).contains("it goes on from its own checkpoint"));
    // Sources of the test videos may be given afterwards.
    fs::write(d.join("sources.csv"), "videos/a3,one\nvideos/b3,two\n").unwrap();
    let grouped = tune(d, "--epochs 3 --groups sources.csv --out tuned").unwrap();
    assert!(String::from_utf8_lossy(&grouped.stdout).contains("nothing was trained now"));
    assert_eq!(summary(&grouped)["groups"].as_u64(), Some(2));
    let e = errors(&tune(d, "--epochs 3 --labels 0.5 --out tuned").unwrap());
    assert!(e.contains("--labels: begun with") && !e.contains("names other videos"), "{e}");
    assert_eq!(fs::read(d.join("tuned/checkpoints/step-00000002/weights.safetensors")).unwrap(), weights);
    let e = errors(&tune(d, "--epochs 3 --dropout 0.25 --out tuned").unwrap());
    assert!(e.contains("--dropout: begun with 0.5, now 0.25"), "{e}");
    let e = errors(&tune(d, "--epochs 1 --out tuned").unwrap());
    assert!(e.contains("--epochs"), "{e}");

    // Its network is the start of others, with its clips; from scratch, its architecture alone.
    let frozen = summary(&tune(d, "--epochs 1 --init tuned --frozen --out frozen").unwrap());
    assert_eq!((&frozen["init"], &frozen["frozen"]), (&Value::from("tuned"), &Value::from(true)));
    let scratch = summary(&tune(d, "--epochs 1 --init tuned --from-scratch --out scratch").unwrap());
    assert_eq!((&scratch["init"], &scratch["arch"]), (&Value::from("random"), &Value::from("small")));
    let probed = program("linear_probe", d, "--data train.txt --test test.txt --init tuned --out probe").unwrap();
    assert_eq!(summary(&probed)["frames"].as_u64(), Some(2), "the clips it was trained with");
    let exported = program("weights", d, "export tuned --out exported").unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let config = fs::read_to_string(d.join("exported/config.json")).unwrap();
    assert!(config.contains("\"classifier\": {") && config.contains("\"to\": 2"), "{config}");
    assert_eq!(summary(&tune(d, "--epochs 1 --init exported --out after").unwrap())["init"], Value::from("exported"));
}

#[test]
fn every_recipe_runs_and_a_share_of_the_labels_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 8);
    for preset in ["maclr-ucf101", "maclr-ucf101-linear", "mcl-ucf101", "mcl-hmdb51", "ssv2"] {
        let Some(out) = tune(d, &format!("--preset {preset} --epochs 2 --micro-batch 2 --lr 0.01 --out {preset}"))
        else {
            return;
        };
        let line = summary(&out);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(told.contains(&format!("--preset {preset} is published for the network")), "{told}");
        let views = match preset {
            "ssv2" => 2, // by --clips; one square
            _ => 6,
        };
        assert_eq!((&line["preset"], line["views"].as_u64()), (&Value::from(preset), Some(views)), "{line}");
        let settings = fs::read_to_string(d.join(preset).join("settings.json")).unwrap();
        assert!(
            settings.contains("\"--micro-batch\": 2")
                && settings.contains("training.views.segments") == (preset == "ssv2")
        );
    }
    let line = summary(&tune(d, "--labels 0.34 --batch 2 --epochs 1 --out third").unwrap());
    let all = summary(&tune(d, "--batch 2 --epochs 1 --out all").unwrap());
    assert_eq!(
        [&line, &all].map(|line| line["videos_train"].as_u64()),
        [Some(2), Some(6)],
        "one of three of each class"
    );
}

#[test]
fn bad_options_are_named_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    for (args, names) in [
        ("--micro-batch 3", "--micro-batch"),
        ("--micro-batch 1", "--micro-batch"),
        ("--from-scratch", "--init"),
        ("--labels 0", "--labels"),
        ("--labels 0.1", "--batch"),
        ("--dropout 1", "--dropout"),
        ("--clip-norm -1", "--clip-norm"),
        ("--init nowhere", "--init nowhere"),
        ("--batch 65536", "--batch"),
    ] {
        let Some(out) = tune(d, args) else { return };
        let e = errors(&out);
        assert!(e.contains(names), "{args}: {e}");
        assert!(!d.join("runs").exists(), "{args}: it wrote");
    }
    let out = tune(d, "--dry-run --epochs 7").unwrap();
    assert!(out.status.success() && !d.join("runs").exists());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("training  7 passes over 6 labelled videos: 7 steps of 4"), "{text}");
}
