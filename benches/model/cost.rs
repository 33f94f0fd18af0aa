//! The cost of a launch: pure functions of what was recorded and of a device.
//!
//! A launch takes, on its busiest multiprocessor,
//!
//! `t = latency + max(HBM, L2, tensor, FMA, shared, issue)`, and the next one starts `gap` later, where
//!
//! | resource | time |
//! |---|---|
//! | HBM | every byte that the launch has to read or write once, over the rate of a copy |
//! | L2 | bytes that blocks request: for convolutions the operands of every block's tile, less what an earlier tap of the block has brought to the first-level cache; otherwise as HBM |
//! | tensor, FMA | operations of whole tiles, padding included, of the busiest multiprocessor: `⌈blocks / processors⌉` blocks |
//! | shared | bytes by `ldmatrix` and of the copies into shared memory, 128 a cycle |
//! | issue | warp instructions of the main loop, four a cycle |
//!
//! It assumes that the resources overlap perfectly within a launch, and that nothing is left in L2 from the launch before.
//! It knows no bank conflicts, no wait at a barrier, no power limit beyond that in the device's rates. It is therefore a
//! lower estimate for kernels whose main loop exposes latency.

use super::conv::{self, Pass};
use super::device::{BLOCKS, Device, ISSUED_PER_CYCLE, SHARED_PER_CYCLE, WARPS};
use super::loops;
use super::ptx::Kernel;
use super::recorder::Launch;
use tubelet::driver::Access;
use tubelet::ops::conv3d::Launched;

/// What can bound a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Hbm,
    L2,
    Tensor,
    Fma,
    Shared,
    Issue,
    /// Start and end, which no rate shortens.
    Latency,
}

impl Resource {
    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Hbm => "HBM",
            Resource::L2 => "L2",
            Resource::Tensor => "tensor",
            Resource::Fma => "FMA",
            Resource::Shared => "shared",
            Resource::Issue => "issue",
            Resource::Latency => "latency",
        }
    }
}

/// What a launch asks of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Blocks that have something to compute.
    pub blocks: f64,
    /// Blocks that a multiprocessor holds at once.
    pub resident: u32,
    /// Bytes read and written, each once.
    pub hbm: f64,
    /// Bytes that blocks request, and those of them that the second-level cache is asked for.
    pub requested: f64,
    pub l2: f64,
    /// Of one block: operations of `mma.sync`, `wgmma` and f32 multiply-adds, bytes of shared memory, warp instructions.
    pub mma: f64,
    pub wgmma: f64,
    pub fma: f64,
    pub shared: f64,
    pub issued: f64,
}

/// What it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Seconds from its start to its end.
    pub seconds: f64,
    /// The longest of its resources, or latency if that is longer than any.
    pub bound: Resource,
    /// Seconds by resource, in the order of [`Resource`], without latency.
    pub by: [f64; 6],
    /// Grids of resident blocks that follow each other.
    pub waves: f64,
}

impl Demand {
    /// The time it takes on `device`.
    pub fn on(&self, device: &Device) -> Cost {
        let processors = f64::from(device.processors);
        let busiest = (self.blocks / processors).ceil();
        let tensor = self.mma / device.mma + self.wgmma / device.wgmma;
        let cycles = |n: f64, rate: f64| busiest * n / rate / device.clock;
        let by = [
            self.hbm / device.hbm,
            self.l2 / device.l2,
            busiest * tensor * processors,
            busiest * self.fma / device.fma * processors,
            cycles(self.shared, SHARED_PER_CYCLE),
            cycles(self.issued, ISSUED_PER_CYCLE),
        ];
        let all = [Resource::Hbm, Resource::L2, Resource::Tensor, Resource::Fma, Resource::Shared, Resource::Issue];
        let (mut bound, mut busy) = (Resource::Latency, 0.0);
        for (resource, seconds) in all.into_iter().zip(by) {
            if seconds > busy {
                (bound, busy) = (if seconds > device.latency { resource } else { bound }, seconds);
            }
        }
        let waves = self.blocks / (processors * f64::from(self.resident.max(1)));
        Cost { seconds: busy + device.latency, bound, by, waves }
    }

    /// Operations in total, padding included.
    pub fn operations(&self) -> f64 {
        self.blocks * (self.mma + self.wgmma + self.fma)
    }
}

/// What a recorded launch asks of `device`.
pub fn demand(launch: &Launch, device: &Device) -> Demand {
    let conv = conv::problem(launch);
    let [read, written] = traffic(launch, conv.as_ref());
    let hbm = read + written;
    let blocks: f64 = launch.spread.grid.map(f64::from).iter().product();
    let mut d = Demand { blocks, resident: BLOCKS, hbm, requested: hbm, l2: hbm, ..Demand::default() };
    let Some(kernel) = &launch.kernel else { return d };
    let threads = launch.spread.block.iter().product::<u32>();
    let warps = f64::from(threads.div_ceil(32));
    d.resident = resident(kernel, threads, launch.spread.shared, device);
    let known = loops::counted(launch, kernel);
    let main = known.map_or(kernel.main.unwrap_or_default(), |known| known.main);
    // One warpgroup of a kernel with TMA copies, and the others multiply.
    let warps = if conv::by_tma(&launch.name) { warps - 4.0 } else { warps };
    let tiled = conv.and_then(|(pass, p)| conv::tiled(pass, &p, launch, &main, warps));
    let passes = if let Some(tiled) = tiled {
        (d.blocks, d.requested, d.shared) = (tiled.blocks, tiled.operands + written, tiled.k_blocks * tiled.stage);
        d.l2 = d.requested - tiled.again;
        // What is in the first-level cache is read there before it is written to shared memory.
        d.shared += tiled.again / tiled.blocks.max(1.0);
        tiled.k_blocks
    } else if let Some(known) = known {
        (d.requested, d.l2, d.shared) = (hbm + known.again, hbm + known.again, known.copied);
        known.passes
    } else {
        // Elsewhere the main loop runs until the launch's reads are done; without loads in it, its length is unknown and
        // the body counts once.
        let of_pass = f64::from(threads) * f64::from(main.copied + main.loaded);
        d.shared = if main.copied > 0 { read / blocks } else { 0.0 };
        if of_pass > 0.0 { (read / blocks / of_pass).max(1.0) } else { 1.0 }
    };
    d.mma = passes * warps * main.mma as f64;
    d.wgmma = passes * (warps / 4.0) * main.wgmma as f64;
    d.fma = passes * f64::from(threads) * f64::from(2 * main.fma);
    d.shared += passes * warps * f64::from(main.fragments);
    d.issued = warps * f64::from(kernel.instructions) + (passes - 1.0) * warps * f64::from(main.instructions);
    d
}

/// Blocks of a kernel that a multiprocessor holds at once. Registers are known only after assembly; kernels with products
/// fill them, so that the number is that of their launch bounds; other kernels need few.
fn resident(kernel: &Kernel, threads: u32, dynamic: u32, device: &Device) -> u32 {
    let by_warps = WARPS / threads.div_ceil(32).max(1);
    let by_shared = device.shared() / (kernel.shared + dynamic + 1024);
    let by_bounds = if kernel.main.is_some_and(|l| l.mma + l.wgmma > 0) { kernel.resident } else { BLOCKS };
    by_warps.min(by_shared).min(by_bounds).clamp(1, BLOCKS)
}

/// Bytes that a launch reads and writes, each once.
fn traffic(launch: &Launch, conv: Option<&(Pass, Launched)>) -> [f64; 2] {
    let [mut read, mut written] = [0.0; 2];
    for (at, region) in launch.regions.iter().enumerate() {
        // The input is the first argument of fprop and wgrad.
        let part = match conv {
            Some((pass, p)) if at == 0 && *pass != Pass::Dgrad => conv::touched(p),
            _ => 1.0,
        };
        let bytes = region.bytes as f64 * part;
        match region.access {
            Access::Read => read += bytes,
            // What such a kernel updates is its part of a result.
            Access::ReadWrite if let Some((pass, p)) = conv => written += bytes * conv::share(launch, *pass, p),
            Access::Write => written += bytes,
            Access::ReadWrite | Access::Scratch => (read, written) = (read + bytes, written + bytes),
        }
    }
    [read, written]
}

/// A launch with its cost.
#[derive(Clone, Debug)]
pub struct Priced {
    pub launch: Launch,
    pub demand: Demand,
    pub cost: Cost,
    /// Bytes read that the launch before wrote, if both together fit in the second-level cache.
    pub reusable: f64,
}

/// Seconds of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// Submitted launch by launch: the slower of device and host.
    pub stream: f64,
    /// Replayed as a graph.
    pub graph: f64,
    /// As a graph, if what is in the second-level cache since the launch before were not read from HBM.
    pub reusing: f64,
}

/// Prices every launch.
pub fn price(launches: &[Launch], device: &Device) -> Vec<Priced> {
    let mut before: Option<&Launch> = None;
    let mut all = Vec::with_capacity(launches.len());
    for launch in launches {
        let demand = demand(launch, device);
        let reusable = before.map_or(0.0, |before| shared_bytes(before, launch, device.l2_bytes));
        all.push(Priced { cost: demand.on(device), demand, reusable, launch: launch.clone() });
        before = Some(launch);
    }
    all
}

/// Bytes of regions that `after` reads and `before` wrote, if all that both access fits in `cache` bytes.
fn shared_bytes(before: &Launch, after: &Launch, cache: f64) -> f64 {
    let all: usize = before.regions.iter().chain(&after.regions).map(|r| r.bytes).sum();
    let written = |ptr: u64| before.regions.iter().any(|w| w.ptr == ptr && w.access != Access::Read);
    let same = after.regions.iter().filter(|r| r.access == Access::Read && r.bytes > 0 && written(r.ptr));
    if all as f64 > cache { 0.0 } else { same.map(|r| r.bytes as f64).sum() }
}

/// Adds up a step.
pub fn total(launches: &[Priced], device: &Device) -> Total {
    let busy: f64 = launches.iter().map(|l| l.cost.seconds).sum();
    let n = launches.len() as f64;
    let reusing = |l: &Priced| {
        let demand = Demand { hbm: l.demand.hbm - l.reusable, ..l.demand };
        demand.on(device).seconds
    };
    Total {
        stream: (busy + n * device.gap).max(n * device.host),
        graph: busy + n * device.gap_in_graph,
        reusing: launches.iter().map(reusing).sum::<f64>() + n * device.gap_in_graph,
    }
}
