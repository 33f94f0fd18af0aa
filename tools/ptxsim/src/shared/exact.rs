//! The order of accesses where warps are not the only agents: bulk copies, `wgmma`, and warps that meet at mbarriers.
//!
//! A kernel that uses these is checked in another way than with a time up to which a warp has seen *all* others, because
//! its warps rarely meet all together. Every agent has a column in the clocks of the warps. All readers of a granule are
//! kept, not only the last one.

use std::collections::HashMap;

use super::{ATOMIC, MANY, PENDING, Shared, Trouble, WARP};

/// Columns of a clock: 32 warps, then the agents below, then for each warp the latest time of its own stores that a
/// `fence.proxy.async` has made visible to the async proxy.
pub(crate) const COLUMNS: usize = 96;
const FENCED: usize = 64;
/// The first agent of `wgmma`, one per warpgroup.
pub(crate) const WGMMA: u32 = 32;
/// The first agent of bulk copies that read shared memory.
const STORES: u32 = 40;
/// The first agent of bulk copies that write shared memory, one per mbarrier that they complete at, as far as there are.
pub(crate) const LOADS: u32 = 44;
/// The agent whose accesses are never ordered with others: memory that holds an mbarrier.
pub(crate) const MBARRIER: u32 = 61;
/// No stamp of an access.
const NO: u32 = u32::MAX;

/// A clock of a warp, or what a phase of an mbarrier passes on.
pub(crate) type Clock = [u32; COLUMNS];

/// The agent that reads shared memory for the bulk stores of a warp.
pub(crate) fn store_agent(warp: u32) -> u32 {
    STORES + warp % (LOADS - STORES)
}

/// Sets of readers. A granule with several readers has the number of its set in place of a time.
#[derive(Default)]
pub(super) struct Readers {
    sets: Vec<Vec<u32>>,
    numbers: HashMap<Vec<u32>, u32>,
    /// The readers, the new one and the warp of the last addition, and its result.
    last: (u32, u32, u32, u32),
}

impl Readers {
    pub fn clear(&mut self) {
        *self = Readers::default();
    }

    fn intern(&mut self, set: Vec<u32>) -> u32 {
        if let [one] = set[..] {
            return one;
        }
        let next = self.sets.len() as u32;
        let n = *self.numbers.entry(set).or_insert_with_key(|set| {
            self.sets.push(set.clone());
            next
        });
        n << 6 | MANY
    }

    /// The accesses that a stamp stands for.
    fn of<'a>(&'a self, stamp: &'a u32) -> &'a [u32] {
        match stamp & WARP {
            MANY => &self.sets[(stamp >> 6) as usize],
            _ => std::slice::from_ref(stamp),
        }
    }
}

/// A description of who accessed, for messages.
pub(crate) fn who(agent: u32) -> String {
    match agent {
        0..WGMMA => format!("warp {agent}'s access"),
        WGMMA..STORES => format!("a wgmma of warpgroup {} that was not waited for", agent - WGMMA),
        STORES..LOADS => "a bulk copy from here that was not waited for".into(),
        LOADS..MBARRIER => "a bulk copy to here that was not waited for".into(),
        MBARRIER => "an mbarrier was put here".into(),
        _ => "other warps' accesses".into(),
    }
}

impl Shared {
    fn clock(&self, warp: u32) -> &[u32] {
        &self.seen[warp as usize * COLUMNS..][..COLUMNS]
    }

    fn clock_mut(&mut self, warp: u32) -> &mut [u32] {
        &mut self.seen[warp as usize * COLUMNS..][..COLUMNS]
    }

    /// Whether an access is ordered before the present of a warp.
    pub fn before(&self, stamp: u32, warp: u32) -> bool {
        if !self.races {
            return stamp >> 6 != PENDING;
        }
        let (time, by) = (stamp >> 6, stamp & WARP);
        let clock = self.clock(warp);
        match by {
            ATOMIC => (0..self.warps as u32).all(|v| v == warp || time <= clock[v as usize]),
            _ => (by == warp && time != PENDING) || time <= clock[by as usize],
        }
    }

    /// The stamp of an access at present.
    pub fn stamp(&self, agent: u32) -> u32 {
        self.now << 6 | agent
    }

    /// Lets time pass, so that later accesses differ from earlier ones.
    pub fn tick(&mut self) {
        self.now += 1;
    }

    /// What a warp has done and seen so far.
    pub fn release(&mut self, warp: u32) -> Clock {
        let mut c: Clock = self.clock(warp).try_into().expect("as many columns");
        c[warp as usize] = self.now;
        self.tick();
        c
    }

    /// Orders what a clock contains before the later accesses of a warp.
    pub fn acquire(&mut self, warp: u32, from: &Clock) {
        self.clock_mut(warp).iter_mut().zip(from).for_each(|(s, f)| *s = (*s).max(*f));
    }

    /// Orders the accesses of an agent up to a time before the later ones of a warp.
    pub fn observe(&mut self, warp: u32, agent: u32, time: u32) {
        let seen = &mut self.clock_mut(warp)[agent as usize];
        *seen = (*seen).max(time);
    }

    /// The latest time of an agent that any warp has seen.
    pub fn observed(&self, agent: u32) -> u32 {
        (0..self.warps as u32).map(|w| self.clock(w)[agent as usize]).max().unwrap_or(0)
    }

    /// `fence.proxy.async`: the warp's stores so far are visible to the async proxy.
    pub fn fence(&mut self, warp: u32) {
        let now = self.now;
        self.clock_mut(warp)[FENCED + warp as usize] = now;
        self.tick();
    }

    /// Whether a stored value may be read by the async proxy on behalf of a warp.
    pub fn visible(&self, stamp: u32, warp: u32) -> Result<(), Trouble> {
        let (time, by) = (stamp >> 6, stamp & WARP);
        if stamp == 0 {
            return Err(Trouble::Uninitialised);
        }
        if time == PENDING {
            return Err(Trouble::Pending);
        }
        if !self.before(stamp, warp) {
            return Err(Trouble::Race(by));
        }
        let fenced = &self.clock(warp)[FENCED..];
        let ok = match by {
            0..32 => time <= fenced[by as usize],
            ATOMIC => fenced.iter().any(|f| time <= *f),
            _ => true,
        };
        if ok || !self.races { Ok(()) } else { Err(Trouble::Proxy(by)) }
    }

    pub(super) fn read_exact(&mut self, span: std::ops::Range<usize>, warp: u32, strong: bool) -> Result<(), Trouble> {
        let mut good = NO;
        for i in span.clone() {
            let w = self.writes[i];
            if w == good {
                continue;
            }
            if w == 0 {
                return Err(Trouble::Uninitialised);
            }
            if w >> 6 == PENDING {
                return Err(Trouble::Pending);
            }
            if !strong && !self.before(w, warp) {
                return Err(Trouble::Race(w & WARP));
            }
            good = w;
        }
        self.mark(span, warp, warp);
        Ok(())
    }

    /// Adds an agent, on behalf of a warp, to the readers of granules.
    fn mark(&mut self, span: std::ops::Range<usize>, warp: u32, agent: u32) {
        let me = self.stamp(agent);
        let (mut from, mut to) = (NO, NO);
        for i in span {
            let r = self.reads[i];
            if r != from {
                (from, to) = (r, self.joined(r, warp, me));
            }
            self.reads[i] = to;
        }
    }

    fn joined(&mut self, readers: u32, warp: u32, me: u32) -> u32 {
        let Some(exact) = self.exact.as_ref().filter(|_| readers != 0) else { return me };
        // The same as last time, although the warp may have seen more since.
        if (exact.last.0, exact.last.1, exact.last.2) == (readers, me, warp) {
            return exact.last.3;
        }
        // Readers that are ordered before this one need not be remembered: who is ordered after this one is after them.
        let kept = exact.of(&readers).iter().filter(|r| **r & WARP != me & WARP && !self.before(**r, warp));
        let mut set: Vec<u32> = kept.copied().chain([me]).collect();
        set.sort_unstable_by_key(|s| s & WARP);
        let Some(exact) = self.exact.as_mut() else { return me };
        let to = exact.intern(set);
        exact.last = (readers, me, warp, to);
        to
    }

    pub(super) fn claim_exact(&mut self, span: std::ops::Range<usize>, warp: u32, stamp: u32) -> Result<(), Trouble> {
        let exact = self.exact.as_ref().expect("only called where there are readers");
        let (mut good, mut free) = (NO, 0);
        for i in span.clone() {
            let (w, r) = (self.writes[i], self.reads[i]);
            if w != good {
                if w >> 6 == PENDING {
                    return Err(Trouble::Pending);
                }
                let atomic = stamp & WARP == ATOMIC && w & WARP == ATOMIC;
                if w != 0 && !atomic && !self.before(w, warp) {
                    return Err(Trouble::Race(w & WARP));
                }
                good = w;
            }
            if r != free {
                if let Some(other) = exact.of(&r).iter().find(|r| !self.before(**r, warp)) {
                    return Err(Trouble::Race(other & WARP));
                }
                free = r;
            }
        }
        self.writes[span.clone()].fill(stamp);
        // All readers are ordered before this write, and who is ordered after it is after them.
        self.reads[span].fill(0);
        Ok(())
    }

    /// Checks and records a write of an agent other than a warp, on behalf of a warp.
    pub fn write_async(&mut self, off: u64, n: u32, warp: u32, agent: u32) -> Result<(), Trouble> {
        let span = self.granules(off, n)?;
        self.claim_exact(span, warp, self.stamp(agent))
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
        let span = self.granules(off, n)?;
        let mut good = stamps.last().copied().unwrap_or(NO);
        for i in span.clone() {
            let w = self.writes[i];
            if w != good {
                self.visible(w, warp)?;
                stamps.push(w);
                good = w;
            }
        }
        self.mark(span, warp, agent);
        Ok(())
    }

    /// Makes memory inaccessible that holds an mbarrier, or accessible again.
    pub fn occupy(&mut self, off: u64, warp: u32, yes: bool) -> Result<(), Trouble> {
        let span = self.granules(off, 8)?;
        let stamp = if yes { u32::MAX >> 7 << 6 | MBARRIER } else { self.stamp(warp) };
        if yes {
            self.claim_exact(span, warp, stamp)
        } else {
            self.writes[span].fill(stamp);
            Ok(())
        }
    }

    /// Stores sixteen bytes; the caller has checked the access.
    pub fn set_row(&mut self, off: u64, row: &[u8]) {
        self.data[off as usize..off as usize + row.len()].copy_from_slice(row);
    }
}
