//! Video files decoded within the process (feature `libav`): a program of its own, so that the other tests need not be built twice.
//! `cargo test -p tubelet-tests --features libav --test libav`.

mod same;
mod support;
mod video;
