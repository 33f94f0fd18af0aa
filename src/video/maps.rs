//! Motion maps and scores of a video, in a cache file of their own: they change with the sampling settings, and that
//! should not require computing flow again.

use std::path::Path;

use super::packed::{self, Content, Head, Kind, Named};
use crate::error::{Error, Result};
use crate::files;
use crate::flow::maps::Maps;

/// Maximum size of a maps file: one day of video at 60 frames per second takes half of it.
const MAX_BYTES: u64 = 2 << 30;

/// Reads the file at `path` and verifies all checksums. Its key must have the hash `key_hash`.
pub(super) fn read(path: &Path, key_hash: u64) -> Result<Maps> {
    let format = |(offset, what)| Error::format(path, offset, what);
    let bytes = files::read_bounded(path, MAX_BYTES, "the maps of a video")?;
    let (head, maps) = parse(&bytes).map_err(format)?;
    if head.key_hash != key_hash {
        return Err(format((56, "this cache file was made of something else".into())));
    }
    Ok(maps)
}

/// Parses a file with these bytes and verifies all checksums. The error has the offset where it was detected.
pub(super) fn parse(bytes: &[u8]) -> Result<(Head, Maps), (u64, String)> {
    let head = Head::parse(Kind::Maps, bytes)?;
    head.verify(Kind::Maps, bytes)?;
    let [count, rows, cols, _, every, summed] = head.extents;
    let mut maps: Vec<f32> = head.numbers(bytes).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let scores = maps.split_off(count * rows * cols);
    let maps = Maps::from_parts([rows, cols], every, summed, maps, scores).map_err(|e| (16, e.to_string()))?;
    Ok((head, maps))
}

/// Writes maps of flow with checksum `made_of` to `file` and waits until they are on disk.
pub(super) fn write(file: &mut std::fs::File, key: &Named, made_of: u32, fps: f64, maps: &Maps) -> std::io::Result<()> {
    let [rows, cols] = maps.grid();
    let count = maps.maps().len() / (rows * cols).max(1);
    let numbers: Vec<u8> = maps.maps().iter().chain(maps.scores()).flat_map(|v| v.to_le_bytes()).collect();
    let extents = [count, rows, cols, maps.scores().len(), maps.every(), maps.summed()];
    packed::write(file, Kind::Maps, key, &Content { extents, fps, made_of, numbers: &numbers })
}
