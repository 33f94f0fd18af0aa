//! The benchmark of motion similarity as a program: its summary, its files, and what the figures depend on.

use super::examples::support::similarity::{CANDIDATES, Found, Set};
use crate::support::programs::{example, moments, started, summary};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tubelet::video::procedural::Role;

const CHANGES: [&str; 5] = ["object", "texture", "background", "style", "view"];

fn program(dir: &Path, args: &str) -> Option<Output> {
    let mut command = Command::new(example("motion_similarity")?);
    Some(command.current_dir(dir).args(args.split_whitespace()).output().unwrap())
}

/// The summary without what differs from run to run.
fn figures(out: &Output) -> Value {
    let mut line = summary(out);
    let all = line.as_object_mut().unwrap();
    for name in ["seconds", "threads", "init"] {
        assert!(all.remove(name).is_some(), "{name}");
    }
    line
}

#[test]
fn the_summary_has_a_share_for_each_change_and_baselines_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let small = "--queries 13 --frames 2 --side 16 --clips 2";
    let Some(out) = program(d, &format!("{small} --out one --threads 1")) else { return };
    let line = figures(&out);
    for of in ["", "random_", "flow_"] {
        let share = |name: &str| line[format!("{of}r1_{name}")].as_f64().unwrap();
        // Thirteen queries: each share of a change is a multiple of 1/13, and the mean is theirs.
        let shares = CHANGES.map(share);
        let is_share = |s: &f64| (0.0..=1.0).contains(s) && (s * 13.0).round() / 13.0 == *s;
        assert!(shares.iter().all(is_share), "{line}");
        let right: f64 = shares.iter().map(|s| (s * 13.0).round()).sum();
        assert_eq!((share("mean") * 65.0).round(), right, "{line}");
        assert_eq!((share("still") * 60.0).round() + (share("pan") * 5.0).round(), right, "{line}");
    }
    assert!(CHANGES.iter().all(|c| line[format!("r1_{c}")] == line[format!("random_r1_{c}")]), "no --init: {line}");
    let [low, mean, high] = ["r1_mean_low", "r1_mean", "r1_mean_high"].map(|name| line[name].as_f64().unwrap());
    assert!(low <= mean && mean <= high, "{line}");
    assert_eq!((line["queries"].as_u64(), line["videos"].as_u64()), (Some(13), Some(13 * 17)));
    let text = fs::read_to_string(d.join("one/queries.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows[0][0], rows[0][5], rows.len()), ("query", "right", 1 + 13 * 5));
    let right = rows[1..].iter().filter(|row| row[5] == "1").count();
    assert_eq!(right as f64, (line["r1_mean"].as_f64().unwrap() * 65.0).round());
    assert!(rows[1..].iter().all(|row| (row[3] == row[4]) == (row[5] == "1") && (row[6] == "1") == (row[5] == "1")));
    assert!(image::open(d.join("one/similarity.png")).unwrap().height() > 3000, "ten cases of three strips");
    assert!(moments(&d.join("one/similarity.apng")).len() == 20);
    // Neither threads nor the folder change a figure, and the same command gives the same.
    assert_eq!(figures(&program(d, &format!("{small} --out two --threads 2")).unwrap()), line);
    assert_eq!(figures(&program(d, &format!("{small} --out one --threads 1")).unwrap()), line);
    let out = program(d, &format!("{small} --out one --seed 1")).unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && errors.contains("--out") && errors.contains("--seed"), "{errors}");
}

#[test]
fn a_run_is_compared_with_random_weights() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let args = ["--out", "run", "--frames", "2", "--side", "16", "--motion-frames", "2", "--probe-clips", "1"];
    let Some(out) = started("pretrain_maclr", d, &args) else { return };
    summary(&out);
    let line = summary(&program(d, "--init run --queries 12 --out a").unwrap());
    assert_eq!((&line["init"], line["side"].as_u64(), line["clips"].as_u64()), (&"run".into(), Some(16), Some(1)));
    assert!(CHANGES.iter().all(|c| line[format!("random_r1_{c}")].is_f64()));
    let alone = summary(&program(d, "--queries 12 --frames 2 --side 16 --clips 1 --out b").unwrap());
    assert_eq!(alone["r1_mean"], line["random_r1_mean"], "the random network is that of a call without --init");
    assert_eq!(alone["flow_r1_mean"], line["flow_r1_mean"]);
    // A dry run and what is refused write nothing.
    let out = program(d, "--init run --dry-run --out c").unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("2040 of 120 queries"));
    for (args, word) in [
        ("--queries 0", "--queries"),
        ("--init nowhere", "--init nowhere"),
        ("--side 7", "--side"),
        ("--frames 21", "--stride"),
    ] {
        let out = program(d, &format!("{args} --out c")).unwrap();
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && errors.contains(word) && !errors.contains("panicked"), "{errors}");
    }
    assert!(!d.join("c").exists());
}

/// Features are compared query by query: whoever tells motions apart finds every match, whoever tells looks apart finds none,
/// and the order of the distractors changes nothing.
#[test]
fn what_is_found_is_decided_by_the_features_alone() {
    let set = Set::new(0, 24).unwrap();
    let unit = |at: usize| (0..40).map(|i| f32::from(u8::from(i == at))).collect::<Vec<f32>>();
    let is_distractor = |i: usize| i % 17 >= 17 - (CANDIDATES - 1);
    let motion = |i: usize| unit(if is_distractor(i) { i % 17 } else { 0 });
    let look = |i: usize| unit(if is_distractor(i) || i.is_multiple_of(17) { 0 } else { i % 17 });
    let recall = |of: &dyn Fn(usize) -> Vec<f32>| {
        let features: Vec<Vec<f32>> = (0..set.videos()).map(of).collect();
        Found::new(&set, &features).unwrap().recall(|_| true)
    };
    assert_eq!((recall(&motion), recall(&look)), (1.0, 0.0));
    assert_eq!(recall(&|_| unit(3)), 0.0, "a tie is not in favour of the match");
    let mixed = |i: usize| {
        let mut row = unit(i % 13);
        row[(i * 7) % 40] += 0.5;
        row
    };
    let turned = |i: usize| mixed(if is_distractor(i) { i / 17 * 17 + 6 + (i % 17 - 6 + 4) % 11 } else { i });
    assert_eq!(recall(&mixed), recall(&turned));
    assert_eq!(set.number(2, Role::Distractor(0)), 40);
}
