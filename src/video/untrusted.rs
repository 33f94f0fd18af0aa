//! The readers of cache files as functions of the files alone, for fuzzing and for the test of its corpus
//! (`tools/fuzz`). Not part of the public interface.

use std::path::Path;

use super::maps as maps_file;
use super::packed::{Kind, Mapped};
use super::view::View;
use crate::error::Result;
use crate::flow::maps::Maps;

/// The frames of a video, with flow if there is any, from any source, with all checksums verified.
///
/// # Errors
/// `Io`, `Data` and `Format`.
pub fn view(frames: &Path, flow: Option<&Path>) -> Result<View> {
    let mut view = View::new(Mapped::open(frames, Kind::Frames, true)?);
    if let Some(path) = flow {
        view.set_flow(Mapped::open(path, Kind::Flow, true)?, path)?;
    }
    Ok(view)
}

/// A maps file, from any source.
///
/// # Errors
/// `Io`, `Data` and `Format`.
pub fn maps(path: &Path) -> Result<Maps> {
    let hash = std::fs::read(path)
        .unwrap_or_default()
        .get(56..64)
        .map_or(0, |b| u64::from_le_bytes(std::array::from_fn(|i| b[i])));
    maps_file::read(path, hash)
}
