//! Integration tests, one binary, a folder per subject.

use std::path::Path;

mod autograd;
mod cli;
mod device;
mod dist;
mod kernels;
mod networks;
mod support;
mod training;
mod video;
mod weights;

/// The folder of the repository.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
