//! Pre-training on videos without labels.

use crate::support::programs::{data, frames, refused, started, summary};
use crate::support::videos::{encode, ffmpeg};
use std::fs;

const SMALL: [&str; 10] = ["--data", "flat", "--batch", "2", "--frames", "4", "--stride", "1", "--side", "16"];

#[test]
fn videos_without_labels_are_trained_on_without_probe_or_1_nn() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for video in 0..5 {
        frames(&d.join(format!("flat/v{video}")), 6);
    }
    for program in ["pretrain_maclr", "pretrain_mcl"] {
        let args = [&SMALL[..], &["--out", program]].concat();
        let Some(out) = started(program, d, &args) else { return };
        let line = summary(&out);
        for score in ["probe_top1", "knn_top1", "probe_top1_random_init", "knn_top1_random_init"] {
            assert!(line.get(score).is_some_and(serde_json::Value::is_null), "{score} in {line}");
        }
        assert_eq!((line["videos_train"].as_u64(), line["videos_test"].as_u64()), (Some(5), Some(0)), "{line}");
        assert!(line["loss_last"].is_f64() && line["classes"] == 0, "{line}");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(said.contains("the videos have no labels: the network is trained, and there is no probe"), "{said}");
        assert!(image::open(d.join(program).join("curves.png")).unwrap().width() > 100);
        assert_eq!(d.join(program).join("saliency.png").exists(), program == "pretrain_maclr");
        let again = started(program, d, &args).unwrap();
        assert!(String::from_utf8_lossy(&again.stdout).contains("nothing was trained now"), "{again:?}");
    }
    let plan = started("pretrain_maclr", d, &[&SMALL[..], &["--dry-run"]].concat()).unwrap();
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.status.success() && said.contains("5 for training, 0 for testing"), "{said}");
    assert!(said.contains("none: the videos have no labels"), "{said}");
    let e = refused(d, &[&SMALL[..], &["--probe-every", "1"]].concat()).unwrap();
    assert!(e.contains("--probe-every 1: the videos of --data have no labels"), "{e}");
}

#[test]
fn what_cannot_be_trained_without_labels_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    fs::write(d.join("film.mp4"), "a film").unwrap();
    let Some(e) = refused(d, &["--data", "videos/a0"]) else { return };
    assert!(e.contains("--data videos/a0: there is one video") && e.contains("give several videos"), "{e}");
    if ffmpeg().is_some() {
        let e = refused(d, &["--data", "film.mp4"]).unwrap();
        assert!(e.contains("--data film.mp4") && e.contains("no video is found in it"), "{e}");
    }
    fs::write(d.join("paths.txt"), "videos/a0\nvideos/a1\n").unwrap();
    let e = refused(d, &["--data", "paths.txt", "--test", "test.txt", "--batch", "2"]).unwrap();
    assert!(e.contains("the training videos have no labels"), "{e}");
}

#[test]
fn a_single_film_is_trained_on_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    if ffmpeg().is_none()
        || encode(d, "film.mp4", "-f lavfi -i testsrc=size=32x32:rate=5:duration=31 -c:v mpeg4").is_none()
    {
        return;
    }
    let small = ["--data", "film.mp4", "--batch", "2", "--frames", "4", "--stride", "1", "--side", "16"];
    let told = "film.mp4 is cut into 3 parts of 10 seconds and more, which count as videos";
    for program in ["pretrain_maclr", "pretrain_mcl"] {
        let run = [&small[..], &["--out", program]].concat();
        let Some(plan) = started(program, d, &[&run[..], &["--dry-run"]].concat()) else { return };
        let said = String::from_utf8_lossy(&plan.stdout).into_owned();
        assert!(said.contains(told) && said.contains("3 for training, 0 for testing"), "{said}");
        let out = started(program, d, &run).unwrap();
        let (line, said) = (summary(&out), String::from_utf8_lossy(&out.stdout).into_owned());
        assert!(said.contains(told) && line["videos_train"] == 3 && line["loss_last"].is_f64(), "{said}");
        let again = started(program, d, &run).unwrap();
        assert!(String::from_utf8_lossy(&again.stdout).contains("nothing was trained now"), "{again:?}");
    }
}
