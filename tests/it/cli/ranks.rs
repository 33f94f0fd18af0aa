//! A run of several processes: the bits of one that accumulates as many micro-batches, and one sentence where something is wrong.

use crate::support::programs::{data, example, summary};
use crate::support::ranks::{sentence, start, start_each};
use crate::support::whole_run::checkpoint;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Six videos, all of which are in each step.
const LISTS: [&str; 12] =
    ["--data", "train.txt", "--test", "test.txt", "--batch", "6", "--frames", "2", "--stride", "1", "--side", "16"];
/// Every rank computes with this many threads, and so does one process.
const EPOCHS: [&str; 4] = ["--epochs", "2", "--out", "ranks"];

fn alone(name: &str, dir: &Path, args: &[&str]) -> Option<Output> {
    Some(Command::new(example(name)?).current_dir(dir).args(args).args(["--threads", "1"]).output().unwrap())
}

/// Everything of a run that its bits are in.
fn assert_same(dir: &Path, a: &str, b: &str) {
    let (a, b) = (dir.join(a), dir.join(b));
    assert!(checkpoint(&a) == checkpoint(&b), "checkpoints of {} and {} differ", a.display(), b.display());
    let metrics = |run: &Path| fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics(&a), metrics(&b));
}

fn on_ranks_as_alone(name: &str, size: usize, more: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let args = [&LISTS[..], more].concat();
    let Some(running) = start(name, d, size, &[&args[..], &EPOCHS].concat()) else { return };
    let ended = running.end();
    let line = summary(&ended[0]);
    assert_eq!((line["ranks"].as_u64(), line["accumulate"].as_u64()), (Some(size as u64), Some(1)));
    assert!(line["bytes_sent_per_step"].as_u64().is_some_and(|bytes| bytes > 100_000), "{line}");
    for other in &ended[1..] {
        assert!(
            other.status.success() && other.stdout.is_empty() && other.stderr.is_empty(),
            "the first speaks for all"
        );
    }
    let accumulate = size.to_string();
    let micro = ["--epochs", "2", "--out", "alone", "--accumulate", &accumulate];
    let line = summary(&alone(name, d, &[&args[..], &micro].concat()).unwrap());
    assert_eq!((line["ranks"].as_u64(), line["bytes_sent_per_step"].as_u64()), (Some(1), Some(0)));
    assert_same(d, "ranks", "alone");
}

#[test]
fn a_run_of_maclr_on_ranks_has_the_bits_of_micro_batches() {
    on_ranks_as_alone("pretrain_maclr", 2, &["--motion-frames", "2"]);
    let focus = ["--motion-sampling", "on", "--motion-crop", "on", "--w-align", "10", "--motion", "flow"];
    let all = [&focus[..], &["--motion-frames", "4", "--symmetric", "--precision", "bf16"]].concat();
    on_ranks_as_alone("pretrain_maclr", 3, &all);
    on_ranks_as_alone("pretrain_maclr", 2, &["--motion-frames", "2", "--no-shuffle", "--cross-positive", "other-clip"]);
}

#[test]
fn a_run_of_mcl_on_ranks_has_the_bits_of_micro_batches() {
    on_ranks_as_alone("pretrain_mcl", 3, &[]);
    on_ranks_as_alone("pretrain_mcl", 2, &["--precision", "bf16", "--legacy-focus"]);
}

/// A step's checkpoint that a rank waits for.
fn checkpoint_of(dir: &Path, out: &str, step: u64) -> std::path::PathBuf {
    dir.join(out).join(format!("checkpoints/step-{step:08}"))
}

#[test]
fn a_killed_rank_ends_the_others_and_the_run_goes_on_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let args = |epochs, out| [&LISTS[..], &["--motion-frames", "2", "--epochs", epochs, "--out", out]].concat();
    let on_ranks = |size: usize, epochs: &'static str| start("pretrain_maclr", d, size, &args(epochs, "ranks"));
    let Some(mut running) = on_ranks(3, "60") else { return };
    running.wait_for(&checkpoint_of(d, "ranks", 2));
    running.signal(1, "-KILL");
    let killed = Instant::now();
    let ended = running.end();
    assert!(killed.elapsed() < Duration::from_secs(10), "the others notice");
    for rank in [0, 2] {
        let said = sentence(&ended[rank]);
        assert_eq!(
            said,
            "error: the process of rank 1 has ended without a word: it was killed, or its machine stopped"
        );
    }
    // Asked to stop, one rank stops all, after the same step.
    let mut running = on_ranks(3, "60").unwrap();
    running.wait_for(&checkpoint_of(d, "ranks", 20));
    running.signal(2, "-TERM");
    let ended = running.end();
    assert_eq!([0, 1, 2].map(|rank| ended[rank].status.code()), [Some(143); 3]);
    let said = String::from_utf8_lossy(&ended[0].stderr).into_owned();
    assert!(said.contains("stopped as asked: saved in ranks: ") && said.contains(" of 60 steps"), "{said}");
    assert!(ended[1].stderr.is_empty() && ended[2].stderr.is_empty());
    // One process takes the place of three ranks.
    let micro = |out| alone("pretrain_maclr", d, &[&args("60", out)[..], &["--accumulate", "3"]].concat()).unwrap();
    let out = micro("ranks");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let want =
        "a step was 3 micro-batches on 3 ranks and is 3 micro-batches on 1 rank from here on: the bits are the same";
    assert!(said.lines().any(|line| line == want), "{said}");
    summary(&out);
    summary(&micro("alone"));
    assert_same(d, "ranks", "alone");
    // Other micro-batches change the bits, and the run goes on all the same.
    let ended = on_ranks(2, "62").unwrap().end();
    let said = String::from_utf8_lossy(&ended[0].stdout).into_owned();
    assert!(said.contains("is 2 micro-batches on 2 ranks from here on: this changes the bits"), "{said}");
    assert_eq!(summary(&ended[0])["steps"], 62);
}

#[test]
fn ranks_that_differ_are_named_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let run = [&LISTS[..], &["--motion-frames", "2", "--epochs", "1", "--out", "run", "--lr", "0.03"]].concat();
    // All ranks have these options, but rank 1 another value of one, or other variables.
    let all = |size: usize, (option, value): (&str, &str), variables: &[(&'static str, &'static str)]| {
        let args = |rank: usize| {
            let mut args: Vec<String> = run.iter().map(|arg| (*arg).to_owned()).collect();
            match args.iter().position(|arg| arg == option).filter(|_| rank == 1) {
                Some(at) => args[at + 1] = value.to_owned(),
                None if rank == 1 => args.extend([option, value].iter().filter(|a| !a.is_empty()).map(|a| (*a).into())),
                None => {}
            }
            args
        };
        let variables = |rank: usize| if rank == 1 { variables.to_vec() } else { Vec::new() };
        let running = start_each("pretrain_maclr", d, size, args, variables)?;
        Some(running.end().iter().map(sentence).collect::<Vec<String>>())
    };
    let differ = |what: &str, option: (&str, &str), variables: &[(&'static str, &'static str)]| {
        let Some(said) = all(2, option, variables) else { return };
        let want = format!("rank 1 differs from rank 0 in {what}");
        // A rank may hear that the other has ended before it compares.
        let is_it = |e: &String| e.starts_with(&format!("error: {want}")) || e.contains(&format!("an error: {want}"));
        assert!(said.iter().all(is_it), "{what}: {said:?}");
    };
    differ("--lr: 0.5 there, 0.03 on rank 0", ("--lr", "0.5"), &[]);
    fs::write(d.join("other.txt"), fs::read_to_string(d.join("train.txt")).unwrap().replace("a0 a", "a0 b")).unwrap();
    differ("videos.train.hash: ", ("--data", "other.txt"), &[]);
    differ("its instruction set (TUBELET_ISA): portable there", ("", ""), &[("TUBELET_ISA", "portable")]);
    differ("--dry-run: true there, false on rank 0", ("--dry-run", ""), &[]);
    // What cannot be divided, what does not go together, and what is not one of several.
    let Some(said) = all(4, ("", ""), &[]) else { return };
    assert!(said.iter().all(|e| e.contains("--batch = 6, but with 4 ranks it must divide into 4 equal")), "{said:?}");
    let said = all(2, ("--batch", "5"), &[]).unwrap();
    let heard = "error: rank 1 ended with an error: settings: --batch = 5, but with 2 ranks it must divide";
    assert!(said[0].starts_with(heard), "{said:?}");
    let said = all(2, ("--device", "cuda:0"), &[]).unwrap();
    assert!(
        said[1].contains("--device cuda:0: 2 ranks run on this machine, and each needs a GPU of its own"),
        "{said:?}"
    );
    let twice = [&run[..], &["--sync-bn", "--w-align", "1", "--align-form", "weight-gradient"]].concat();
    for out in start("pretrain_maclr", d, 2, &twice).unwrap().end() {
        assert!(sentence(&out).contains("settings: --sync-bn = true, but the loss of --align-form weight-gradient"));
    }
    let mut no_number = Command::new(example("pretrain_maclr").unwrap());
    no_number.env("RANK", OsStr::from_bytes(b"\xff")).env("WORLD_SIZE", "2").current_dir(d);
    let said = sentence(&no_number.output().unwrap());
    assert!(said.starts_with("error: launcher: RANK = \u{fffd}, but torchrun sets it to a number"), "{said}");
    assert!(!d.join("run").exists() && !d.join("runs").exists() && !d.join("cache").exists(), "nothing is written");
    // A folder that is not shared has other checkpoints.
    summary(&alone("pretrain_maclr", d, &run).unwrap());
    let what = "the newest checkpoint that it finds in --out: none there, step 1, checksum ";
    differ(what, ("--out", "elsewhere"), &[]);
}

/// The other rank ends before it connects, because of a wrong option; nobody can tell the first so.
#[test]
fn a_rank_that_waits_says_for_whom_and_is_ended_by_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let args = |rank: usize| if rank == 1 { vec!["--nonsense".to_owned()] } else { Vec::new() };
    let Some(mut running) = start_each("pretrain_maclr", dir.path(), 2, args, |_| Vec::new()) else { return };
    let begun = Instant::now();
    let mut said = BufReader::new(running.0[0].stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(said.next().unwrap(), "rank 0 is waiting for rank 1");
    assert!(begun.elapsed() < Duration::from_secs(60), "long before time is up");
    running.signal(0, "-INT");
    assert_eq!(said.next().unwrap(), "stopped as asked: rank 0 was waiting for rank 1");
    assert_eq!(running.end()[0].status.code(), Some(143));
}
