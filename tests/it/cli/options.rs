//! Options of the pre-training examples: every number has its range, and nothing is decoded or written before all is checked.

use crate::support::programs::{data, example, frames, refused, refused_by, started, summary};
use rayon::prelude::*;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tubelet::train::folder::Folder;
use tubelet::train::limits::{self, Limit};

const PROGRAMS: [&str; 2] = ["pretrain_maclr", "pretrain_mcl"];

/// Options whose values are no numbers.
const WORDS: [&str; 24] = [
    "--data",
    "--test",
    "--procedural",
    "--preset",
    "--out",
    "--device",
    "--cache",
    "--flow-dir",
    "--arch",
    "--init",
    "--precision",
    "--motion",
    "--motion-stem",
    "--trace",
    "--wire",
    "--motion-sampling",
    "--motion-crop",
    "--align-form",
    "--align-detached",
    "--align-module",
    "--align-terms",
    "--align-centred",
    "--target-norm",
    "--cross-positive",
];

/// What is tried as a value of every option.
const VALUES: [&str; 9] = ["-1", "0", "nan", "inf", "-inf", "1e300", "18446744073709551615", "abc", ""];

/// The options of a program that take a value, as its help has them.
fn options(program: &str) -> Option<Vec<String>> {
    let out = Command::new(example(program)?).arg("--help").output().unwrap();
    let help = String::from_utf8(out.stdout).unwrap();
    let lines = help.lines().map(str::trim).filter(|line| line.starts_with("--") && line.contains('<'));
    Some(lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect())
}

fn dry(program: &str, dir: &Path, args: &[&str]) -> Output {
    Command::new(example(program).unwrap()).current_dir(dir).args(args).arg("--dry-run").output().unwrap()
}

/// Whether the table allows what `text` says.
fn allowed(limit: &Limit, text: &str) -> bool {
    if limit.whole { limit.parse::<u64>(text).is_ok() } else { limit.parse::<f32>(text).is_ok() }
}

#[test]
fn every_number_is_accepted_within_its_range_and_refused_by_name_outside() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let mut tried = Vec::new();
    for program in PROGRAMS {
        let Some(options) = options(program) else { return };
        for option in options {
            let limit = limits::ALL.into_iter().find(|limit| limit.option == option);
            assert_eq!(limit.is_none(), WORDS.contains(&option.as_str()), "{option} has a limit, or takes words");
            tried.extend(VALUES.map(|value| (program, option.clone(), limit, value)));
        }
    }
    assert!(tried.len() > 500, "{} values tried", tried.len());
    tried.into_par_iter().for_each(|(program, option, limit, value)| {
        let out = dry(program, d, &[&format!("{option}={value}")]);
        let (code, errors) = (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned());
        let what = format!("{program} {option}={value}: {code:?} {errors}");
        assert!(code.is_some() && !errors.contains("panicked"), "{what}");
        if let Some(limit) = limit {
            assert_eq!(code == Some(0), allowed(&limit, value), "{what}");
            if value == "-1" {
                // As two words, too: a negative number is no option.
                let apart = dry(program, d, &[&option, value]);
                assert!(String::from_utf8_lossy(&apart.stderr).contains("it must be"), "{what}");
            }
        }
        if code != Some(0) {
            let sentence = errors.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
            assert!(sentence.contains(&option), "{what}");
        }
    });
    assert_eq!(fs::read_dir(d).unwrap().count(), 0, "a dry run writes nothing");
}

#[test]
fn a_dry_run_says_in_a_few_lines_what_the_run_would_do_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for program in PROGRAMS {
        if example(program).is_none() {
            return;
        }
        let out = dry(program, dir.path(), &["--epochs", "2", "--device", "cpu", "--cache", "store"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let row = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim().to_owned();
        assert!(row("data").starts_with("procedural videos") && row("videos") == "192 for training, 128 for testing");
        assert!(row("classes").starts_with("8 (") && row("classes").contains("move_left 24+16, "), "{text}");
        assert!(row("clips").contains("RGB: 8 frames 2 apart, 48x48"), "{text}");
        assert_eq!(row("steps"), "12: 6 per epoch, of 32 videos; 2 epochs");
        assert!(row("queue").ends_with(" keys") && row("networks").contains("RGB 0."), "{text}");
        assert!(row("device").starts_with("cpu, ") && row("settings").contains("settings.json"), "{text}");
        assert_eq!((row("--out"), row("--cache")), (format!("runs/{program}"), "store".to_owned()));
        assert!(text.trim_end().lines().last().unwrap().contains("nothing was written"), "{text}");
        assert!(text.lines().count() < 20, "{text}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn wrong_data_are_reported_before_a_folder_that_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let _held = Folder::open(d.join("run")).unwrap();
    for more in [&["--out", "run"][..], &["--out", "run", "--dry-run"]] {
        let Some(e) = refused(d, &[&["--data", "nowhere"], more].concat()) else { return };
        assert!(e.contains("--data") && e.contains("nowhere") && !e.contains("in use"), "{e}");
        let e = refused(d, more).unwrap();
        assert!(e.starts_with("error: --out run is in use by process"), "the path is named once: {e}");
    }
}

#[test]
fn a_graph_on_the_cpu_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    for program in PROGRAMS {
        if example(program).is_none() {
            return;
        }
        let errors = |args: &[&str]| String::from_utf8(dry(program, dir.path(), args).stderr).unwrap();
        let told = errors(&["--device", "cpu", "--graph"]);
        assert!(told.contains("warning: --graph") && told.contains("--device"), "{told}");
        assert!(!errors(&["--device", "cpu"]).contains("--graph"));
    }
}

/// Options whose values are words of a fixed list, of both programs and of MaCLR's alone.
const LISTS: [(&str, &str, &str); 7] = [
    ("--precision", "f32, fma, bf16, bf16x3, bf16x6", "bf16x2"),
    ("--align-form", "weight-gradient, grad-cam, magnitude", "gradcam"),
    ("--align-terms", "space-time, space, time", "spacetime"),
    ("--target-norm", "raw, mean", "means"),
    ("--motion", "frame-diff, flow, flow-edges, flow+edges", "flow-edge"),
    ("--cross-positive", "other-clip, same-clip", "same"),
    ("--motion-stem", "1x7x7, 5x7x7", "5x7"),
];

#[test]
fn words_of_a_list_are_in_the_help_and_a_misspelt_one_gets_a_suggestion() {
    for (program, lists) in PROGRAMS.into_iter().zip([&LISTS[..], &LISTS[..4]]) {
        let Some(path) = example(program) else { return };
        let run = |args: &[&str]| Command::new(&path).args(args).output().unwrap();
        let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
        for (option, values, misspelt) in lists {
            assert!(help.contains(&format!("[possible values: {values}]")), "{option}: {help}");
            let errors = String::from_utf8(run(&["--dry-run", option, misspelt]).stderr).unwrap();
            assert!(errors.contains(&format!("'{option} <")) && errors.contains("similar value"), "{errors}");
        }
    }
}

#[test]
fn what_does_not_fit_together_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("file"), "not a folder").unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--bn-groups", "5"], &["--bn-groups = 5", "--batch 32"]),
        (&["--batch", "4", "--bn-groups", "4"], &["--bn-groups = 4", "--batch 4"]),
        (&["--batch", "193"], &["--batch = 193", "choose a --batch from 2 to 192"]),
        (&["--queue", "193", "--keep-own"], &["--queue = 193", "--keep-own", "at most 192"]),
        (&["--w-vv=0", "--w-mm=0", "--w-vm=0", "--w-mv=0"], &["--w-vv", "--w-align", "nothing to learn"]),
        (
            &["--w-vv=0", "--w-mm=0", "--w-vm=0", "--w-mv=0", "--w-align=5", "--w-align-end=0"],
            &["--w-align-end", "the only loss"],
        ),
        (&["--w-align=5", "--w-align-end=0"], &["--w-align-end = 0", "there are fewer than two"]),
        (&["--drift", "2"], &["--drift = 2", "any of the 1 --epochs"]),
        (
            &["--side", "2048", "--frames", "1024", "--batch", "64"],
            &["--batch = 64", "--side 2048", "--frames 1024", "GB"],
        ),
        (&["--side", "2048", "--frames", "71", "--batch", "2", "--probe-clips", "3"], &["--probe-clips = 3", "GB"]),
        (&["--motion-frames", "1024", "--side", "2048", "--batch", "2"], &["--motion-frames 1024", "GB"]),
        (&["--test", "list"], &["--data"]),
        (&["--data", "a", "--data", "b"], &["--data", "multiple times"]),
        (&["--data", "nowhere"], &["nowhere"]),
        (&["--out", "file/run"], &["--out file/run", "not a folder"]),
        (&["--cache", "file/cache"], &["--cache file/cache", "not a folder"]),
        (&["--cache", "file"], &["--cache file", "not a folder"]),
        (&["--flow-dir", "nowhere"], &["--flow-dir nowhere"]),
        (&["--device", "cuda:99"], &["cuda:99"]),
        (&["--device", "gpu"], &["--device", "cuda:N"]),
        (&["--init", "nowhere"], &["nowhere"]),
        (&["--init", "file"], &["file", "safetensors"]),
        (&["--align-module", "layer9.0", "--w-align", "1"], &["layer9.0"]),
        (&["--arch", "p3d_a50", "--frames", "3"], &["p3d_a50", "--frames and --side"]),
        (&["--arch", "resnet"], &["--arch"]),
        (&["--arch", "motion_r2d50"], &["--arch motion_r2d50", "takes clips of motion"]),
        (&["--preset", "paper-kinetics"], &["--preset", "paper-kinetics"]),
        (&["--cross-positive", "same"], &["--cross-positive"]),
    ];
    for (args, words) in cases {
        let Some(e) = refused(d, args) else { return };
        for word in *words {
            assert!(e.contains(word), "{args:?}: {word} in {e}");
        }
        assert_eq!(fs::read_dir(d).unwrap().count(), 1, "{args:?} left something behind");
    }
    let mcl: &[(&[&str], &str)] = &[
        (&["--preset", "paper", "--frames", "3"], "--frames and --side"),
        (&["--w-inter=0", "--w-intra=0", "--w-order=0", "--w-align=0"], "nothing to learn"),
        (&["--init-head"], "--init"),
        (&["--arch", "p3d_a50", "--frames", "3"], "--frames and --side"),
        (&["--arch", "cvrl_r3d50"], "--align-module"),
    ];
    for (args, word) in mcl {
        let e = refused_by("pretrain_mcl", d, args).unwrap();
        assert!(e.contains(word), "{args:?}: {e}");
    }
    assert_eq!(fs::read_dir(d).unwrap().count(), 1);
}

#[test]
fn a_dry_run_refuses_what_the_run_would_refuse_before_decoding() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    fs::create_dir(d.join("flow")).unwrap();
    fs::write(d.join("absent.txt"), "videos/a0 a\nvideos/none.mp4 b\n").unwrap();
    let there = || fs::read_dir(d).unwrap().count();
    let before = there();
    let lists = ["--data", "train.txt", "--test", "test.txt", "--frames", "2", "--side", "16", "--dry-run"];
    let cases: &[(&[&str], &[&str])] = &[
        (&["--batch", "2", "--out", "/proc/x"], &["--out /proc/x"]),
        (&["--batch", "2", "--cache", "/proc/x"], &["--cache /proc/x"]),
        (&["--batch", "2", "--flow-dir", "flow"], &["none of the 6 videos", "flow/videos/a0", "--flow-dir"]),
        (&["--batch", "2", "--refuse-short", "--stride", "9"], &["--refuse-short: 8 videos", "has 6 frames"]),
        (&["--batch", "2", "--refuse-short"], &["--refuse-short: 6 videos", "--motion-frames"]),
    ];
    for (args, words) in cases {
        let Some(e) = refused(d, &[&lists[..], args].concat()) else { return };
        for word in *words {
            assert!(e.contains(word), "{args:?}: {word} in {e}");
        }
        assert_eq!(there(), before, "{args:?} left something behind");
    }
    let e = refused(d, &["--data", "absent.txt", "--dry-run"]).unwrap();
    assert!(e.contains("--data") && e.contains("none.mp4"), "{e}");
    let e = refused(d, &["--data", "train.txt", "--test", "absent.txt", "--dry-run"]).unwrap();
    assert!(e.contains("--test: absent.txt"), "{e}");
    // A video that cannot be used is one less for a batch.
    fs::write(d.join("videos/a0/000.png"), "no picture").unwrap();
    let e = refused(d, &[&lists[..], &["--batch", "6"]].concat()).unwrap();
    assert!(e.contains("--batch = 6") && e.contains("from 2 to 5"), "{e}");
    let out = started("pretrain_maclr", d, &[&lists[..], &["--batch", "2"]].concat()).unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && errors.contains("would be skipped: videos/a0"), "{errors}");
    // So is one without flow, of the others: they have one field less than frames.
    for video in ["a1", "a2", "b0", "b1"] {
        fs::create_dir_all(d.join("flow/videos").join(video)).unwrap();
        (0..5).for_each(|i| fs::write(d.join(format!("flow/videos/{video}/{i}.flo")), "").unwrap());
    }
    let e = refused(d, &[&lists[..], &["--batch", "5", "--flow-dir", "flow"]].concat()).unwrap();
    assert!(e.contains("--batch = 5") && e.contains("from 2 to 4"), "{e}");
    fs::write(d.join("flow/videos/a1/5.flo"), "").unwrap();
    fs::write(d.join("flow/videos/a1/6.flo"), "").unwrap();
    let e = refused(d, &[&lists[..], &["--batch", "4", "--flow-dir", "flow"]].concat()).unwrap();
    assert!(e.contains("--batch = 4") && e.contains("from 2 to 3"), "{e}");
    assert_eq!(there(), before);
}

#[test]
fn the_help_shows_what_the_presets_set() {
    let presets = ["tiny", "small", "long", "paper", "paper-kinetics"];
    for (program, epochs) in PROGRAMS.into_iter().zip([&[48, 60, 400, 200][..], &[60, 60, 200, 200, 400]]) {
        let Some(program) = example(program) else { return };
        let help = String::from_utf8(Command::new(program).arg("--help").output().unwrap().stdout).unwrap();
        let table = help.split_once("What the presets set").expect(&help).1;
        let row = |option: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.trim().starts_with(&format!("{option} "))).expect(option);
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(table.contains("--motion-clamp"), help.contains("--motion-clamp <"), "{table}");
        assert_eq!(row("preset")[1..], presets[..epochs.len()]);
        assert_eq!(row("--epochs")[1..], epochs.iter().map(ToString::to_string).collect::<Vec<_>>());
        for option in ["--batch", "--lr", "--queue", "--frames", "--stride", "--side", "--temperature", "--w-align"] {
            assert!(row(option).len() > 3, "{option} in {table}");
        }
    }
}

#[test]
fn an_instruction_set_that_is_none_is_refused() {
    let Some(program) = example("pretrain_maclr") else { return };
    let dir = tempfile::tempdir().unwrap();
    let run =
        |isa: &str| Command::new(&program).arg("--dry-run").current_dir(&dir).env("TUBELET_ISA", isa).output().unwrap();
    let out = run("avx51");
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && errors.contains("TUBELET_ISA") && errors.contains("avx51"), "{errors}");
    assert!(run("portable").status.success());
}

#[test]
fn a_refused_run_leaves_no_settings_in_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let sizes = ["--frames", "2", "--motion-frames", "2", "--side", "16", "--out", "run"];
    let small = [&["--data", "train.txt", "--test", "test.txt"], &sizes[..]].concat();
    let wrong = ["--init", "videos/a0/000.png"];
    let Some(e) = refused(d, &[&small[..], &["--batch", "2"], &wrong].concat()) else { return };
    assert!(e.contains("000.png") && !d.join("run").exists(), "{e}");
    // What only decoding shows: one of six training videos cannot be read.
    fs::write(d.join("videos/a0/000.png"), "no picture").unwrap();
    let e = refused(d, &[&small[..], &["--batch", "6"]].concat()).unwrap();
    assert!(e.contains("--batch = 6") && e.contains("from 2 to 5"), "{e}");
    assert!(!d.join("run/settings.json").exists(), "refused after decoding, and yet settled");
    let line = summary(&started("pretrain_maclr", d, &[&small[..], &["--batch", "2"]].concat()).unwrap());
    assert_eq!(line["videos_train"], 5);
}

/// Of the training videos; those that are tested on may be shorter.
#[test]
fn videos_below_min_frames_are_left_out_named_and_counted_and_the_number_belongs_to_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 9);
    for short in ["a0", "b3"] {
        fs::remove_dir_all(d.join("videos").join(short)).unwrap();
        frames(&d.join("videos").join(short), 6);
    }
    let run = ["--data", "train.txt", "--test", "test.txt", "--batch", "2", "--frames", "2", "--side", "16"];
    let run = [&run[..], &["--out", "run"]].concat();
    let least = |n: &'static str| [&run[..], &["--min-frames", n]].concat();
    let told = "left out: 1 training video has fewer frames than --min-frames 7: videos/a0 (6)";
    for program in PROGRAMS {
        let plan = [&least("7")[..], &["--dry-run"]].concat();
        let Some(out) = started(program, d, &plan) else { return };
        let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success() && errors.contains(told), "{errors}");
        assert!(said.contains("5 for training, 2 for testing"), "{said}");
    }
    let out = started("pretrain_maclr", d, &least("7")).unwrap();
    let (line, errors) = (summary(&out), String::from_utf8_lossy(&out.stderr).into_owned());
    assert!(errors.contains(told), "{errors}");
    assert_eq!([&line["videos_train"], &line["videos_left_out"], &line["videos_test"]], [5, 1, 2]);
    for other in [&run[..], &least("6")] {
        let e = refused(d, other).unwrap();
        assert!(e.contains("--out") && e.contains("--min-frames"), "{e}");
    }
    let e = refused(d, &[&run[..run.len() - 1], &["other", "--min-frames", "10"]].concat()).unwrap();
    assert!(e.contains("there is no video to train on"), "{e}");
}

#[test]
fn test_videos_that_are_skipped_are_warned_of_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    fs::write(d.join("videos/a3/000.png"), "no picture").unwrap();
    let run = ["--data", "train.txt", "--test", "test.txt", "--batch", "2", "--frames", "2", "--motion-frames", "2"];
    let Some(out) = started("pretrain_maclr", d, &[&run[..], &["--side", "16"]].concat()) else { return };
    let (line, errors) = (summary(&out), String::from_utf8_lossy(&out.stderr).into_owned());
    assert!(errors.contains("warning: 1 of 2 test videos skipped: scores are of the others"), "{errors}");
    assert_eq!(
        (&line["videos_skipped"], &line["videos_skipped_test"], &line["videos_test"]),
        (&1.into(), &1.into(), &1.into())
    );
}
