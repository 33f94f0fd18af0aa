//! `finetune` and `linear_probe` as several processes: the bits of one, and what is refused.

use crate::support::programs::{data, example, summary};
use crate::support::ranks::{sentence, start};
use crate::support::whole_run::checkpoint;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tubelet::dist::sum::{BUCKET, Wire};
use tubelet::ssl::traffic::Traffic;

/// Six videos for training, all of which are in each step, and others for testing.
const LISTS: &str = "--data train.txt --test test.txt --frames 2 --stride 1 --clips 2";

fn words(args: &str) -> Vec<&str> {
    args.split_whitespace().collect()
}

fn alone(name: &str, dir: &Path, args: &str) -> Output {
    let mut command = Command::new(example(name).unwrap());
    command.current_dir(dir).args(words(args)).args(["--threads", "1"]).output().unwrap()
}

/// What is in the tables, and in the summary but for `names`.
fn result(dir: &Path, names: &[&str]) -> (Vec<String>, Value) {
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
    let mut line: Value = serde_json::from_str(&read("summary.json")).unwrap();
    for name in names {
        assert!(line.as_object_mut().unwrap().remove(*name).is_some(), "{name} in {line}");
    }
    (["per_class.csv", "predictions.csv"].map(read).to_vec(), line)
}

/// Numbers of the parameters that are trained, in a file of weights.
fn trained(weights: &Path) -> Vec<usize> {
    let file = fs::read(weights).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| {
        !["__metadata__", "running_mean", "running_var", "num_batches_tracked"].iter().any(|end| name.ends_with(end))
    });
    let extents = |tensor: &Value| -> usize {
        tensor["shape"].as_array().unwrap().iter().map(|extent| extent.as_u64().unwrap() as usize).product()
    };
    tensors.map(|(_, tensor)| extents(tensor)).collect()
}

#[test]
fn training_with_labels_on_ranks_has_the_bits_of_parts_and_sends_what_the_formula_says() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let differ = ["accumulate", "bytes_sent_per_step", "ranks", "seconds", "train_seconds"];
    for (size, more) in [
        (3, "--epochs 2 --side 16 --precise-bn 3"),
        (2, "--epochs 2 --side 32 --precise-bn 0 --precision bf16 --wire bf16 --micro-batch 1 --clip-norm 0.5"),
        (2, "--epochs 1 --side 16 --frozen"),
    ] {
        let args = format!("{LISTS} --batch 6 {more}");
        let on_ranks = format!("{args} --out ranks{size}");
        let Some(running) = start("finetune", d, size, &words(&on_ranks)) else { return };
        let ended = running.end();
        let line = summary(&ended[0]);
        for other in &ended[1..] {
            let silent = other.stdout.is_empty() && other.stderr.is_empty();
            assert!(other.status.success() && silent, "{}", String::from_utf8_lossy(&other.stderr));
        }
        summary(&alone("finetune", d, &format!("{args} --out alone --accumulate {size}")));
        let [ranks, one] = [format!("ranks{size}"), "alone".to_owned()].map(|run| d.join(run));
        assert!(checkpoint(&ranks) == checkpoint(&one), "checkpoints differ: {size} {more}");
        assert_eq!(result(&ranks, &differ), result(&one, &differ), "{size} {more}");
        let metrics = |run: &Path| fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert_eq!(metrics(&ranks), metrics(&one), "{size} {more}");
        if !more.contains("--frozen") {
            let epochs = if more.contains("--epochs 2") { 2 } else { 1 };
            let weights = ranks.join(format!("checkpoints/step-{epochs:08}/weights.safetensors"));
            let wire = if more.contains("--wire bf16") { Wire::Bf16 } else { Wire::F32 };
            let (trained, codes) = (trained(&weights), Vec::new());
            let videos = 6 / size;
            let (reported, normalised) = (0, [0, 0]);
            let traffic = Traffic { ranks: size, videos, codes, trained, wire, bucket: BUCKET, reported, normalised };
            assert_eq!(line["bytes_sent_per_step"].as_u64(), Some(traffic.sent().gradients), "{size} {more}");
        }
        for run in [ranks, one] {
            fs::remove_dir_all(run).unwrap();
        }
    }
}

#[test]
fn a_run_with_labels_whose_rank_was_killed_goes_on_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let args = |out: &str| format!("{LISTS} --side 16 --batch 6 --epochs 40 --precise-bn 2 --out {out}");
    let Some(mut running) = start("finetune", d, 2, &words(&args("ranks"))) else { return };
    running.wait_for(&d.join("ranks/checkpoints/step-00000002"));
    running.signal(1, "-KILL");
    let killed = Instant::now();
    let ended = running.end();
    assert!(killed.elapsed() < Duration::from_secs(10), "the other notices");
    let want = "error: the process of rank 1 has ended without a word: it was killed, or its machine stopped";
    assert_eq!(sentence(&ended[0]), want);
    // One process takes the place of two ranks.
    let out = alone("finetune", d, &format!("{} --accumulate 2", args("ranks")));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let want = "a step was 2 parts on 2 ranks and is 2 parts on 1 rank from here on: the bits are the same";
    assert!(said.lines().any(|line| line == want), "{said}");
    summary(&out);
    summary(&alone("finetune", d, &format!("{} --accumulate 2", args("alone"))));
    assert!(checkpoint(&d.join("ranks")) == checkpoint(&d.join("alone")));
}

#[test]
fn a_probe_on_ranks_is_that_of_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    // The last trains on views, of which each rank has some.
    for (size, more) in [(2, "--classifier logistic"), (3, "--classifier sgd --lr 0.01 --epochs 5 --batch 4 --crops 3")]
    {
        let args = |out: &str| format!("{LISTS} --side 16 {more} --out {out}");
        let Some(running) = start("linear_probe", d, size, &words(&args("ranks"))) else { return };
        let ended = running.end();
        assert_eq!(summary(&ended[0])["ranks"].as_u64(), Some(size as u64));
        assert!(ended[1..].iter().all(|other| other.status.success() && other.stdout.is_empty()));
        summary(&alone("linear_probe", d, &args("alone")));
        let differ = ["ranks", "seconds"];
        assert_eq!(result(&d.join("ranks"), &differ), result(&d.join("alone"), &differ), "{more}");
        for run in ["ranks", "alone"] {
            fs::remove_dir_all(d.join(run)).unwrap();
        }
    }
}

#[test]
fn what_ranks_cannot_divide_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    for (program, size, more, want) in [
        ("finetune", 2, "--batch 5", "--batch = 5, but with 2 ranks it must divide into 2 equal parts"),
        ("finetune", 2, "--batch 6 --micro-batch 2", "--micro-batch = 2, but the 3 videos of each of 2 parts"),
        ("linear_probe", 2, "--classifier logistic --lr 1", "--lr is an option of --classifier sgd"),
        ("retrieve", 2, "", "this program runs as one process, and torchrun started 2"),
    ] {
        let Some(running) = start(program, d, size, &words(&format!("{LISTS} --side 16 {more}"))) else { return };
        for out in running.end() {
            assert!(sentence(&out).contains(want), "{program}: {}", sentence(&out));
        }
    }
    assert!(!d.join("runs").exists() && !d.join("cache").exists(), "nothing is written");
}
