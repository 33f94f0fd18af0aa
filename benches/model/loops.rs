//! Main loops whose length is in a launch's arguments: InfoNCE's sweep with wgmma, and TV-L1's iterations.

use super::ptx::{Kernel, Loop};
use super::recorder::Launch;
use tubelet::driver::Access;

/// What such a launch does besides what every launch is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// The loop, less what this launch leaves out of it.
    pub main: Loop,
    /// Its passes.
    pub passes: f64,
    /// Bytes that a block copies to shared memory.
    pub copied: f64,
    /// Bytes that blocks request from the second-level cache beyond those that are read once.
    pub again: f64,
}

/// The loop of a launch of which that is known.
pub fn counted(launch: &Launch, kernel: &Kernel) -> Option<Counted> {
    let word = |bytes: &[u8], i: usize| Some(f64::from(u32::from_ne_bytes(*bytes.get(4 * i..)?.first_chunk()?)));
    if launch.name.starts_with("tvl1_iterate") {
        let [.., count, _] = &launch.values[..] else { return None };
        return Some(Counted { main: kernel.longest?, passes: word(count, 0)?, copied: 0.0, again: 0.0 });
    }
    if !launch.name.starts_with("infonce_sweep_sm90") {
        return None;
    }
    // `Extents`: queries of a term, rows, length of a code, keys, keys of a part.
    let extents = launch.values.last()?;
    let (d, m, share) = (word(extents, 2)?, word(extents, 3)?, word(extents, 4)?);
    let mut main = kernel.main?;
    let written = launch.regions.iter().filter(|r| r.access == Access::Write && r.bytes > 0).count();
    if written < 2 {
        // No weighted sums: one of two products of the same size.
        (main.wgmma, main.fragments) = (main.wgmma / 2, main.fragments / 2);
    }
    let tiles = f64::from(launch.spread.grid[0]);
    let passes = (share / KEYS).ceil();
    Some(Counted { main, passes, copied: share * d * 2.0, again: (tiles - 1.0) * m * d * 2.0 })
}

/// Keys of a pass.
const KEYS: f64 = 64.0;
