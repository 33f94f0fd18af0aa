//! What each warp of a cluster has seen of all agents.

use super::Trouble;

/// Columns of a block in a clock: 32 warps, then other agents, then for each warp the latest time of its own stores that a
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
/// The bits of an agent within its block; the block's rank in its cluster follows.
const LOCAL: u32 = 63;

/// What a warp, or a phase of an mbarrier, knows of all agents.
pub(crate) type Clock = Vec<u32>;

/// The agent that reads shared memory for the bulk stores of a warp.
pub(crate) fn store_agent(warp: u32) -> u32 {
    warp & !LOCAL | (STORES + warp % (LOADS - STORES))
}

/// A description of who accessed, for messages.
pub(crate) fn who(agent: u32) -> String {
    let local = agent & LOCAL;
    let what = match local {
        0..WGMMA => format!("warp {local}'s access"),
        WGMMA..STORES => format!("a wgmma of warpgroup {} that was not waited for", local - WGMMA),
        STORES..LOADS => "a bulk copy from here that was not waited for".into(),
        LOADS..MBARRIER => "a bulk copy to here that was not waited for".into(),
        MBARRIER => "an mbarrier was put here".into(),
        _ => "other warps' accesses".into(),
    };
    match agent >> 6 {
        0 => what,
        rank => format!("{what} (block {rank} of the cluster)"),
    }
}

/// The clocks of all warps of a cluster. Agents are numbers of 6 bits within a block, and above them the block's rank.
pub(crate) struct Clocks {
    now: u32,
    /// Bits of an agent in a stamp; the time follows.
    pub bits: u32,
    columns: usize,
    /// Warps of a block.
    warps: usize,
    seen: Vec<u32>,
    races: bool,
}

impl Clocks {
    pub fn new(blocks: usize, warps: usize, races: bool) -> Clocks {
        let columns = blocks * COLUMNS;
        let bits = 6 + blocks.next_power_of_two().trailing_zeros();
        Clocks { now: 1, bits, columns, warps, seen: vec![0; blocks * warps * columns], races }
    }

    pub fn reset(&mut self) {
        self.now = 1;
        self.seen.fill(0);
    }

    pub fn now(&self) -> u32 {
        self.now
    }

    /// The time of a write that is not complete.
    pub fn pending(&self) -> u32 {
        u32::MAX >> self.bits
    }

    /// The stamp of an access at present.
    pub fn stamp(&self, agent: u32) -> u32 {
        self.now << self.bits | agent
    }

    pub fn agent(&self, stamp: u32) -> u32 {
        stamp & !(u32::MAX << self.bits)
    }

    pub fn time(&self, stamp: u32) -> u32 {
        stamp >> self.bits
    }

    /// Lets time pass, so that later accesses differ from earlier ones. At its end it stands still, and races are missed.
    pub fn tick(&mut self) {
        self.now = (self.now + 1).min(self.pending() - 1);
    }

    fn column(agent: u32) -> usize {
        (agent >> 6) as usize * COLUMNS + (agent & LOCAL) as usize
    }

    fn row(&self, warp: u32) -> &[u32] {
        let i = (warp >> 6) as usize * self.warps + (warp & LOCAL) as usize;
        &self.seen[i * self.columns..][..self.columns]
    }

    fn row_mut(&mut self, warp: u32) -> &mut [u32] {
        let i = (warp >> 6) as usize * self.warps + (warp & LOCAL) as usize;
        &mut self.seen[i * self.columns..][..self.columns]
    }

    /// Whether an access is ordered before the present of a warp.
    pub fn before(&self, stamp: u32, warp: u32) -> bool {
        let (time, by) = (self.time(stamp), self.agent(stamp));
        if !self.races {
            return time != self.pending();
        }
        let row = self.row(warp);
        (by == warp && time != self.pending()) || time <= row[Self::column(by)]
    }

    /// A clock that knows nothing.
    pub fn empty(&self) -> Clock {
        vec![0; self.columns]
    }

    /// What a warp has done and seen so far.
    pub fn release(&mut self, warp: u32) -> Clock {
        let mut c = self.row(warp).to_vec();
        c[Self::column(warp)] = self.now;
        self.tick();
        c
    }

    /// Orders what a clock contains before the later accesses of a warp.
    pub fn acquire(&mut self, warp: u32, from: &[u32]) {
        self.row_mut(warp).iter_mut().zip(from).for_each(|(s, f)| *s = (*s).max(*f));
    }

    /// Orders the accesses of an agent up to a time before the later ones of a warp.
    pub fn observe(&mut self, warp: u32, agent: u32, time: u32) {
        let seen = &mut self.row_mut(warp)[Self::column(agent)];
        *seen = (*seen).max(time);
    }

    /// Marks an agent's accesses up to now in a clock.
    pub fn add(&self, clock: &mut Clock, agent: u32) {
        clock[Self::column(agent)] = self.now;
    }

    /// The latest time of an agent that any warp of a block has seen.
    pub fn observed(&self, block: usize, agent: u32) -> u32 {
        let warps = (0..self.warps as u32).map(|w| (block as u32) << 6 | w);
        warps.map(|w| self.row(w)[Self::column(agent)]).max().unwrap_or(0)
    }

    /// Whether a warp has seen anything of a block.
    pub fn knows(&self, warp: u32, block: usize) -> bool {
        (warp >> 6) as usize == block || self.row(warp)[block * COLUMNS..][..COLUMNS].iter().any(|t| *t > 0)
    }

    /// Orders the accesses of the warps `from` of a block before the later ones of the warps `to` (bit sets).
    pub fn join(&mut self, block: usize, from: u32, to: u32) {
        let warp = |v: usize| (block << 6 | v) as u32;
        let mut known = self.empty();
        for v in (0..self.warps).filter(|v| from >> v & 1 == 1) {
            known.iter_mut().zip(self.row(warp(v))).for_each(|(k, s)| *k = (*k).max(*s));
        }
        for v in (0..self.warps).filter(|v| from >> v & 1 == 1) {
            known[Self::column(warp(v))] = self.now;
        }
        for w in (0..self.warps).filter(|w| to >> w & 1 == 1) {
            self.acquire(warp(w), &known);
        }
        self.tick();
    }

    /// `fence.proxy.async`: the warp's stores so far are visible to the async proxy.
    pub fn fence(&mut self, warp: u32) {
        let now = self.now;
        self.row_mut(warp)[Self::column(warp) + FENCED] = now;
        self.tick();
    }

    /// Whether a stored value may be read by the async proxy on behalf of a warp.
    pub fn visible(&self, stamp: u32, warp: u32) -> Result<(), Trouble> {
        let (time, by) = (self.time(stamp), self.agent(stamp));
        if stamp == 0 {
            return Err(Trouble::Uninitialised);
        }
        if time == self.pending() {
            return Err(Trouble::Pending);
        }
        if !self.before(stamp, warp) {
            return Err(Trouble::Race(by));
        }
        let row = self.row(warp);
        let ok = match by & LOCAL {
            0..32 => time <= row[Self::column(by) + FENCED],
            _ => true,
        };
        if ok || !self.races { Ok(()) } else { Err(Trouble::Proxy(by)) }
    }
}
