//! The cache as users meet it: what programs say of it, and the example that lists, checks and prunes it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::programs::example;

/// The smallest run on procedural clips.
const RUN: [&str; 13] = [
    "--epochs",
    "1",
    "--threads",
    "2",
    "--batch",
    "64",
    "--frames",
    "4",
    "--side",
    "16",
    "--motion-frames",
    "4",
    "--cache",
];

fn cache(dir: &Path, args: &[&str]) -> Option<Output> {
    Some(Command::new(example("cache")?).current_dir(dir).args(args).output().unwrap())
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn a_run_says_who_writes_into_its_cache_and_can_be_stopped_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = example("pretrain_maclr") else { return };
    fs::create_dir(dir.path().join("store")).unwrap();
    let path = dir.path().join("store/.lock");
    fs::write(&path, "4711 another_run\n").unwrap();
    let held = fs::File::open(&path).unwrap();
    held.lock().unwrap();
    let mut child = Command::new(program)
        .current_dir(dir.path())
        .args(RUN)
        .arg("store")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let waits = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("waiting"))).unwrap().unwrap();
    assert!(waits.contains("process 4711 (another_run)") && waits.contains("store"), "{waits}");
    let term = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(term.success());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{errors}");
    assert!(
        errors.contains("stopped as asked: nothing was changed in store") && !errors.contains("error:"),
        "{errors}"
    );
}

#[test]
fn a_cache_is_listed_checked_and_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let Some(program) = example("pretrain_maclr") else { return };
    let run = |out: &str| {
        let out = Command::new(&program).current_dir(d).args(RUN).args(["store", "--out", out]).output().unwrap();
        assert!(out.status.success(), "{}", text(&out));
        text(&out)
    };
    let first = run("a");
    assert!(first.contains("train videos: 192 decoded, 192 flowed, 0 mapped now"), "{first}");
    let said = text(&cache(d, &["list", "--cache", "store"]).unwrap());
    for words in ["320 files of frames", "192 files of flow", "short side 80", "512 files, "] {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(!said.contains("stale"), "{said}");
    assert!(said.contains("TV-L1 with tau 0.25, ") && !said.contains(['{', '}']), "{said}");
    let said = text(&cache(d, &["prune", "--cache", "store", "--yes"]).unwrap());
    assert!(said.contains("0 of 512 files, 0.0 MB, would be removed"), "{said}");

    // A bit of the frames of one video, and a file of an older version.
    let paths: Vec<_> = fs::read_dir(d.join("store")).unwrap().map(|e| e.unwrap().path()).collect();
    let damaged = paths.iter().find(|p| p.extension().is_some_and(|e| e == "tbv")).unwrap();
    let mut bytes = fs::read(damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 64;
    fs::write(damaged, &bytes).unwrap();
    fs::write(d.join("store/0123456789abcdef.tbv"), [b"TBVIDEO\n\x01\0\0\0".as_slice(), &[0; 100]].concat()).unwrap();
    let out = cache(d, &["verify", "--cache", "store"]).unwrap();
    let said = text(&out);
    assert!(!out.status.success() && said.contains("2 of 513 files cannot be used"), "{said}");
    assert!(said.contains(damaged.file_name().unwrap().to_str().unwrap()), "{said}");
    let said = text(&cache(d, &["prune", "--cache", "store"]).unwrap());
    assert!(said.contains("has format 1") && said.contains("1 of 513 files, 0.0 MB, would be removed"), "{said}");
    assert!(d.join("store/0123456789abcdef.tbv").exists());
    let said = text(&cache(d, &["prune", "--cache", "store", "--yes"]).unwrap());
    assert!(said.contains("removed 1 files") && !d.join("store/0123456789abcdef.tbv").exists(), "{said}");

    // The next run says that it makes the damaged one again, and then nothing is wrong.
    let again = run("b");
    assert!(again.contains("it is made again") && again.contains("1 decoded"), "{again}");
    let out = cache(d, &["verify", "--cache", "store"]).unwrap();
    assert!(out.status.success() && text(&out).contains("512 files are whole"), "{}", text(&out));
    let said = text(&cache(d, &["prune", "--matching", "flow every 2", "--cache", "store", "--yes"]).unwrap());
    assert!(said.contains("removed 192 files"), "{said}");
    let said = text(&cache(d, &["list", "--cache", "store"]).unwrap());
    assert!(said.contains("320 files, "), "{said}");
    let out = cache(d, &["list", "--cache", "nowhere"]).unwrap();
    assert!(!out.status.success() && text(&out).contains("--cache: cannot read nowhere"), "{}", text(&out));
}
