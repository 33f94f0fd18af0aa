//! `check_data`: what is wrong with videos before a run.

use crate::support::programs::{data, example, frames};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn check(dir: &Path, args: &[&str]) -> Option<Output> {
    let mut command = Command::new(example("check_data")?);
    Some(command.current_dir(dir).args(["--jobs", "2"]).args(args).output().unwrap())
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// The files and folders below `dir`, by name.
fn below(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn usable_videos_pass_the_check_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 40);
    let before = below(d);
    for more in [&["--frames", "4", "--stride", "2"][..], &["--decode"], &["--preset", "tiny"]] {
        let of = ["--data", "train.txt", "--test", "test.txt", "--batch", "6"];
        let Some(out) = check(d, &[&of[..], more].concat()) else { return };
        let text = said(&out);
        assert!(out.status.success() && text.contains("usable: 6 for training, 2 for testing"), "{text}");
        assert!(text.contains("classes: 2 (videos for training + testing): a 3+1, b 3+1"), "{text}");
    }
    assert_eq!(below(d), before, "nothing is written");
    // Videos without labels are checked, too.
    let out = check(d, &["--data", "videos", "--batch", "8"]).unwrap();
    assert!(out.status.success() && said(&out).contains("usable: 8 for training"), "{}", said(&out));
    // Too few for a step of the preset: a run refuses them, and so does the check.
    let out = check(d, &["--data", "train.txt", "--test", "test.txt", "--preset", "small"]).unwrap();
    let text = said(&out);
    assert!(
        out.status.code() == Some(1) && text.contains("usable: 6 for training, 2 for testing, but a run"),
        "{text}"
    );
    assert!(text.contains("choose a --batch from 2 to 6"), "{text}");
}

#[test]
fn every_problem_is_in_the_report_and_the_status_is_1() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 6);
    frames(&d.join("videos/c0"), 6);
    for i in 0..6 {
        let name = format!("{i:03}.png");
        fs::create_dir_all(d.join("videos/copy")).unwrap();
        fs::copy(d.join("videos/a1").join(&name), d.join("videos/copy").join(&name)).unwrap();
    }
    fs::write(d.join("videos/b1/000.png"), "no picture").unwrap();
    fs::write(d.join("videos/film.mp4"), "no film").unwrap();
    let train = fs::read_to_string(d.join("train.txt")).unwrap();
    let absent: String = (0..9).map(|i| format!("videos/gone{i} a\n")).collect();
    fs::write(d.join("train.txt"), format!("{train}videos/a0 b\nvideos/film.mp4 a\n{absent}")).unwrap();
    let test = fs::read_to_string(d.join("test.txt")).unwrap();
    fs::write(d.join("test.txt"), test + "videos/a2 a\nvideos/copy a\nvideos/c0 c\n").unwrap();
    let args =
        ["--data", "train.txt", "--test", "test.txt", "--frames", "4", "--stride", "4", "--report", "report.csv"];
    let Some(out) = check(d, &args) else { return };
    let text = said(&out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("missing: 9") && text.contains("and 4 more: the report has all"), "{text}");
    assert!(text.contains("a run refuses these videos, for 12 problems"), "{text}");
    let report = fs::read_to_string(d.join("report.csv")).unwrap();
    let rows =
        |kind: &str| -> Vec<&str> { report.lines().filter(|row| row.starts_with(&format!("{kind},"))).collect() };
    assert_eq!(rows("missing").len(), 9, "{report}");
    assert!(rows("missing")[8].ends_with("videos/gone8,train.txt,17,is not there"), "{report}");
    assert!(rows("two labels")[0].contains("videos/a0,train.txt,7,") && rows("two labels").len() == 1, "{report}");
    assert!(rows("in both splits")[0].starts_with("in both splits,yes,videos/a2,test.txt,3,"), "{report}");
    assert!(rows("class of one split")[0].contains("yes,c,,,is a class of 1 test videos alone"), "{report}");
    let copy =
        "videos/copy,test.txt,4,\"has the same frames as videos/a1, and one is for testing, the other for training\"";
    assert!(rows("copy").iter().any(|row| row.contains(copy)), "{report}");
    let unreadable = rows("unreadable");
    assert!(unreadable.len() == 2 && unreadable.iter().any(|row| row.contains("videos/film.mp4")), "{report}");
    assert!(rows("short").iter().any(|row| row.contains("has 6 frames")), "{report}");
    assert_eq!(report.lines().next(), Some("problem,refused,name,list,line,what"));
}

/// A broken line ended the check; now each is counted, the first few are named, and all others are checked.
#[test]
fn broken_entries_of_a_list_are_counted_and_the_others_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let mut list: Vec<Vec<u8>> = Vec::new();
    // The first line decides nothing: it is a path without a label.
    list.push(b"videos/v000".to_vec());
    for i in 0..240 {
        let (name, class) = (format!("videos/v{i:03}"), ["a", "b", "c"][i % 3]);
        let line = match i {
            _ if i % 24 == 5 => format!("alone{i}").into_bytes(),
            _ if i % 24 == 6 => [name.as_bytes(), b" caf\xe9"].concat(),
            _ if i % 24 == 7 => format!("\"{name} {class}").into_bytes(),
            _ => format!("{name} {class}").into_bytes(),
        };
        list.push(line);
        match i % 24 {
            5..=8 => continue, // malformed, or missing
            9 => fs::create_dir_all(d.join(&name)).unwrap(),
            _ => frames(&d.join(&name), 3),
        }
        if i % 24 == 10 {
            fs::write(d.join(&name).join("000.png"), format!("no picture {i}")).unwrap();
        }
    }
    fs::write(d.join("list.txt"), list.join(&b'\n')).unwrap();
    let args = ["--data", "list.txt", "--frames", "2", "--stride", "1", "--report", "report.csv"];
    let Some(out) = check(d, &args) else { return };
    let text = said(&out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    for counted in ["malformed line: 31", "missing: 10", "unreadable: 20"] {
        assert!(text.lines().any(|line| line == counted), "{counted}: {text}");
    }
    assert!(text.contains("videos/v000 in line 1 of list.txt is not `path label`, and other lines are"), "{text}");
    assert!(
        text.contains("alone5 in line 7 of list.txt is not `path label`") && text.contains("and 26 more"),
        "{text}"
    );
    assert!(text.contains("videos/v006 caf\\xe9 in line 8 of list.txt is not UTF-8 text"), "{text}");
    assert!(text.contains("a run refuses these videos, for 41 problems"), "{text}");
    let usable =
        text.split("could use ").nth(1).unwrap().split([' ', ',']).filter_map(|word| word.parse::<usize>().ok());
    assert_eq!(usable.sum::<usize>(), 240 - 6 * 10, "{text}");
    let report = fs::read_to_string(d.join("report.csv")).unwrap();
    assert_eq!(report.lines().filter(|row| row.starts_with("malformed line,yes,")).count(), 31, "{report}");
    // A run says the first.
    let e = tubelet::video::Splits::open(&d.join("list.txt"), None).unwrap_err().to_string();
    assert!(e.contains("line 1, `videos/v000`, is not `path label`, and other lines are"), "{e}");
}

#[test]
fn a_header_says_less_than_decoding() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    data(d, 40);
    // A frame in the middle, which no header tells.
    let frame = d.join("videos/a1/020.png");
    let bytes = fs::read(&frame).unwrap();
    fs::write(&frame, &bytes[..bytes.len() / 2]).unwrap();
    let args = ["--data", "train.txt", "--test", "test.txt", "--batch", "5"];
    let Some(quick) = check(d, &args) else { return };
    assert!(quick.status.success() && !said(&quick).contains("unreadable"), "{}", said(&quick));
    let decoded = check(d, &[&args[..], &["--decode"]].concat()).unwrap();
    let text = said(&decoded);
    assert!(decoded.status.success() && text.contains("unreadable: 1") && text.contains("videos/a1"), "{text}");
    assert!(text.contains("usable: 5 for training, 2 for testing"), "{text}");
}
