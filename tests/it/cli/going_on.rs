//! A run that goes on with another number of epochs.

use crate::support::programs::{data, example, summary};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// The program with `--epochs` and `more` options on six training videos: three steps an epoch.
fn command(dir: &Path, epochs: &str, more: &[&str]) -> Option<Command> {
    let mut command = Command::new(example("pretrain_maclr")?);
    command.current_dir(dir).args(["--data", "train.txt", "--test", "test.txt", "--batch", "2", "--frames", "2"]);
    command.args(["--motion-frames", "2", "--side", "16", "--threads", "2", "--epochs", epochs]).args(more);
    Some(command)
}

fn run(dir: &Path, epochs: &str, out: &str) -> Option<Output> {
    Some(command(dir, epochs, &["--out", out])?.output().unwrap())
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn settings(dir: &Path, out: &str) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(dir.join(out).join("settings.json")).unwrap()).unwrap()
}

fn weights(dir: &Path, out: &str, step: u64) -> Vec<u8> {
    fs::read(dir.join(out).join(format!("checkpoints/step-{step:08}/weights.safetensors"))).unwrap()
}

#[test]
fn a_finished_run_goes_on_with_more_epochs_and_none_fewer() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let Some(first) = run(d, "2", "run") else { return };
    assert_eq!(summary(&first)["steps"], 6);
    let longer = run(d, "4", "run").unwrap();
    let text = said(&longer);
    let sentence = "--epochs was 2 and is 4: the run goes on from step 6 with the learning rate of 4 epochs in all";
    assert!(text.contains(sentence), "{text}");
    assert_eq!((summary(&longer)["steps"].as_u64(), summary(&longer)["epochs"].as_u64()), (Some(12), Some(4)));
    let settings = settings(d, "run");
    assert_eq!(settings["--epochs"], 4);
    assert_eq!(settings["epochs.earlier"], serde_json::json!([{"epochs": 2, "until": 6}]));
    // The same again does nothing, and says nothing of a change.
    let text = said(&run(d, "4", "run").unwrap());
    assert!(text.contains("nothing was trained now") && !text.contains("--epochs was"), "{text}");
    // A dry run says what a run would.
    for (epochs, sentence) in [("9", "--epochs was 4 and is 9"), ("3", "has done 12")] {
        let text = said(&command(d, epochs, &["--out", "run", "--dry-run"]).unwrap().output().unwrap());
        assert!(text.contains(sentence), "{text}");
        assert_eq!(self::settings(d, "run"), settings, "a dry run writes nothing");
    }
    let fewer = run(d, "3", "run").unwrap();
    let text = said(&fewer);
    assert!(!fewer.status.success() && text.contains("--epochs = 3") && text.contains("has done 12"), "{text}");
    // What changes nothing of what was computed may change, and nothing else.
    let free = command(d, "5", &["--out", "run", "--probe-every", "1", "--refuse-short", "--stride", "1"]).unwrap();
    let text = said(&{ free }.output().unwrap());
    assert!(text.contains("--stride: begun with 4, now 1") && !text.contains("--probe-every"), "{text}");
    assert!(!text.contains("--epochs: begun"), "{text}");
    let free = command(d, "5", &["--out", "run", "--probe-every", "1"]).unwrap().output().unwrap();
    assert_eq!(summary(&free)["steps"], 15);
    assert_eq!(self::settings(d, "run")["--probe-every"], 1);
}

/// Stopped by a signal, made longer, killed, and resumed: the bits are those of one that was stopped there and never killed.
#[test]
fn a_stopped_run_goes_on_with_more_epochs_and_keeps_its_bits_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let started = |epochs: &str| {
        Some(command(d, epochs, &["--out", "run"])?.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    };
    let has_step = |n: usize| {
        let there = fs::read_dir(d.join("run/checkpoints")).map(|all| {
            let steps =
                all.filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_prefix("step-")?.parse().ok());
            steps.max().unwrap_or(0)
        });
        there.unwrap_or(0) >= n
    };
    let wait = |n: usize| {
        (0..6000).any(|_| {
            has_step(n) || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        })
    };
    let Some(mut first) = started("100") else { return };
    assert!(wait(3), "the run saves nothing");
    // SAFETY: a signal to a child of this process that was not waited for.
    unsafe { libc::kill(first.id().cast_signed(), libc::SIGTERM) };
    assert!(!first.wait().unwrap().success());
    // A copy that is not killed.
    assert!(Command::new("cp").current_dir(d).args(["-r", "run", "copy"]).status().unwrap().success());
    let done = settings(d, "run");
    assert_eq!(done["--epochs"], 100);
    let mut longer = started("110").unwrap();
    assert!((0..6000).any(|_| settings(d, "run")["--epochs"] == 110 || {
        std::thread::sleep(Duration::from_millis(10));
        false
    }));
    std::thread::sleep(Duration::from_millis(400));
    longer.kill().unwrap();
    longer.wait().unwrap();
    let (killed, whole) = (run(d, "110", "run").unwrap(), run(d, "110", "copy").unwrap());
    assert_eq!((summary(&killed)["steps"].as_u64(), summary(&whole)["steps"].as_u64()), (Some(330), Some(330)));
    assert_eq!(settings(d, "run"), settings(d, "copy"));
    assert_eq!(settings(d, "run")["epochs.earlier"][0]["epochs"], 100);
    assert!(weights(d, "run", 330) == weights(d, "copy", 330), "weights differ");
}
