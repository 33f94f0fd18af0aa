//! The pool of device memory: freed blocks by size, kept for the next request.
//!
//! A training step requests the same sizes again and again, and `cuMemAlloc` synchronises with the device. Freed blocks are
//! therefore kept for the next request of their size class. This needs no synchronisation, because all work of a `Gpu` is on
//! one stream: the next user of a block runs after the previous one. For the same reason a graph can keep its addresses.

use std::collections::{BTreeMap, BTreeSet};

/// Free blocks by size, and the counters.
#[derive(Default)]
pub(super) struct Pool {
    free: BTreeMap<usize, Vec<u64>>,
    pub live: usize,
    pub peak: usize,
    pub held: usize,
    /// Requests served by the driver instead of the pool.
    pub allocations: u64,
    /// Blocks handed out since capturing started: the graph will use their addresses again.
    recorded: Option<BTreeSet<(usize, u64)>>,
}

/// Size class of a request: at most an eighth larger, so that few classes serve all sizes.
pub(super) fn block_for(bytes: usize) -> usize {
    let unit = (bytes.next_power_of_two() / 8).max(256);
    bytes.div_ceil(unit) * unit
}

impl Pool {
    pub fn take(&mut self, block: usize) -> Option<u64> {
        let ptr = self.free.get_mut(&block)?.pop()?;
        if let Some(recorded) = &mut self.recorded {
            recorded.insert((block, ptr));
        }
        self.used(block);
        Some(ptr)
    }

    /// Whether a graph is being recorded.
    pub fn captures(&self) -> bool {
        self.recorded.is_some()
    }

    pub fn start_capture(&mut self) {
        self.recorded = Some(BTreeSet::new());
    }

    /// Blocks handed out since capturing started and freed again: they leave the pool, because the graph will write to them.
    pub fn end_capture(&mut self) -> Vec<(u64, usize)> {
        let mut kept = Vec::new();
        for (block, ptr) in self.recorded.take().unwrap_or_default() {
            let Some(free) = self.free.get_mut(&block) else { continue };
            let Some(at) = free.iter().position(|p| *p == ptr) else { continue };
            free.remove(at);
            self.used(block);
            kept.push((ptr, block));
        }
        kept
    }

    pub fn used(&mut self, block: usize) {
        self.live += block;
        self.peak = self.peak.max(self.live);
    }

    pub fn give(&mut self, ptr: u64, block: usize) {
        self.live -= block;
        self.free.entry(block).or_default().push(ptr);
    }

    /// Removes and returns all free blocks.
    pub fn drain(&mut self) -> Vec<u64> {
        let all = std::mem::take(&mut self.free);
        self.held -= all.iter().map(|(block, ptrs)| block * ptrs.len()).sum::<usize>();
        all.into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::block_for;

    #[test]
    fn a_block_holds_its_request_and_wastes_at_most_an_eighth() {
        for bytes in (1..5000).chain([1 << 20, (1 << 20) + 1, 77_777_777]) {
            let block = block_for(bytes);
            assert!(block >= bytes && block.is_multiple_of(256), "{bytes} in {block}");
            assert!(block - bytes < 256 || (block - bytes) * 4 <= bytes.next_power_of_two(), "{bytes} in {block}");
            assert_eq!(block_for(block), block);
        }
    }
}
