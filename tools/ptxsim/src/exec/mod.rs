//! Executes launches: blocks in parallel on host threads, the warps of a block in turns.

mod alu;
mod asynchronous;
mod atomic;
mod barrier;
mod bulk;
mod cluster;
mod control;
mod copy;
mod global;
mod hot;
mod load_store;
mod matrix;
mod mbarrier;
mod products;
mod regs;
mod truncated;
mod votes;
mod wait;
mod wgmma;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::*};

use crate::counters::Counters;
use crate::fault::{Fault, Site};
use crate::machine::{Access, Order, Sums, Swizzled};
use crate::memory::{Buffer, marks};
use crate::module::Entry;
use crate::shared::Shared;
use crate::shared::clocks::Clocks;
use barrier::Barrier;
use cluster::{Cta, Meeting};
use control::Warp;
use regs::Place;

pub(crate) type Result<T> = std::result::Result<T, Box<Fault>>;

/// Memory that a launch may access.
pub(crate) struct Region {
    pub lo: u64,
    pub hi: u64,
    pub access: Access,
    pub buffer: Arc<Buffer>,
    /// Every byte was written before the launch, and none is stored to, so loads need no check.
    pub full: bool,
    pub tags: Option<Tags>,
}

/// Which blocks wrote and read each granule: 0 for none, otherwise the block's tag, `SEVERAL`, or `ATOMICALLY`.
pub(crate) struct Tags {
    pub writes: Box<[AtomicU16]>,
    pub reads: Box<[AtomicU16]>,
    pub granule: u32,
}

impl Tags {
    pub fn new(bytes: u64, granule: u32) -> Tags {
        // Granules are counted from the multiple of 16 at or before the region's first byte.
        let n = (bytes + 16).div_ceil(1 << granule) as usize;
        Tags { writes: marks(n), reads: marks(n), granule }
    }
}

/// A launch in progress.
pub(crate) struct Job<'a> {
    pub entry: &'a Entry,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic: u32,
    pub params: Vec<u8>,
    pub regions: Vec<Region>,
    pub races: bool,
    pub order: Order,
    pub sums: Sums,
    pub swizzled: Swizzled,
    /// Registers per thread, as far as known.
    pub registers: u32,
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// The first block that is executed.
    pub first: u64,
    pub limit: u64,
    pub used: AtomicU64,
    pub stop: AtomicBool,
}

/// The state of a running block, and of the others of its cluster.
pub(crate) struct Block<'a> {
    job: &'a Job<'a>,
    /// Its rank in the cluster, and all blocks of the cluster; the running one's place is empty.
    rank: usize,
    others: Vec<Cta>,
    clocks: Rc<RefCell<Clocks>>,
    meeting: Meeting,
    id: [u32; 3],
    /// The block's tag in [`Tags`].
    tag: u16,
    shared: Shared,
    counters: Counters,
    barriers: [Barrier; 16],
    asynchronous: asynchronous::State,
    /// The region of the most recent access.
    near: usize,
    /// Instructions until the launch's budget is checked again.
    fuel: u64,
}

/// How a warp goes on after an instruction that may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Go,
    /// It executes the instruction again when its wait is over.
    Retry,
    /// Other warps run before the next instruction.
    Yield,
}

/// A small random generator for shuffled orders.
pub(crate) struct Mix(pub u64);

impl Mix {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn shuffle<T>(&mut self, v: &mut [T]) {
        for i in (1..v.len()).rev() {
            v.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}

/// Runs all blocks, and returns the counters or the first fault in the order of the blocks.
pub(crate) fn run(job: &Job, threads: usize) -> std::result::Result<Counters, Fault> {
    // Clusters of blocks, which in most launches are single blocks.
    let size = job.cluster.iter().map(|&c| c as u64).product::<u64>();
    let clusters = job.grid.iter().map(|&g| g as u64).product::<u64>() / size;
    let mut order: Vec<u64> = (job.first / size..clusters).collect();
    match job.order {
        Order::Forward => {}
        Order::Reverse => order.reverse(),
        Order::Shuffled(seed) => Mix(seed).shuffle(&mut order),
    }
    let next = AtomicU64::new(0);
    let work = || -> std::result::Result<Counters, (u64, Box<Fault>)> {
        let mut block = Block::new(job);
        let mut warps = block.warps();
        while !job.stop.load(Relaxed) {
            let k = next.fetch_add(1, Relaxed);
            let Some(&i) = order.get(k as usize) else { break };
            block.run(i, &mut warps).map_err(|f| {
                job.stop.store(true, Relaxed);
                (k, f)
            })?;
        }
        Ok(block.counters)
    };
    let threads = threads.min(order.len()).max(1);
    let results: Vec<_> = if threads == 1 {
        vec![work()]
    } else {
        std::thread::scope(|s| {
            let all: Vec<_> = (0..threads).map(|_| s.spawn(work)).collect();
            all.into_iter().map(|t| t.join().expect("the simulator does not panic")).collect()
        })
    };
    let mut total = Counters { launches: 1, ..Counters::default() };
    let mut first: Option<(u64, Box<Fault>)> = None;
    for r in results {
        match r {
            Ok(c) => total.add(&c),
            Err(f) if first.as_ref().is_none_or(|g| f.0 < g.0) => first = Some(f),
            Err(_) => {}
        }
    }
    match first {
        Some((_, f)) => Err(*f),
        None => Ok(total),
    }
}

/// Instructions per block between two checks of the launch's budget.
const FUEL: u64 = 1 << 16;

impl<'a> Block<'a> {
    fn new(job: &'a Job<'a>) -> Block<'a> {
        let warps = job.block.iter().product::<u32>().div_ceil(32) as usize;
        let bytes = job.entry.static_shared + job.dynamic;
        let exact = job.entry.asynchronous;
        let blocks = job.cluster.iter().product::<u32>() as usize;
        let clocks = Rc::new(RefCell::new(Clocks::new(blocks, if exact { warps } else { 0 }, job.races)));
        let granule = job.entry.granule[1];
        let cta = |rank| Cta {
            id: [0; 3],
            tag: 0,
            shared: Shared::new(bytes, granule, warps, job.races, exact.then(|| (clocks.clone(), rank))),
            barriers: [Barrier::default(); 16],
            asynchronous: asynchronous::State::default(),
        };
        let first = cta(0);
        let empty = Cta { shared: Shared::new(0, granule, 0, false, None), ..cta(0) };
        let others = std::iter::once(empty).chain((1..blocks).map(cta)).collect();
        Block {
            job,
            rank: 0,
            others,
            meeting: Meeting::default(),
            id: first.id,
            tag: first.tag,
            shared: first.shared,
            counters: Counters::default(),
            barriers: first.barriers,
            asynchronous: first.asynchronous,
            near: 0,
            fuel: 0,
            clocks,
        }
    }

    /// The warps of all blocks of the cluster.
    fn warps(&self) -> Vec<Warp> {
        let threads = self.job.block.iter().product::<u32>();
        let of = |rank: usize| {
            (0..threads.div_ceil(32))
                .map(move |i| Warp::new(self.job.entry, (rank as u32, i), (threads - 32 * i).min(32)))
        };
        (0..self.blocks()).flat_map(of).collect()
    }

    /// Prepares a block of a cluster.
    fn begin(&mut self, cluster: u64, rank: usize, warps: &mut [Warp]) {
        let job = self.job;
        self.enter(rank);
        let size = job.cluster;
        let across: [u64; 3] = std::array::from_fn(|a| u64::from(job.grid[a] / size[a]));
        let first = [cluster % across[0], cluster / across[0] % across[1], cluster / across[0] / across[1]];
        let r = rank as u32;
        let inside = [r % size[0], r / size[0] % size[1], r / size[0] / size[1]];
        self.id = std::array::from_fn(|a| first[a] as u32 * size[a] + inside[a]);
        let [x, y, z] = self.id.map(u64::from);
        let index = x + u64::from(job.grid[0]) * (y + u64::from(job.grid[1]) * z);
        self.tag = 1 + (index % 0xfff0) as u16;
        self.shared.reset();
        self.barriers = [Barrier::default(); 16];
        if job.entry.asynchronous {
            self.asynchronous = asynchronous::State::new(warps.len(), job.registers);
        }
        self.counters.blocks += 1;
        for w in warps {
            let place = Place {
                grid: job.grid,
                block: job.block,
                id: self.id,
                warp: w.id,
                dynamic: job.dynamic,
                shared: job.entry.static_shared + job.dynamic,
                cluster: size,
                rank: r,
            };
            w.reset(job.entry, &place);
        }
    }

    /// Runs the blocks of a cluster.
    fn run(&mut self, index: u64, warps: &mut [Warp]) -> Result<()> {
        let job = self.job;
        let per = warps.len() / self.blocks();
        self.clocks.borrow_mut().reset();
        self.meeting = Meeting::default();
        for (rank, of) in warps.chunks_mut(per).enumerate() {
            self.begin(index, rank, of);
        }
        let mut order: Vec<usize> = (0..warps.len()).collect();
        let mut mix = Mix(index);
        loop {
            match job.order {
                Order::Forward => {}
                Order::Reverse => order.sort_unstable_by(|a, b| b.cmp(a)),
                Order::Shuffled(seed) => {
                    mix.0 ^= seed;
                    mix.shuffle(&mut order);
                }
            }
            let mut progress = false;
            for &i in &order {
                if warps[i].ready() {
                    self.enter(i / per);
                    warps[i].idle = None;
                    self.advance(&mut warps[i]).map_err(|f| warps[i].flight.explain(f))?;
                    progress |= warps[i].idle.is_none();
                    self.settle(warps, per)?;
                }
            }
            if warps.iter().all(Warp::done) {
                return self.end(warps, per);
            }
            if !progress {
                return Err(self.deadlock(warps));
            }
        }
    }

    fn end(&mut self, warps: &[Warp], per: usize) -> Result<()> {
        if self.job.entry.asynchronous {
            for (rank, of) in warps.chunks(per).enumerate() {
                self.enter(rank);
                self.left_in_flight(of)?;
            }
            self.check_visits()?;
        }
        Ok(())
    }

    /// Adds the location to a fault.
    fn place(&self, mut f: Box<Fault>, line: u32, warp: u32) -> Box<Fault> {
        if let Some(s) = f.site_mut() {
            s.entry = self.job.entry.name.clone();
            s.line = line;
            s.block = self.id;
            s.warp = warp;
        }
        f
    }
}

/// A site with its lane and address; the rest is filled in by [`Block::place`].
pub(crate) fn site(lane: usize, address: Option<u64>, detail: impl Into<String>) -> Box<Site> {
    Box::new(Site { lane: lane as u32, address, detail: detail.into(), ..Site::default() })
}

/// The fault for a register that was never written.
pub(crate) fn unwritten<T>(missing: u32, what: &str) -> Result<T> {
    Err(Box::new(Fault::UninitialisedRegister(site(missing.trailing_zeros() as usize, None, what))))
}
