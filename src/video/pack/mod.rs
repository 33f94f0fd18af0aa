//! Packed data sets: frames and flow of all videos in tar files, made by many independent processes, with one index.
//!
//! A packed folder is made in two steps. [`shard()`] prepares one of `n` shards; the shards need nothing of each other, so they
//! can be jobs on different machines that share a file system. [`merge()`] checks that all are complete and writes the index,
//! `index.tbi`, which [`Pack`] reads. [`verify()`] compares all data with its checksums.
//!
//! The videos, training videos first, are divided into groups of [`PackSpec::group`] in the order of the data set. Shard `i` of
//! `n` prepares the groups `i`, `i + n`, `i + 2n` and so on. A group has tar files of its own, so what they contain depends
//! neither on the number of shards nor on interruptions. Beside each tar file is a JSON file that describes it and appears
//! after it is complete. A shard that is started again goes on after the last complete tar file of each group.
//!
//! An entry of a tar file is a file as in the [cache](super::cache), so it starts at a multiple of 512 bytes and is
//! mapped where it is. Its key contains a hash of the source's content instead of its path and time: nothing in the folder depends
//! on where the originals were, and they are not needed any more.

mod index;
mod merge;
mod plan;
mod read;
mod shard;
#[cfg(any(test, feature = "testing"))]
mod synthetic;
mod verify;
mod volume;

use std::fmt;
use std::str::FromStr;

pub use index::{Entry, Index};
pub use merge::{Merged, merge};
pub use read::{Looked, Pack, Verify};
pub use shard::{Report, shard};
#[cfg(any(test, feature = "testing"))]
pub use synthetic::synthetic;
pub use verify::{Damage, Verified, originals, verify};
pub use volume::Gap;

use super::{CacheSpec, FlowSource};
use crate::error::{Error, Result};

/// What a packed folder holds, and in which pieces.
#[derive(Debug, Clone, PartialEq)]
pub struct PackSpec {
    /// How videos are decoded, and which flow is stored. Maps are not packed.
    pub cache: CacheSpec,
    /// No tar file is larger, unless a single video is.
    pub shard_bytes: u64,
    /// Number of consecutive videos whose tar files are made by one thread. A smaller number divides the work of a small data
    /// set more evenly; the last tar file of each group is smaller than the others.
    pub group: u64,
    /// Whether flow is computed on a GPU. Its last digits differ from those of the CPU, so all shards must do the same.
    pub gpu_flow: bool,
}

impl PackSpec {
    /// Bytes of a tar file by default: 1 GB.
    pub const SHARD_BYTES: u64 = 1_000_000_000;
    /// Videos of a group by default.
    pub const GROUP: u64 = 64;

    fn check(&self) -> Result<()> {
        let bad = |name, value: String, rule: &str| Err(Error::param("pack", name, value, rule));
        match &self.cache {
            _ if self.shard_bytes < 1 << 16 => {
                bad("shard_bytes", self.shard_bytes.to_string(), "it must be at least 65536")
            }
            _ if self.group == 0 => bad("group", "0".into(), "it must be at least 1 video"),
            CacheSpec { maps: Some(_), .. } => bad("maps", "some".into(), "frames and flow are packed alone"),
            CacheSpec { motion: Some(m), .. } if m.source != FlowSource::TvL1 => {
                bad("flow", "from a folder".into(), "packed flow is computed from the packed frames")
            }
            _ => Ok(()),
        }
    }
}

/// One of several processes that prepare a packed folder: `2/8` is the third of eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    of: u64,
}

impl Shard {
    /// Shard `index` of `of`, counted from 0.
    ///
    /// # Errors
    /// `Param` unless `index < of`, and `of` is at most a million.
    pub fn new(index: u64, of: u64) -> Result<Shard> {
        if index < of && of <= 1_000_000 {
            return Ok(Shard { index, of });
        }
        let rule = match of {
            0 => "there must be at least one shard".to_owned(),
            1_000_001.. => "there may be at most a million shards".to_owned(),
            _ => format!("the shards of {of} are 0/{of} to {}/{of}", of - 1),
        };
        Err(Error::param("pack", "shard", format!("{index}/{of}"), rule))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Shard> {
        let numbers = text.split_once('/').and_then(|(i, n)| i.parse().ok().zip(n.parse().ok()));
        let Some((index, of)) = numbers else {
            return Err(Error::param("pack", "shard", text, "it must be i/n, such as 0/8, the first of eight"));
        };
        Shard::new(index, of)
    }
}
