//! The order of accesses where warps are not the only agents: bulk copies, `wgmma`, blocks of a cluster, and warps that meet at
//! mbarriers.
//!
//! A kernel that uses these is checked in another way than with a time up to which a warp has seen *all* others, because
//! its warps rarely meet all together. Every agent has a column in the clocks of the warps. All readers of a granule are
//! kept, not only the last one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::clocks::{Clocks, MBARRIER};
use super::{ATOMIC, MANY, Shared, Trouble, WARP};

/// No stamp of an access.
const NO: u32 = u32::MAX;

/// The clocks of a cluster, and the readers of a block's shared memory.
pub(super) struct Exact {
    pub clocks: Rc<RefCell<Clocks>>,
    /// The block's rank in its cluster.
    pub rank: usize,
    readers: Readers,
}

/// Sets of accesses. A granule with several readers, or with atomic operations as its last writes, has the number of a set
/// in place of a time.
#[derive(Default)]
struct Readers {
    sets: Vec<Vec<u32>>,
    numbers: HashMap<Vec<u32>, u32>,
    /// The readers, the new one and the warp of the last addition, and its result.
    last: (u32, u32, u32, u32),
}

impl Readers {
    /// The stamp of a set, of readers (`MANY`) or writers (`ATOMIC`).
    fn intern(&mut self, set: Vec<u32>, bits: u32, kind: u32) -> u32 {
        if let ([one], MANY) = (&set[..], kind) {
            return *one;
        }
        let next = self.sets.len() as u32;
        let n = *self.numbers.entry(set).or_insert_with_key(|set| {
            self.sets.push(set.clone());
            next
        });
        n << bits | kind
    }

    /// The accesses that a stamp stands for.
    fn of<'a>(&'a self, stamp: &'a u32, bits: u32) -> &'a [u32] {
        match stamp & WARP {
            MANY | ATOMIC => &self.sets[(stamp >> bits) as usize],
            _ => std::slice::from_ref(stamp),
        }
    }

    /// Adds a reader, on behalf of a warp.
    fn add(&mut self, readers: u32, me: u32, warp: u32, clocks: &Clocks) -> u32 {
        if readers == 0 {
            return me;
        }
        // The same as last time, although the warp may have seen more since.
        if (self.last.0, self.last.1, self.last.2) == (readers, me, warp) {
            return self.last.3;
        }
        let to = self.joined(readers, me, warp, clocks, MANY);
        self.last = (readers, me, warp, to);
        to
    }

    /// The stamp of some accesses and one more.
    fn joined(&mut self, others: u32, me: u32, warp: u32, clocks: &Clocks, kind: u32) -> u32 {
        // Those that are ordered before this one need not be remembered: who is ordered after this one is after them.
        let agent = clocks.agent(me);
        let kept = self.of(&others, clocks.bits).iter();
        let kept = kept.filter(|r| **r != 0 && clocks.agent(**r) != agent && !clocks.before(**r, warp));
        let mut set: Vec<u32> = kept.copied().chain([me]).collect();
        set.sort_unstable_by_key(|s| clocks.agent(*s));
        self.intern(set, clocks.bits, kind)
    }

    /// An access that a stamp stands for and that is not ordered before the present of a warp.
    fn unordered(&self, stamp: u32, warp: u32, clocks: &Clocks) -> Option<u32> {
        let all = self.of(&stamp, clocks.bits).iter();
        all.copied().find(|s| !clocks.before(*s, warp)).map(|s| clocks.agent(s))
    }
}

impl Exact {
    pub fn new(clocks: Rc<RefCell<Clocks>>, rank: usize) -> Exact {
        Exact { clocks, rank, readers: Readers::default() }
    }

    pub fn clear(&mut self) {
        self.readers = Readers::default();
    }

    pub fn pending(&self, warp: u32) -> u32 {
        let clocks = self.clocks.borrow();
        clocks.pending() << clocks.bits | warp
    }

    pub fn read(&mut self, (writes, reads): (&[u32], &mut [u32]), warp: u32, strong: bool) -> Result<(), Trouble> {
        let clocks = self.clocks.borrow();
        let mut good = NO;
        for &w in writes {
            if w == good {
                continue;
            }
            if w == 0 {
                return Err(Trouble::Uninitialised);
            }
            if clocks.time(w) == clocks.pending() {
                return Err(Trouble::Pending);
            }
            if let Some(other) = self.readers.unordered(w, warp, &clocks).filter(|_| !strong) {
                return Err(Trouble::Race(other));
            }
            good = w;
        }
        mark(&mut self.readers, &clocks, reads, warp, warp);
        Ok(())
    }

    /// Checks and records an atomic operation, which does not race with others of its kind.
    pub fn atomic(&mut self, (writes, reads): (&mut [u32], &mut [u32]), warp: u32) -> Result<(), Trouble> {
        let clocks = self.clocks.borrow();
        for (w, r) in writes.iter_mut().zip(reads) {
            if clocks.time(*w) == clocks.pending() {
                return Err(Trouble::Pending);
            }
            let atomic = *w & WARP == ATOMIC;
            let mut earlier = if atomic { vec![*r] } else { vec![*w, *r] };
            earlier.retain(|s| *s != 0);
            if let Some(other) = earlier.into_iter().find_map(|s| self.readers.unordered(s, warp, &clocks)) {
                return Err(Trouble::Race(other));
            }
            let others = if atomic { *w } else { 0 };
            *w = self.readers.joined(others, clocks.stamp(warp), warp, &clocks, ATOMIC);
            *r = 0;
        }
        Ok(())
    }

    pub fn claim(&self, (writes, reads): (&mut [u32], &mut [u32]), warp: u32, stamp: u32) -> Result<(), Trouble> {
        let clocks = self.clocks.borrow();
        let (mut good, mut free) = (NO, 0);
        for (&w, &r) in writes.iter().zip(reads.iter()) {
            if w != good {
                if clocks.time(w) == clocks.pending() {
                    return Err(Trouble::Pending);
                }
                if let Some(other) = self.readers.unordered(w, warp, &clocks).filter(|_| w != 0) {
                    return Err(Trouble::Race(other));
                }
                good = w;
            }
            if r != free {
                if let Some(other) = self.readers.unordered(r, warp, &clocks) {
                    return Err(Trouble::Race(other));
                }
                free = r;
            }
        }
        writes.fill(stamp);
        // All readers are ordered before this write, and who is ordered after it is after them.
        reads.fill(0);
        Ok(())
    }
}

/// Adds an agent, on behalf of a warp, to the readers of granules.
fn mark(readers: &mut Readers, clocks: &Clocks, granules: &mut [u32], warp: u32, agent: u32) {
    let me = clocks.stamp(agent);
    let (mut from, mut to) = (NO, NO);
    for r in granules {
        if *r != from {
            (from, to) = (*r, readers.add(*r, me, warp, clocks));
        }
        *r = to;
    }
}

impl Shared {
    fn span(&self, off: u64, n: u32) -> Result<Range<usize>, Trouble> {
        self.granules(off, n)
    }

    /// Checks and records a write of an agent other than a warp, on behalf of a warp.
    pub fn write_async(&mut self, off: u64, n: u32, warp: u32, agent: u32) -> Result<(), Trouble> {
        let (span, stamp) = (self.span(off, n)?, self.stamp(agent));
        self.claim_granules(span, warp, stamp)
    }

    /// Checks and records a read of the async proxy on behalf of a warp. Adds the stamps of what it reads, without
    /// immediate repetitions, to `stamps`.
    pub fn read_async(
        &mut self,
        off: u64,
        n: u32,
        warp: u32,
        agent: u32,
        stamps: &mut Vec<u32>,
    ) -> Result<(), Trouble> {
        let span = self.span(off, n)?;
        let Some(Exact { clocks, readers, .. }) = &mut self.exact else { return Ok(()) };
        let clocks = clocks.borrow();
        let mut good = stamps.last().copied().unwrap_or(NO);
        for &w in &self.writes[span.clone()] {
            if w != good {
                let all = readers.of(&w, clocks.bits);
                all.iter().try_for_each(|s| clocks.visible(*s, warp))?;
                stamps.extend(all);
                good = w;
            }
        }
        mark(readers, &clocks, &mut self.reads[span], warp, agent);
        Ok(())
    }

    /// Makes memory inaccessible that holds an mbarrier, or accessible again.
    pub fn occupy(&mut self, off: u64, warp: u32, yes: bool) -> Result<(), Trouble> {
        let span = self.span(off, 8)?;
        if yes {
            let bits = self.exact.as_ref().map_or(6, |e| e.clocks.borrow().bits);
            return self.claim_granules(span, warp, 1 << bits | MBARRIER);
        }
        let stamp = self.stamp(warp);
        self.writes[span].fill(stamp);
        Ok(())
    }

    /// Stores sixteen bytes; the caller has checked the access.
    pub fn set_row(&mut self, off: u64, row: &[u8]) {
        self.data[off as usize..off as usize + row.len()].copy_from_slice(row);
    }
}
