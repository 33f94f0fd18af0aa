//! What tests of videos need from outside of the repository: `ffmpeg`, and real data.

use super::skip::absent;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tubelet::video::Ffmpeg;

/// The folder of real data beside the checkout, where it is.
pub fn shared_data() -> Option<PathBuf> {
    folder("shared/data")
}

/// The four Middlebury pairs, where they are.
pub fn middlebury() -> Option<PathBuf> {
    folder("shared/data/flow")
}

fn folder(name: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|p| p.join(name)).find(|p| p.is_dir());
    if found.is_none() {
        absent(name, "real data");
    }
    found
}

/// The programs, where they are.
pub fn ffmpeg() -> Option<Ffmpeg> {
    let ffmpeg = Ffmpeg::default();
    match ffmpeg.version() {
        Ok(_) => Some(ffmpeg),
        Err(e) => {
            absent("ffmpeg", &format!("video files ({e})"));
            None
        }
    }
}

/// Writes `text` at `dir/name`, with the folders above it.
pub fn put(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

/// Makes a video with `ffmpeg` itself, where it has the encoder.
pub fn encode(dir: &Path, name: &str, arguments: &str) -> Option<PathBuf> {
    let path = dir.join(name);
    let mut command = Command::new("ffmpeg");
    let done = command.args(["-nostdin", "-v", "error", "-y"]).args(arguments.split_whitespace()).arg(&path).status();
    let made = done.is_ok_and(|s| s.success());
    if !made {
        absent("an encoder of ffmpeg", &format!("what {name} shows"));
    }
    made.then_some(path)
}

/// A program that does as the script says. Another process writes it: if this one did, a child that another test
/// forks meanwhile could hold the file open, and it could not be run ("text file busy").
pub fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let (source, path) = (put(dir, "script", &format!("#!/bin/sh\n{text}\n")), dir.join(name));
    let copied = Command::new("install").args(["-m", "755"]).args([&source, &path]).status().unwrap();
    assert!(copied.success());
    path
}

/// What `ffprobe` answers of a video of 8 x 8 pixels.
pub const ANSWER: &str =
    r#"{"streams":[{"codec_type":"video","width":8,"height":8,"avg_frame_rate":"25/1","r_frame_rate":"25/1"}]}"#;
