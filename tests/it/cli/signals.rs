//! Programs that are stopped in the middle of a computation, and files that reach the limit of their size.

use super::examples::support::animation;
use super::examples::support::sheet::{Legend, Sample, Strip};
use crate::support::programs::{data, example};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tubelet::error::{Error, ErrorKind};

const LISTS: &str = "--data train.txt --test test.txt --frames 2 --stride 1 --side 16 --threads 2";

/// Sends `signal` to the program when it has printed a line that begins with `line`: its exit status and its errors.
fn stopped(name: &str, dir: &Path, args: &str, line: &str, signal: &str) -> Option<(Option<i32>, String)> {
    let mut command = Command::new(example(name)?);
    command.current_dir(dir).args(args.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|text| text.unwrap().starts_with(line)), "{name} {args}: no line {line}");
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("{name} {args}: it goes on after {signal}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let out = child.wait_with_output().unwrap();
    Some((out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned()))
}

#[test]
fn a_classifier_that_is_trained_for_ever_is_stopped_by_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 6);
    let args = format!("{LISTS} --classifier sgd --lr 0.01 --epochs 1000000000");
    for (signal, status) in [("-TERM", 143), ("-INT", 130)] {
        let Some((code, errors)) = stopped("linear_probe", dir.path(), &args, "features of train", signal) else {
            return;
        };
        assert_eq!(code, Some(status), "{errors}");
        assert!(errors.contains("stopped as asked: features are not kept; the same command"), "{errors}");
        assert!(!dir.path().join("runs/linear_probe/summary.json").exists());
    }
}

/// The pictures of a sheet that moves take seconds; none is written when it is stopped.
#[test]
fn a_sheet_that_moves_is_left_between_any_two_of_its_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("sheet.apng");
    let moment = |grey: u8| {
        let strip = Strip::rgb("clip", &[&[grey; 12][..]], 2, 2).unwrap();
        vec![Sample { title: "one".into(), strips: vec![strip] }]
    };
    let moments = [moment(0), moment(100), moment(200)];
    let is_drawn = |most: &usize| {
        let asked = AtomicUsize::new(0);
        let go_on = || match asked.fetch_add(1, Ordering::Relaxed) < *most {
            true => Ok(()),
            false => Err(Error::from(ErrorKind::Stopped { path: "here".into(), what: "asked".into() })),
        };
        let Err(error) = animation::draw(&out, &Legend::default(), &moments, &go_on) else { return true };
        let of_stop = |e: &Error| matches!(e.kind(), ErrorKind::Stopped { .. });
        assert!(error.chain().any(|cause| cause.downcast_ref().is_some_and(of_stop)), "{error:#}");
        assert!(!out.exists());
        false
    };
    let asked = (0..20).find(is_drawn);
    assert_eq!(asked, Some(5), "three pictures are drawn, and two differences encoded");
    assert!(out.is_file());
}

/// `ulimit -f` sends a signal that ends a program without a word; here the write fails, as on a full disk.
#[test]
fn a_file_that_reaches_the_limit_of_its_size_is_named_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    let limited = |name: &str, args: &str| {
        let program = example(name)?;
        let script = format!("ulimit -f 8; exec {} {args}", program.display());
        let out = Command::new("sh").current_dir(d).args(["-c", &script]).output().unwrap();
        Some((out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned()))
    };
    for name in ["extract_features", "linear_probe"] {
        let Some((code, errors)) = limited(name, LISTS) else { return };
        assert!(
            code == Some(1) && errors.contains("error: ") && errors.contains("File too large"),
            "{code:?} {errors}"
        );
        assert!(!errors.contains("skipped"), "{errors}");
    }
    let mut folders = vec![d.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!name.ends_with(".tmp") && !name.ends_with(".writing"), "{}", path.display());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
}
