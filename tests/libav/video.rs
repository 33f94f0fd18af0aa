//! Tests of the programs that hold for the libraries, too: programs that misbehave are still handled, files decode in the same way.

#[path = "../it/video/ffmpeg.rs"]
mod ffmpeg;
#[path = "../it/video/time_stamps.rs"]
mod time_stamps;
