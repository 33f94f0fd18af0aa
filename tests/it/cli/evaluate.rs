//! Evaluations of frozen features: `linear_probe`, `retrieve`, `extract_features`.

use crate::support::close::{assert_within, gamma};
use crate::support::programs::{data, example, moments, started, summary};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tubelet::nn::{Arch, Builder, Trunk};
use tubelet::tensor::DType;
use tubelet::train::views::ViewSpec;
use tubelet::weights::{Config, export, save_weights};

const PROGRAMS: [&str; 3] = ["linear_probe", "retrieve", "extract_features"];

/// Options that make an evaluation of the lists of [`data`] take a moment.
const LISTS: &str = "--data train.txt --test test.txt --frames 2 --stride 1 --side 16";

fn program(name: &str, dir: &Path, args: &str) -> Option<Output> {
    let mut command = Command::new(example(name)?);
    Some(command.current_dir(dir).args(["--threads", "2"]).args(args.split_whitespace()).output().unwrap())
}

/// The one sentence of a failure, before which nothing may have been decoded or written.
fn refused(name: &str, dir: &Path, args: &str) -> Option<String> {
    let out = program(name, dir, args)?;
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && !errors.contains("panicked"), "{name} {args}: {errors}");
    assert!(!dir.join("runs").exists(), "{name} {args}: it wrote");
    errors.lines().find(|line| line.starts_with("error: ")).map(str::to_owned).or_else(|| panic!("{errors}"))
}

/// The rows of a NumPy file of f32.
fn npy(path: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let at = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..at]).unwrap();
    assert!(header.contains("'descr': '<f4', 'fortran_order': False"), "{header}");
    let shape = header.split_once('(').unwrap().1.split_once(')').unwrap().0;
    let [rows, cols] = [0, 1].map(|i| shape.split(", ").nth(i).unwrap().parse::<usize>().unwrap());
    let numbers: Vec<f32> = bytes[at..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(numbers.len(), rows * cols);
    numbers.chunks_exact(cols).map(<[f32]>::to_vec).collect()
}

fn has(line: &Value, names: &[&str]) {
    for name in names {
        assert!(line.get(name).is_some_and(|v| !v.is_null() && !v.is_object()), "{name} in {line}");
    }
}

const COMMON: [&str; 16] = [
    "init",
    "arch",
    "preset",
    "data",
    "layout",
    "device",
    "precision",
    "seed",
    "threads",
    "views",
    "clips",
    "crops",
    "frames",
    "stride",
    "side",
    "seconds",
];

/// The figures of a run are those of its checkpoint: what the run's own probe says, `linear_probe` says.
#[test]
fn the_network_of_a_run_is_evaluated_as_the_run_does_itself() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for (pretraining, small) in [("pretrain_maclr", "--motion-frames=4"), ("pretrain_mcl", "--w-align=0")] {
        let run = format!("{pretraining}_run");
        let options = ["--batch", "64", "--frames", "4", "--side", "16", "--out", &run, "--seed", "3", small];
        let Some(out) = started(pretraining, d, &options) else { return };
        let trained = summary(&out);
        let of = |init: &str, more: &str| format!("--init {init} --seed 3 {more} --out {run}_probe");
        let line = summary(&program("linear_probe", d, &of(&run, "")).unwrap());
        assert_eq!(line["top1"], trained["probe_top1"], "{pretraining}");
        has(&line, &COMMON);
        has(&line, &["videos_train", "videos_test", "top1", "top5", "mean_class", "top1_low", "top1_high"]);
        assert_eq!((&line["init"], &line["arch"]), (&Value::from(run.as_str()), &Value::from("small")));
        let [low, top, high] = ["top1_low", "top1", "top1_high"].map(|name| line[name].as_f64().unwrap());
        assert!(low <= top && top <= high, "{line}");
        let home = d.join(format!("{run}_probe"));
        assert!(image::open(home.join("confusion.png")).unwrap().width() > 300);
        let lines = |file: &str| fs::read_to_string(home.join(file)).unwrap().lines().count();
        assert_eq!((lines("per_class.csv"), lines("predictions.csv")), (1 + 8, 1 + 128));
        // Evaluated again, and from the file of weights in the checkpoint, it is the same.
        let again = summary(&program("linear_probe", d, &of(&run, "")).unwrap());
        let file = format!("{run}/checkpoints/step-00000003/weights.safetensors");
        let file = summary(&program("linear_probe", d, &of(&file, "")).unwrap());
        assert_eq!((&again["top1"], &file["top1"]), (&line["top1"], &line["top1"]));
        // Sources of the test videos change nothing of the accuracy, so they may be given afterwards, by the names written.
        let predictions = fs::read_to_string(home.join("predictions.csv")).unwrap();
        let names = predictions.lines().skip(1).map(|line| line.split(',').next().unwrap());
        let sources: String = names.enumerate().map(|(i, name)| format!("\"{name}\",source {}\n", i % 4)).collect();
        fs::write(d.join("sources.csv"), sources).unwrap();
        let grouped = program("linear_probe", d, &of(&run, "--groups sources.csv")).unwrap();
        let line = summary(&grouped);
        assert_eq!((&line["top1"], line["groups"].as_u64()), (&trained["probe_top1"], Some(4)));
        let [low, top, high] = ["top1_group_low", "top1", "top1_group_high"].map(|name| line[name].as_f64().unwrap());
        assert!(low <= top && top <= high, "{line}");
        assert!(fs::read_to_string(home.join("predictions.csv")).unwrap().contains(",source 3\n"));
        // Another classifier in the same folder is another evaluation.
        let out = program("linear_probe", d, &of(&run, "--classifier svm")).unwrap();
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            errors.contains("--classifier: begun with \"logistic\", now \"svm\"") && errors.contains("--out"),
            "{errors}"
        );
    }
    // A run whose only checkpoint is damaged is refused, and not changed.
    let weights = d.join("pretrain_maclr_run/checkpoints/step-00000003/weights.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let out = program("retrieve", d, "--init pretrain_maclr_run --dry-run").unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        !out.status.success() && errors.contains("--init pretrain_maclr_run") && errors.contains("is damaged"),
        "{errors}"
    );
    assert_eq!(fs::read(&weights).unwrap(), bytes);
}

#[test]
fn random_weights_are_named_and_every_classifier_and_protocol_runs() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    for (i, more) in [
        "",
        "--classifier svm --c 0.5",
        "--classifier sgd --epochs 3 --batch 4 --lr 0.1 --clips 2",
        "--preset maclr-ucf101 --epochs 2 --clips 2 --lr 0.1",
        "--preset mcl-k400 --epochs 2 --clips 2",
        "--preset mcl-ucf101 --clips 2 --crops 3",
    ]
    .into_iter()
    .enumerate()
    {
        let Some(out) = program("linear_probe", d, &format!("{LISTS} {more} --out probe{i}")) else { return };
        let line = summary(&out);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("without --init the network has random weights"), "{text}");
        has(&line, &COMMON);
        assert_eq!((&line["init"], &line["videos_test"]), (&Value::from("random"), &Value::from(2)), "{more}");
        assert!(line["top1_group_low"].is_null(), "names that say nothing of recordings: {line}");
    }
    let views = |i: usize| -> Value {
        serde_json::from_str(&fs::read_to_string(d.join(format!("probe{i}/summary.json"))).unwrap()).unwrap()
    };
    assert_eq!((&views(3)["views"], &views(3)["classifier"]), (&Value::from(6), &Value::from("sgd")));
    assert_eq!((&views(5)["views"], &views(5)["classifier"]), (&Value::from(6), &Value::from("svm")));
    fs::write(d.join("sources.csv"), "videos/a3,one\nvideos/b3,one\n").unwrap();
    let grouped = format!("{LISTS} --groups sources.csv --out grouped");
    let line = summary(&program("linear_probe", d, &grouped).unwrap());
    assert_eq!(line["groups"].as_u64(), Some(1));
    assert!(line["top1_group_low"].is_null(), "one source has no interval: {line}");
    for (sources, names) in [
        ("videos/a3,one\n", "it has no line of the test video videos/b3"),
        ("videos/a3,one\nvideos/b3 two\n", "line 2: a line is `name,source`"),
        ("videos/a3,one\nvideos/b3,\n", "line 2: a line is `name,source`"),
        ("videos/a3,one\nvideos/b3,two\nvideos/a3,two\n", "line 3: videos/a3 is of two here, and of one in line 1"),
    ] {
        fs::write(d.join("sources.csv"), sources).unwrap();
        let out = program("linear_probe", d, &grouped).unwrap();
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(errors.contains(&format!("--groups sources.csv: {names}")), "{errors}");
    }
    // An option that the classifier does not take is refused.
    let out = program("linear_probe", d, &format!("{LISTS} --classifier svm --l2 1 --out other")).unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(errors.contains("--l2 is an option of --classifier logistic, and this is svm"), "{errors}");
}

#[test]
fn retrieval_has_its_figures_a_table_and_a_sheet() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let Some(out) = program("retrieve", d, &format!("{LISTS} --out found")) else { return };
    let line = summary(&out);
    has(&line, &COMMON);
    let figures = ["r1", "r5", "r10", "r20", "r50"].map(|name| line[name].as_f64().unwrap());
    assert!(figures.is_sorted() && figures[4] == 1.0, "of six videos each class is among the first fifty: {line}");
    assert!(image::open(d.join("found/retrieval.png")).unwrap().width() > 600);
    assert_eq!(moments(&d.join("found/retrieval.apng")).len(), 12);
    let table = fs::read_to_string(d.join("found/nearest.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 2 * 6);
}

#[test]
fn features_of_a_video_do_not_depend_on_the_list_or_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let Some(out) = program("extract_features", d, &format!("{LISTS} --out whole --clips 3 --crops 3")) else { return };
    let line = summary(&out);
    has(&line, &COMMON);
    assert_eq!(
        (line["features"].as_u64(), line["dim"].as_u64(), line["views"].as_u64()),
        (Some(8), Some(128), Some(9))
    );
    let index = |dir: &str| -> Vec<(String, String)> {
        let text = fs::read_to_string(d.join(dir).join("index.csv")).unwrap();
        let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(lines.next().unwrap(), ["row", "file", "label"]);
        lines
            .enumerate()
            .map(|(i, fields)| {
                assert_eq!(fields[0], i.to_string());
                (fields[1].clone(), fields[2].clone())
            })
            .collect()
    };
    let (rows, files) = (npy(&d.join("whole/features.npy")), index("whole"));
    assert_eq!((rows.len(), rows[0].len(), files.len()), (8, 128, 8));
    assert_eq!(files[0], ("videos/a0".to_owned(), "a".to_owned()));
    assert!((1..8).all(|i| rows[i] != rows[0]), "videos differ, and so do their features");
    // A part of them, in another order, without labels, on one thread.
    let some = [6, 0, 3, 7];
    let list: String = some.iter().map(|&i: &usize| format!("{}\n", files[i].0)).collect();
    fs::write(d.join("some.txt"), list).unwrap();
    let args = "--data some.txt --frames 2 --stride 1 --side 16 --clips 3 --crops 3 --out some --threads 1";
    let mut command = Command::new(example("extract_features").unwrap());
    let out = command.current_dir(d).args(args.split(' ')).output().unwrap();
    assert_eq!(summary(&out)["features"].as_u64(), Some(4));
    assert_eq!(index("some").into_iter().map(|(_, label)| label).collect::<String>(), "", "no labels");
    let part = npy(&d.join("some/features.npy"));
    let bits = |row: &[f32]| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for (row, i) in part.iter().zip(some) {
        assert_eq!(bits(row), bits(&rows[i]), "{}", files[i].0);
    }
    // A part by its split; a split of what has none is refused.
    let line = summary(&program("extract_features", d, &format!("{LISTS} --part test --out test")).unwrap());
    assert_eq!(line["features"].as_u64(), Some(2));
    let out = program("extract_features", d, "--data some.txt --part test --out none").unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("error: --part"));
}

/// The codes of a video's steps are in the order of time, and their mean is the features that it has without `--pool`.
#[test]
fn codes_over_time_are_pooled_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let clips = "--data train.txt --test test.txt --frames 8 --stride 1 --side 16 --clips 2 --cache store";
    let of = |pool: &str| -> Option<Vec<Vec<f32>>> {
        let out = program("extract_features", d, &format!("{clips} --pool {pool} --out {pool}"))?;
        let rows = npy(&d.join(pool).join("features.npy"));
        assert_eq!(summary(&out)["dim"].as_u64(), Some(rows[0].len() as u64));
        Some(rows)
    };
    let Some(mean) = of("mean") else { return };
    let (steps, moments) = (of("steps").unwrap(), of("moments").unwrap());
    assert_eq!((steps[0].len(), moments[0].len()), (2 * 2 * 128, 3 * 128), "two clips of two steps");
    for ((mean, steps), moments) in mean.iter().zip(&steps).zip(&moments) {
        let average = |i: usize| (0..4).map(|step| f64::from(steps[step * 128 + i])).sum::<f64>() / 4.0;
        let want: Vec<f64> = (0..128).map(average).collect();
        // Sums of at most 64 positive numbers in another order.
        let off: Vec<f64> = want.iter().map(|v| gamma(64, DType::F32) * v).collect();
        assert_within("features", mean, &want, &off);
        assert_within("the first moment", &moments[..128], &want, &off);
    }
    assert!(steps.iter().any(|row| row[..128] != row[128..256]), "steps differ");
    let line = summary(&program("linear_probe", d, &format!("{clips} --pool moments --out probe")).unwrap());
    assert_eq!((line["pool"].as_str(), line["videos_test"].as_u64()), (Some("moments"), Some(2)));
    let e = refused("linear_probe", d, &format!("{LISTS} --pool steps --preset maclr-ucf101 --out none")).unwrap();
    assert!(e.contains("--pool steps") && !d.join("none").exists(), "{e}");
}

#[test]
fn networks_of_files_and_exported_folders_are_found_and_wrong_ones_refused_before_decoding() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let net = Arch::by_name("motion_r2d50").unwrap().net();
    let rgb = tubelet::nn::Net { in_channels: 3, ..tubelet::train::maclr::Recipe::small().visual };
    let params = |net| {
        let mut builder = Builder::new(5);
        Trunk::new(net, &mut builder);
        builder.finish()
    };
    let small = params(&rgb);
    save_weights(&d.join("small.safetensors"), &[("", &small)]).unwrap();
    save_weights(&d.join("motion.safetensors"), &[("", &params(&net))]).unwrap();
    export(&d.join("exported"), &small, &Config::new(&rgb, "a test")).unwrap();
    fs::write(d.join("text"), "no weights").unwrap();
    fs::create_dir(d.join("empty")).unwrap();
    for name in PROGRAMS {
        let Some(e) = refused(name, d, &format!("{LISTS} --init nowhere")) else { return };
        assert!(e.starts_with("error: --init nowhere: ") && e.contains("No such file"), "{e}");
        let e = refused(name, d, &format!("{LISTS} --init text")).unwrap();
        assert!(e.starts_with("error: --init text: "), "{e}");
        let e = refused(name, d, &format!("{LISTS} --init empty")).unwrap();
        assert!(e.contains("--init empty") && e.contains("neither that of a run"), "{e}");
        let e = refused(name, d, &format!("{LISTS} --init small.safetensors")).unwrap();
        assert!(e.contains("give --arch, one of cvrl_r3d50, "), "{e}");
        let e = refused(name, d, &format!("{LISTS} --init small.safetensors --arch r3d_18")).unwrap();
        assert!(e.contains("--init small.safetensors: --arch r3d_18: ") && e.contains("another network"), "{e}");
        let e = refused(name, d, &format!("{LISTS} --init motion.safetensors --arch motion_r2d50")).unwrap();
        assert!(e.contains("--arch motion_r2d50") && e.contains("one of RGB"), "{e}");
        let e = refused(name, d, "--data train.txt --test nowhere --dry-run").unwrap();
        assert!(e.contains("nowhere"), "{e}");
        // A dry run says what it would do, and writes nothing.
        let out = program(name, d, &format!("{LISTS} --init exported --dry-run")).unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && text.contains("exported/model.safetensors"), "{text}");
        assert!(text.trim_end().ends_with("nothing was written") && !d.join("runs").exists(), "{text}");
        // Nobody knows how that network was trained: the clips that are taken are named, once.
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        let assumed = "2 frames (rgb) 1 apart in the video, 16 x 16 pixels";
        assert!(errors.matches("--init does not say which clips").count() == 1 && errors.contains(assumed), "{errors}");
        for (input, words) in [
            (
                "flow-edges",
                "motion/config.json: its `input.kind` is `flow-edges`, and what is evaluated takes clips of rgb",
            ),
            ("rgb", "motion/config.json: its `input.std` is [0.0, 0.0, 0.0], and must be 3 numbers"),
        ] {
            let mut config = Config::new(&rgb, "a test").input(ViewSpec::small().inputs()[0].clone());
            let clips = config.input.as_mut().unwrap();
            (clips.kind, clips.std) = (input.to_owned(), vec![if input == "rgb" { 0.0 } else { 1.0 }; 3]);
            fs::create_dir_all(d.join("motion")).unwrap();
            fs::write(d.join("motion/config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
            let e = refused(name, d, &format!("{LISTS} --init motion")).unwrap();
            assert!(e.contains("--init motion") && e.contains(words), "{e}");
        }
    }
    let line = summary(&program("retrieve", d, &format!("{LISTS} --init exported --out a")).unwrap());
    assert_eq!((&line["init"], &line["arch"]), (&Value::from("exported"), &Value::from("small")));
    // The network of a folder is the one that was put there: random weights of its seed have the same features.
    let of = |out: &str, more: &str| {
        summary(&program("extract_features", d, &format!("{LISTS} {more} --out {out}")).unwrap());
        fs::read(d.join(out).join("features.npy")).unwrap()
    };
    assert!(of("b", "--init exported") == of("c", "--seed 5"));
}

/// Without `--data` the videos are procedural, whatever the network was trained on: that is told, and the folder of one network's
/// evaluation is not taken for another's.
#[test]
fn videos_that_the_network_was_not_trained_on_and_folders_of_other_networks_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    for seed in ["1", "2"] {
        let out = format!("run{seed}");
        let options = ["--data", "train.txt", "--test", "test.txt", "--batch", "2", "--frames", "2", "--stride", "1"];
        let more = ["--side", "16", "--w-align", "0", "--seed", seed, "--out", &out];
        let Some(trained) = started("pretrain_mcl", d, &[&options[..], &more].concat()) else { return };
        summary(&trained);
        let told = String::from_utf8_lossy(&trained.stderr).into_owned();
        assert!(told.contains("--epochs 1 are 3 steps: with so few videos more passes are needed"), "{told}");
    }
    let what = "on procedural videos, since no --data is given; the network was trained on train.txt";
    for (name, sentence) in [("linear_probe", "128 test videos ("), ("retrieve", "R@1 ")] {
        let out = program(name, d, &format!("--init run1 --clips 1 --out {name}")).unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && said.lines().any(|line| line == what), "{said}");
        assert!(
            said.lines().any(|line| line.contains(sentence) && line.contains(&format!("({what}); files"))),
            "{said}"
        );
        let out = program(name, d, &format!("--init run2 --clips 1 --out {name}")).unwrap();
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        let e = format!("error: {name} holds the evaluation of another network (run1): choose another --out");
        assert!(!out.status.success() && errors.lines().any(|line| line == e), "{errors}");
    }
    let similar = "--queries 13 --frames 2 --side 16 --clips 1 --out similar";
    assert!(program("motion_similarity", d, &format!("{similar} --init run1")).unwrap().status.success());
    let out = program("motion_similarity", d, &format!("{similar} --init run2")).unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        !out.status.success() && errors.contains("similar holds the evaluation of another network (run1)"),
        "{errors}"
    );
    let out = program("extract_features", d, &format!("{LISTS} --init run1 --out features")).unwrap();
    assert!(out.status.success() && !String::from_utf8_lossy(&out.stdout).contains("since no --data"), "{out:?}");
}

#[test]
fn a_folder_in_use_and_one_of_another_program_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let _held = tubelet::train::folder::Folder::open(d.join("held")).unwrap();
    let Some(e) = refused("retrieve", d, &format!("{LISTS} --out held")) else { return };
    assert!(e.starts_with("error: --out held is in use by process"), "{e}");
    summary(&program("retrieve", d, &format!("{LISTS} --out found --cache store")).unwrap());
    let e = refused("extract_features", d, &format!("{LISTS} --out found --cache store")).unwrap();
    assert!(e.contains("--out") && e.contains("retrieve began this run, not extract_features"), "{e}");
    let e = refused("retrieve", d, "--data train.txt --test test.txt --out videos --cache store --crops 2")
        .unwrap_or_default();
    assert!(e.contains("--crops"), "{e}");
}

/// Killed in the middle it leaves nothing that looks finished; stopped it says what is lost; the same command then
/// gives what one gives that was never disturbed.
#[test]
fn an_evaluation_that_is_stopped_or_killed_begins_again_and_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let args = "--data train.txt --test test.txt --stride 1 --clips 100";
    let Some(path) = example("extract_features") else { return };
    for (signal, status) in [("-KILL", None), ("-INT", Some(130))] {
        let mut command = Command::new(&path);
        command.current_dir(d).args(args.split(' ')).args(["--out", "run"]).stderr(std::process::Stdio::piped());
        let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        let unfinished = d.join(format!("run/features.npy.{}.tmp", child.id()));
        let begun = std::time::Instant::now();
        while !unfinished.exists() && begun.elapsed().as_secs() < 300 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let out = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), status, "{errors}");
        assert!(
            status.is_none() || errors.contains("stopped as asked: features are not kept; the same command"),
            "{errors}"
        );
        assert_eq!(unfinished.exists(), status.is_none(), "a killed process leaves its unfinished file");
        assert!(!d.join("run/features.npy").exists() && !d.join("run/summary.json").exists());
    }
    let features = |out: &str| {
        let line = summary(&program("extract_features", d, &format!("{args} --out {out}")).unwrap());
        assert_eq!(line["features"].as_u64(), Some(8));
        ["features.npy", "index.csv"].map(|file| fs::read(d.join(out).join(file)).unwrap())
    };
    assert!(features("run") == features("other"));
    let left = fs::read_dir(d.join("run"))
        .unwrap()
        .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "tmp"));
    assert_eq!(left.count(), 0);
}
