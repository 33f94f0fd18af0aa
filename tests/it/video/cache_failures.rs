//! What ends the building of a cache, and what only skips a video.

use std::fs;
use std::path::Path;

use tubelet::error::ErrorKind;
use tubelet::video::cache::Builder;
use tubelet::video::{Cache, CacheSpec, Dataset, Ffmpeg};

use super::cache::{builder, spec};
use crate::support::programs::frames;
use crate::support::videos::{ANSWER, put, script};

/// A list of the videos `names` in `dir`.
fn list(dir: &Path, names: &[&str]) -> Dataset {
    let text: String = names.iter().enumerate().map(|(i, name)| format!("{name},{}\n", i % 2)).collect();
    Dataset::open(&put(dir, "list.csv", &text)).unwrap()
}

/// `/proc/self/mem` is a regular file that cannot be read from its beginning, like a file on a broken disk.
#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_fails_ends_building_and_what_was_built_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (d, store) = (dir.path(), dir.path().join("store"));
    for name in ["a", "b", "c"] {
        frames(&d.join(name), 4);
    }
    let data = list(d, &["a", "b", "c"]);
    let broken = d.join("b/001.png");
    fs::remove_file(&broken).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &broken).unwrap();
    let build = || Cache::build(&store, &data, &spec(), &Builder { threads: 1, ..builder(&|_| {}) });
    let error = build().unwrap_err();
    assert!(error.is_of_the_machine() && error.to_string().contains("b/001.png: Input/output error"), "{error}");
    // A picture that is there again is read, and one that is no picture is skipped.
    fs::remove_file(&broken).unwrap();
    fs::copy(d.join("a/001.png"), &broken).unwrap();
    put(d, "c/001.png", "no picture");
    let report = build().unwrap().1;
    assert_eq!((report.reused, report.built, report.failed.len()), (1, 1, 1));
}

#[test]
fn a_program_that_cannot_be_started_any_more_ends_building() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let names = ["a.mp4", "b.mp4"];
    names.iter().for_each(|name| drop(put(d, name, name)));
    let data = list(d, &names);
    // It can be started once, to tell its version.
    let probe = script(d, "ffprobe", &format!("chmod -x $0; echo '{ANSWER}'"));
    let ffmpeg = Ffmpeg { program: script(d, "ffmpeg", ""), probe, ..Ffmpeg::programs() };
    let only_frames = CacheSpec { motion: None, ..spec() };
    let error =
        Cache::build(&d.join("store"), &data, &only_frames, &Builder { ffmpeg, ..builder(&|_| {}) }).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Program { program: "ffprobe", .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("cannot be started") && !text.contains("apt-get"), "{text}");
}

#[test]
fn programs_that_fail_when_asked_for_their_version_are_no_programs() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(dir.path(), "ffmpeg", "echo 'ffmpeg: libavcodec.so.61: cannot open' >&2; exit 127");
    let probe = script(dir.path(), "ffprobe", "echo version");
    let text = Ffmpeg { program, probe, ..Ffmpeg::programs() }.version().unwrap_err().to_string();
    assert!(text.contains("libavcodec.so.61"), "{text}");
}
