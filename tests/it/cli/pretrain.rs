//! The examples as programs: what they write, and one sentence for everything that cannot be.
//!
//! What they say of their options is in `options.rs`. `cargo test` builds the examples; `cargo test --test it` alone does not, and these tests then say that they did nothing.

use crate::support::programs::{NAMES, data, example, frames, moments, refused, refused_by, started, summary};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tubelet::weights::{Config, Matching, load_weights};

fn pretrain(dir: &Path, args: &[&str]) -> Option<Output> {
    started("pretrain_maclr", dir, args)
}

#[test]
fn a_short_run_of_mcl_writes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let small = ["--batch", "64", "--frames", "4", "--side", "16", "--out", "run", "--seed", "3"];
    let Some(out) = started("pretrain_mcl", d, &small) else { return };
    let line = summary(&out);
    let aligned = ["alignment_first", "alignment_last", "overlap", "overlap_random_init"];
    for name in NAMES.iter().chain(&aligned) {
        assert!(line.get(name).is_some_and(|v| !v.is_null() && !v.is_object()), "{name} in {line}");
    }
    assert_eq!((line["method"].as_str(), line["steps"].as_u64()), (Some("mcl"), Some(3)));
    for picture in ["curves.png", "focus.png", "saliency.png"] {
        assert!(image::open(d.join("run").join(picture)).unwrap().width() > 100, "{picture}");
    }
    // Without all that MCL adds, no flow is needed and nothing is aligned.
    let plain = ["--motion-sampling", "off", "--motion-crop", "off", "--w-align", "0", "--out", "plain"];
    let line = summary(&started("pretrain_mcl", d, &[&small[..6], &plain].concat()).unwrap());
    assert!(line["alignment_first"].is_null() && line["loss_last"].is_f64(), "{line}");
    assert!(!d.join("plain/saliency.png").exists());
    // The same additions to the other method.
    let both = ["--motion-sampling", "on", "--motion-crop", "on", "--w-align", "10", "--out", "both"];
    let line =
        summary(&started("pretrain_maclr", d, &[&small[..6], &["--motion-frames", "4"], &both].concat()).unwrap());
    assert!(line["alignment_last"].is_f64() && line["method"] == "maclr", "{line}");
}

#[test]
fn what_mcl_cannot_use_gets_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |args: &[&str]| refused_by("pretrain_mcl", dir.path(), args);
    let Some(e) = refused(&["--align-module", "layer7.0"]) else { return };
    assert!(e.contains("layer7.0") && e.contains("no such module"), "{e}");
    let e = refused(&["--queue", "577", "--keep-own"]).unwrap();
    assert!(e.contains("577") && e.contains("3 keys each") && e.contains("576"), "{e}");
    for (option, value) in
        [("--align-form", "cam"), ("--align-terms", "space,colour"), ("--target-norm", "max"), ("--w-align", "-1")]
    {
        let e = refused(&[&format!("{option}={value}")]).unwrap();
        assert!(e.contains(option) && e.contains(value.rsplit(',').next().unwrap()), "{e}");
    }
}

#[test]
fn frozen_normalisation_and_still_videos_are_warned_of_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for (class, grey) in [("a", 60), ("b", 180)] {
        for video in 0..4 {
            let home = d.join(format!("data/{class}/v_{class}_g{video}_c00"));
            fs::create_dir_all(&home).unwrap();
            for i in 0..12 {
                image::RgbImage::from_pixel(16, 16, image::Rgb([grey, grey, 10 * video]))
                    .save(home.join(format!("{i:03}.png")))
                    .unwrap();
            }
        }
    }
    let run = ["--data", "data", "--batch", "2", "--frames", "4", "--stride", "1", "--side", "16", "--frozen-norm"];
    let Some(out) = started("pretrain_mcl", d, &run) else { return };
    let line = summary(&out);
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(errors.contains("frozen") && errors.contains("layer3.0"), "{errors}");
    // Nothing moves: each of the three terms is 1, whatever the network does.
    assert_eq!(line["alignment_last"].as_f64().map(|v| (v * 1e3).round()), Some(3000.0), "{line}");
}

#[test]
fn a_short_run_writes_everything_and_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let small =
        ["--batch", "64", "--frames", "4", "--motion-frames", "4", "--side", "16", "--out", "run", "--seed", "3"];
    let Some(out) = pretrain(dir.path(), &[&small[..], &["--trace", "timeline.json"]].concat()) else { return };
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // Of three steps the third is on the timeline.
    let timeline: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("timeline.json")).unwrap()).unwrap();
    let events = timeline["traceEvents"].as_array().unwrap();
    for part in ["loading", "keys", "forward", "backward", "update"] {
        assert_eq!(events.iter().filter(|event| event["name"] == part).count(), 1, "{part} in {timeline}");
    }
    let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let file: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("run/summary.json")).unwrap()).unwrap();
    assert_eq!(line, file);
    for name in NAMES {
        assert!(line.get(name).is_some_and(|v| !v.is_null() && !v.is_object()), "{name} in {line}");
    }
    assert_eq!(
        (line["method"].as_str(), line["steps"].as_u64(), line["seed"].as_u64()),
        (Some("maclr"), Some(3), Some(3))
    );
    for picture in ["curves.png", "sheet.png", "saliency.png"] {
        assert!(image::open(dir.path().join("run").join(picture)).unwrap().width() > 100, "{picture}");
    }
    let share = |name: &str| line[name].as_f64().unwrap();
    let shares = ["saliency_inside", "saliency_inside_random_init", "saliency_area"].map(share);
    assert!(shares.iter().all(|share| (0.0..1.0).contains(share)) && shares[2] > 0.0, "{shares:?}");
    let films = moments(&dir.path().join("run/saliency.apng"));
    assert!(films.len() == 4 && films.windows(2).all(|pair| pair[0] != pair[1]), "{} moments", films.len());
    // Of a finished run nothing is drawn again but what is gone, and that as it was.
    let (still, moving) = (dir.path().join("run/saliency.png"), dir.path().join("run/saliency.apng"));
    let drawn = fs::read(&still).unwrap();
    fs::write(&moving, "not drawn again").unwrap();
    let again = pretrain(dir.path(), &small).unwrap();
    assert_eq!(fs::read_to_string(&moving).unwrap(), "not drawn again");
    fs::remove_file(&still).unwrap();
    pretrain(dir.path(), &small).unwrap();
    assert!(fs::read(&still).unwrap() == drawn && moments(&moving) == films);
    let repeated: serde_json::Value =
        serde_json::from_str(String::from_utf8_lossy(&again.stdout).lines().last().unwrap()).unwrap();
    assert_eq!(repeated["probe_top1"], line["probe_top1"], "a finished run says the same again");
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(said.contains("nothing was trained now") && !said.contains("loader:"), "{said}");
    // Nothing of the training depends on its metrics.
    fs::remove_file(dir.path().join("run/metrics.jsonl")).unwrap();
    let without = pretrain(dir.path(), &small).unwrap();
    let errors = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(without.status.success() && errors.contains("warning: run/metrics.jsonl is gone"), "{errors}");
    let e = refused(dir.path(), &[&small[..], &["--lr", "0.5"]].concat()).unwrap();
    assert!(e.contains("--lr: begun with 0.03, now 0.5") && e.contains("--out") && e.len() < 300, "{e}");
    // Weights of that run start another, of this method; what it says of them is in its summary.
    let file = "run/checkpoints/step-00000003/weights.safetensors";
    let again =
        pretrain(dir.path(), &[&small[..8], &["--seed", "3", "--init", file, "--out", "started"]].concat()).unwrap();
    let line = summary(&again);
    assert!(String::from_utf8_lossy(&again.stdout).contains("parameters from the file"), "{line}");
    assert_eq!(
        (line["init"].as_str(), line["probe_top1_init"].as_f64()),
        (Some(file), repeated["probe_top1"].as_f64())
    );
    assert!(line.get("probe_top1_random_init").is_none() && line["knn_top1_init"].is_f64(), "{line}");
    // The run's folder stands for its newest checkpoint, and another folder for nothing.
    let whole = pretrain(dir.path(), &[&small[..8], &["--seed", "3", "--init", "run", "--out", "whole"]].concat());
    let whole = summary(&whole.unwrap());
    assert_eq!(whole["probe_top1_init"], line["probe_top1_init"]);
    assert_eq!(whole["loss_last"], line["loss_last"], "the same weights, the same run");
    fs::create_dir(dir.path().join("nothing")).unwrap();
    let e = refused(dir.path(), &["--init", "nothing"]).unwrap();
    assert!(e.contains("--init") && e.contains("nothing: this is neither a run's folder"), "{e}");
    exported_networks_are_those_of_the_run(dir.path());
}

/// `weights export` of the run in `dir/run`: the trunk's and the head's values are those of its checkpoint, and the folder
/// initialises another run like the run itself.
fn exported_networks_are_those_of_the_run(dir: &Path) {
    let export = |args: &[&str]| {
        let out = Command::new(example("weights").unwrap()).current_dir(dir).arg("export").args(args).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    for (prefix, kind) in [("encoder_q.", "rgb"), ("motion.encoder_q.", "flow")] {
        let (fine, text) = export(&["run", "--out", kind, "--network", prefix]);
        assert!(fine, "{text}");
        let config = Config::load(&dir.join(kind).join("config.json")).unwrap();
        assert_eq!(config.input.as_ref().unwrap().kind, kind);
        let of = |file: &str, prefix: &str| {
            let mut params = config.params().unwrap();
            let any = Matching { strip: &[], allow_extra: true };
            load_weights(&dir.join(file), &mut [(prefix, &mut params)], &any).unwrap();
            params.iter().flat_map(|(_, p)| p.value.load().unwrap().into_owned()).collect::<Vec<f32>>()
        };
        let checkpoint = "run/checkpoints/step-00000003/weights.safetensors";
        assert!(of(&format!("{kind}/model.safetensors"), "") == of(checkpoint, prefix), "{prefix}");
    }
    let card = fs::read_to_string(dir.join("rgb/README.md")).unwrap();
    assert!(card.contains("The visual network, pre-trained with MaCLR") && card.contains("model.load"), "{card}");
    for (args, words) in [
        (&["run", "--out", "other", "--network", "encoder_k."][..], "--network encoder_k.: this run has encoder_q."),
        (&["run", "--out", "run"], "run: this folder holds other files"),
        (&["nothing", "--out", "other"], "nothing is not the folder of a run"),
    ] {
        let (fine, text) = export(args);
        assert!(!fine && text.contains(words) && !dir.join("other").exists(), "{text}");
    }
}

/// Sixteen videos of two classes in `dir`, folders of frames, and the options of a run on them.
fn few_videos(dir: &Path) -> Vec<&'static str> {
    for class in ["a", "b"] {
        for video in 0..8 {
            frames(&dir.join(format!("data/{class}/v_{class}_g{video}_c00")), 12);
        }
    }
    let run = "--data data --preset tiny --batch 2 --frames 2 --motion-frames 2 --side 16";
    run.split(' ').collect()
}

#[test]
fn settings_say_what_the_networks_get_and_no_option_of_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let run = few_videos(dir.path());
    for (motion, channels) in [("flow", 2), ("frame-diff", 1)] {
        let more = ["--motion", motion, "--out", motion];
        let Some(done) = pretrain(dir.path(), &[&run[..], &more].concat()) else { return };
        summary(&done);
        let text = fs::read_to_string(dir.path().join(motion).join("settings.json")).unwrap();
        let settings: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(settings["motion.in_channels"], channels, "{motion}");
        assert!(settings.get("--init-head").is_none(), "{text}");
    }
}

#[test]
fn a_session_without_a_step_keeps_what_an_earlier_one_measured() {
    let dir = tempfile::tempdir().unwrap();
    let run = [&few_videos(dir.path())[..], &["--out", "run"]].concat();
    let Some(first) = pretrain(dir.path(), &run) else { return };
    let (line, file) = (summary(&first), dir.path().join("run/summary.json"));
    let measured = fs::read(&file).unwrap();
    let again = summary(&pretrain(dir.path(), &run).unwrap());
    assert_eq!((again, fs::read(&file).unwrap()), (line.clone(), measured.clone()));
    // Without an earlier summary, what this session has not measured is null.
    for text in ["", "{\"steps\":1}"] {
        fs::write(&file, text).unwrap();
        let made = summary(&pretrain(dir.path(), &run).unwrap());
        for name in ["step_ms", "loading_seconds", "loader_videos_per_second", "memory_peak_bytes"] {
            assert!(line[name].is_number() && made[name].is_null(), "{name}: {} {}", line[name], made[name]);
        }
        assert_eq!((&made["probe_top1"], &made["loss_last"]), (&line["probe_top1"], &line["loss_last"]));
    }
}

/// A pipe that nobody reads.
fn closed() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn programs_end_without_a_word_where_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    frames(&d.join("video"), 4);
    fs::create_dir(d.join("store")).unwrap();
    let cases: [(&str, &[&str]); 6] = [
        ("cache", &["list", "--cache", "store"]),
        ("extract_flow", &["video", "--out", "flow"]),
        ("embed_kernel", &["--device", "cpu", "--out", "kernel"]),
        ("pretrain_maclr", &["--dry-run"]),
        ("pretrain_mcl", &["--dry-run"]),
        ("pretrain_mcl", &["--help"]),
    ];
    for (name, args) in cases {
        let Some(program) = example(name) else { return };
        let out = Command::new(&program).current_dir(d).args(args).stdout(closed()).output().unwrap();
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && !errors.contains("panicked"), "{name} {args:?}: {} {errors}", out.status);
        // Nor where nobody reads what goes wrong.
        let status = Command::new(&program).current_dir(d).arg("--none").stderr(closed()).status().unwrap();
        assert_eq!(status.code(), Some(2), "{name}");
    }
}

/// Whoever reads the progress may leave: the run goes on. Stopped by a signal, it says what is saved.
#[test]
fn a_run_that_is_stopped_says_what_is_saved_and_by_which_signal() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let Some(program) = example("pretrain_mcl") else { return };
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let mut command = Command::new(&program);
        command.current_dir(d).args(["--epochs", "5000", "--threads", "2", "--batch", "64", "--frames", "4"]);
        command.args(["--side", "16", "--out", "run"]).stdout(closed()).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        let log = d.join("run/metrics.jsonl");
        let steps = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        let before = steps();
        let begun = std::time::Instant::now();
        while steps() <= before && begun.elapsed().as_secs() < 300 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let out = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "{errors}");
        let last = errors.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("stopped as asked: ") && last.contains("saved in run: ") && last.contains(" steps; "),
            "{errors}"
        );
        assert!(!errors.contains("error:") && d.join("run/checkpoints").is_dir(), "{errors}");
    }
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
    let e = refused(d, &["--data", "data", "--batch", "2", "--queue", "5000", "--keep-own"]).unwrap();
    assert!(e.contains("5000") && e.contains("negatives"), "{e}");
    let e = refused(d, &["--device", "cuda:0"]).unwrap();
    assert!(e.contains("cuda:0"), "{e}");
}

/// The sentence began with the path of the cache, and sent its reader there.
#[test]
fn videos_none_of_which_can_be_used_are_a_fault_of_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let spoil = |video: &str| fs::write(d.join("videos").join(video).join("000.png"), "no picture").unwrap();
    let lists = "--data train.txt --test test.txt --batch 2 --frames 2 --motion-frames 2 --side 16";
    let lists: Vec<&str> = lists.split(' ').collect();
    ["a3", "b3"].into_iter().for_each(spoil);
    let Some(e) = refused(d, &lists) else { return };
    assert!(
        e.starts_with("error: --data or --test: test: none of the 2 videos can be used; the first, videos/a3: "),
        "{e}"
    );
    ["a0", "a1", "a2", "b0", "b1", "b2"].into_iter().for_each(spoil);
    for dry in [&["--dry-run"][..], &[]] {
        let e = refused(d, &[&lists[..], dry].concat()).unwrap();
        assert!(e.starts_with("error: --data: train: none of the 6 videos can be used; the first, videos/a0: "), "{e}");
        assert!(!e.contains("cache"), "{e}");
    }
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
fn output_inside_of_the_data_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for class in ["a", "b"] {
        for video in 0..4 {
            frames(&d.join(format!("data/{class}/v_{class}_g{video}_c00")), 6);
        }
    }
    std::os::unix::fs::symlink("data", d.join("link")).unwrap();
    for (data, option, path) in [
        ("data", "--out", "data/run"),
        ("data", "--out", "link/a/new/run"),
        ("link", "--cache", "data/cache"),
        ("data", "--out", "data"),
        (".", "--out", "runs/pretrain_maclr"),
    ] {
        let Some(e) = refused(d, &["--data", data, "--batch", "2", option, path]) else { return };
        let said = [format!("{option} {path}"), format!("--data {data}"), "such as".to_owned()];
        assert!(said.iter().all(|part| e.contains(part)), "{e}");
    }
    let mut there: Vec<_> = fs::read_dir(d).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(there, ["data", "link"]);
    assert_eq!(fs::read_dir(d.join("data")).unwrap().count(), 2);
}

#[test]
fn videos_of_one_class_or_none_are_refused_before_they_are_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for video in ["one", "two", "three", "four", "five", "six"] {
        frames(&d.join("data/mine").join(video), 6);
    }
    let Some(e) = refused(d, &["--data", "data", "--batch", "2"]) else { return };
    assert!(e.contains("--data: all training videos are of class mine") && e.contains("two classes or more"), "{e}");
    frames(&d.join("data/loose"), 6);
    let e = refused(d, &["--data", "data", "--batch", "2"]).unwrap();
    assert!(e.contains("data/loose lies in no class folder, and data/mine/five does"), "{e}");
    assert!(!d.join("runs").exists());
}

#[test]
fn what_is_no_list_is_named_for_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("list.csv"), "a.mp4,0\n").unwrap();
    fs::write(d.join("a.mp4"), [0, 0xff]).unwrap();
    let Some(e) = refused(d, &["--data", "a.mp4", "--test", "list.csv"]) else { return };
    assert!(e.contains("--data: a.mp4: this is a video: give a folder"), "{e}");
    let e = refused(d, &["--data", "list.csv", "--test", "."]).unwrap();
    assert!(e.contains("--test: .: this is a folder"), "{e}");
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("taken"), "a file").unwrap();
    let Some(e) = refused(dir.path(), &["--out", "taken/run"]) else { return };
    assert!(e.contains("taken"), "{e}");
}
