//! The examples as programs: what they write, and one sentence for everything that cannot be.
//!
//! `cargo test` builds the examples; `cargo test --test it` alone does not, and these tests then say that they did nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The example's program beside this test's, where it was built.
fn example(name: &str) -> Option<PathBuf> {
    let here = std::env::current_exe().unwrap();
    let path = here.parent()?.parent()?.join("examples").join(name);
    if !path.is_file() {
        println!("{name} was not built: run `cargo test` without --test");
        return None;
    }
    Some(path)
}

fn pretrain(dir: &Path, args: &[&str]) -> Option<Output> {
    let mut command = Command::new(example("pretrain_maclr")?);
    command.current_dir(dir).args(["--epochs", "1", "--threads", "2"]).args(args);
    Some(command.output().unwrap())
}

/// Runs with `args` in `dir` and returns the one sentence of its failure.
fn refused(dir: &Path, args: &[&str]) -> Option<String> {
    let out = pretrain(dir, args)?;
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{args:?} should have failed");
    assert!(!errors.contains("panicked"), "{errors}");
    let last = errors.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("error: ") || last.contains("error"), "{errors}");
    Some(last)
}

/// A folder of frames as a video: `count` grey pictures.
fn frames(dir: &Path, count: usize) {
    fs::create_dir_all(dir).unwrap();
    for i in 0..count {
        image::RgbImage::from_pixel(16, 16, image::Rgb([(i * 9 % 256) as u8; 3]))
            .save(dir.join(format!("{i:03}.png")))
            .unwrap();
    }
}

#[test]
fn a_short_run_writes_everything_and_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let small =
        ["--batch", "64", "--frames", "4", "--motion-frames", "4", "--side", "16", "--out", "run", "--seed", "3"];
    let Some(out) = pretrain(dir.path(), &small) else { return };
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let file: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("run/summary.json")).unwrap()).unwrap();
    assert_eq!(line, file);
    for name in [
        "method",
        "data",
        "device",
        "precision",
        "epochs",
        "steps",
        "clips_per_second",
        "seconds",
        "loss_first",
        "loss_last",
        "probe_top1",
        "probe_top1_random_init",
        "knn_top1",
        "knn_top1_random_init",
    ] {
        assert!(line.get(name).is_some_and(|v| !v.is_null() && !v.is_object()), "{name} in {line}");
    }
    assert_eq!(
        (line["method"].as_str(), line["steps"].as_u64(), line["seed"].as_u64()),
        (Some("maclr"), Some(3), Some(3))
    );
    for picture in ["curves.png", "sheet.png"] {
        assert!(image::open(dir.path().join("run").join(picture)).unwrap().width() > 100, "{picture}");
    }
    let again = pretrain(dir.path(), &small).unwrap();
    let repeated: serde_json::Value =
        serde_json::from_str(String::from_utf8_lossy(&again.stdout).lines().last().unwrap()).unwrap();
    assert_eq!(repeated["probe_top1"], line["probe_top1"], "a finished run says the same again");
    let e = refused(dir.path(), &[&small[..], &["--lr", "0.5"]].concat()).unwrap();
    assert!(e.contains("begun with") && e.contains("--out"), "{e}");
}

#[test]
fn data_that_cannot_be_used_gets_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let Some(e) = refused(d, &["--data", "nowhere"]) else { return };
    assert!(e.contains("nowhere") && e.contains("No such file"), "{e}");
    fs::create_dir(d.join("empty")).unwrap();
    let e = refused(d, &["--data", "empty"]).unwrap();
    assert!(e.contains("no training video") || e.contains("no video"), "{e}");
    fs::write(d.join("list.csv"), "absent/one.mp4 0\nabsent/two.mp4 1\n").unwrap();
    let e = refused(d, &["--data", "list.csv"]).unwrap();
    assert!(e.contains("one.mp4") && e.contains('2'), "{e}");
    for class in ["a", "b"] {
        for video in 0..4 {
            frames(&d.join(format!("data/{class}/v_{class}_g{video}_c00")), 6);
        }
    }
    let e = refused(d, &["--data", "data", "--batch", "64"]).unwrap();
    assert!(e.contains("64") && e.contains("videos"), "{e}");
    let e = refused(d, &["--data", "data", "--batch", "2", "--queue", "5000"]).unwrap();
    assert!(e.contains("5000") && e.contains("negatives"), "{e}");
    let e = refused(d, &["--device", "cuda:0"]).unwrap();
    assert!(e.contains("cuda:0"), "{e}");
}

#[test]
fn files_that_are_no_videos_are_named_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for class in ["a", "b"] {
        for video in 0..8 {
            frames(&d.join(format!("data/{class}/v_{class}_g{video}_c00")), 12);
        }
    }
    fs::write(d.join("data/a/v_a_g0_c00/000.png"), b"not a picture").unwrap();
    let run = ["--data", "data", "--batch", "2", "--frames", "2", "--motion-frames", "2", "--side", "16"];
    let Some(out) = pretrain(d, &run) else { return };
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{errors}");
    assert!(errors.contains("skipped") && errors.contains("v_a_g0_c00"), "{errors}");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((line["videos_skipped"].as_u64(), line["videos_short"].as_u64()), (Some(1), Some(0)));
    // Clips of 30 frames from videos of 12: repeated and told, or refused by name of the rule.
    let long = ["--data", "data", "--batch", "2", "--frames", "8", "--stride", "4", "--side", "16", "--out", "long"];
    let out = pretrain(d, &long).unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("shorter than a clip"));
    let e = refused(d, &[&long[..8], &["--refuse-short", "--out", "refused"]].concat()).unwrap();
    assert!(e.contains("12 frames"), "{e}");
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("taken"), "a file").unwrap();
    let Some(e) = refused(dir.path(), &["--out", "taken/run"]) else { return };
    assert!(e.contains("taken"), "{e}");
}
