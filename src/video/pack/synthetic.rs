//! An index of any size, without the data it tells of: for tests and measurements. Not part of the public interface.

use std::path::Path;

use super::super::{CacheSpec, Decode, Splits};
use super::PackSpec;
use super::index::{Draft, Settings};
use super::merge::write;
use super::plan::Plan;
use super::volume::Packed;
use crate::error::Result;
use crate::video::ProceduralSpec;

/// Videos of each tar file.
const VOLUME: u64 = 50;
/// Classes.
const CLASSES: u64 = 400;

/// Writes the index of `videos` videos, all for training, with names as long as those of Kinetics, into `dir`.
///
/// # Errors
/// `Io` when it cannot be written.
pub fn synthetic(dir: &Path, videos: u64) -> Result<()> {
    let cache = CacheSpec { decode: Decode { short_side: Some(256), ..Decode::default() }, motion: None, maps: None };
    let spec = PackSpec { cache, shard_bytes: PackSpec::SHARD_BYTES, group: PackSpec::GROUP, gpu_flow: false };
    let some = Splits::procedural(&ProceduralSpec::default())?;
    let classes: Vec<String> = (0..CLASSES).map(|c| format!("class_{c:03}")).collect();
    let plan = Plan { videos, train: videos, classes, ..Plan::new(&some, &spec)? };
    let (mut draft, bytes) = (Draft::default(), 19_660_800);
    for at in 0..videos {
        if at.is_multiple_of(VOLUME) {
            draft.volume(at / VOLUME, 0, VOLUME * (bytes + 512) + 1024);
        }
        let class = at % CLASSES;
        draft.video(&Packed {
            at,
            name: format!("class_{class:03}/{:011x}_000010_000020.mp4", at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20),
            label: Some(class),
            key: format!("{at:016x}"),
            frames: 300,
            fps: 30.0,
            tbv: [512 + (at % VOLUME) * (bytes + 512), bytes, 0],
            tbf: None,
        });
    }
    write(dir, &draft, &Settings { plan, gaps: Vec::new() })
}
