//! The examples as programs, and folders for them.

use super::skip::absent;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What every summary has.
pub const NAMES: [&str; 22] = [
    "accumulate",
    "ranks",
    "bytes_sent_per_step",
    "recompute",
    "memory_peak_bytes",
    "method",
    "data",
    "device",
    "precision",
    "epochs",
    "steps",
    "clips_per_second",
    "seconds",
    "step_ms",
    "loading_seconds",
    "cache_seconds",
    "loss_first",
    "loss_last",
    "probe_top1",
    "probe_top1_random_init",
    "knn_top1",
    "knn_top1_random_init",
];

/// The example's program beside this test's, where it was built.
pub fn example(name: &str) -> Option<PathBuf> {
    let here = std::env::current_exe().unwrap();
    let path = here.parent()?.parent()?.join("examples").join(name);
    if !path.is_file() {
        absent("built examples", &format!("what {name} does (`cargo test` without --test builds it)"));
        return None;
    }
    Some(path)
}

/// One epoch of a pre-training example with `args` in `dir`.
pub fn started(name: &str, dir: &Path, args: &[&str]) -> Option<Output> {
    let mut command = Command::new(example(name)?);
    command.current_dir(dir).args(["--epochs", "1", "--threads", "2"]).args(args);
    Some(command.output().unwrap())
}

/// Runs with `args` in `dir` and returns the one sentence of its failure.
pub fn refused(dir: &Path, args: &[&str]) -> Option<String> {
    refused_by("pretrain_maclr", dir, args)
}

pub fn refused_by(name: &str, dir: &Path, args: &[&str]) -> Option<String> {
    let out = started(name, dir, args)?;
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{args:?} should have failed");
    assert!(!errors.contains("panicked"), "{errors}");
    let sentence = errors.lines().rfind(|line| line.starts_with("error: "));
    assert!(sentence.is_some(), "{errors}");
    sentence.map(str::to_owned)
}

/// A folder of frames as a video: `count` pictures, grey but for a tint by the video's name, so that none is the copy of
/// another.
pub fn frames(dir: &Path, count: usize) {
    fs::create_dir_all(dir).unwrap();
    let name = dir.iter().rev().take(2).flat_map(|part| part.as_encoded_bytes());
    let tint = name.fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
    for i in 0..count {
        let grey = (i * 9 % 256) as u8;
        image::RgbImage::from_pixel(16, 16, image::Rgb([grey, grey, tint]))
            .save(dir.join(format!("{i:03}.png")))
            .unwrap();
    }
}

/// Six training and two test videos of `count` frames, and the lists of them.
pub fn data(d: &Path, count: usize) {
    let (mut train, mut test) = (String::new(), String::new());
    for class in ["a", "b"] {
        for video in 0..4 {
            let name = format!("videos/{class}{video}");
            frames(&d.join(&name), count);
            (if video < 3 { &mut train } else { &mut test }).push_str(&format!("{name} {class}\n"));
        }
    }
    fs::write(d.join("train.txt"), train).unwrap();
    fs::write(d.join("test.txt"), test).unwrap();
}

/// The summary that a run printed last.
pub fn summary(out: &Output) -> serde_json::Value {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_str(String::from_utf8_lossy(&out.stdout).lines().last().unwrap()).unwrap()
}

/// The pictures of an animated PNG.
pub fn moments(path: &Path) -> Vec<Vec<u8>> {
    let file = std::io::BufReader::new(fs::File::open(path).unwrap());
    let film = image::codecs::png::PngDecoder::new(file).unwrap().apng().unwrap();
    image::AnimationDecoder::into_frames(film).map(|frame| frame.unwrap().into_buffer().into_raw()).collect()
}
