//! The cost of a launch: pure functions of what was recorded and of a device.
//!
//! A launch takes, on its busiest multiprocessor,
//!
//! `t = latency + max(HBM, L2, tensor, FMA, shared, issue)`, and the next one starts `gap` later, where
//!
//! | resource | time |
//! |---|---|
//! | HBM | every byte that the launch has to read or write once, over the rate of a copy |
//! | L2 | bytes that blocks request: operands of every block's tiles for products, otherwise as HBM |
//! | tensor, FMA | operations of whole tiles, padding included, of the busiest multiprocessor: `⌈blocks / processors⌉` blocks |
//! | shared | bytes by `ldmatrix` and of the copies into shared memory, 128 a cycle |
//! | issue | warp instructions of the main loop, four a cycle |
//!
//! It assumes that the resources overlap perfectly within a launch, and that nothing is left in L2 from the launch before.
//! It knows no bank conflicts, no wait at a barrier, no power limit beyond that in the device's rates. It is therefore a
//! lower estimate for kernels whose main loop exposes latency.

use super::device::{BLOCKS, Device, ISSUED_PER_CYCLE, SHARED_PER_CYCLE, WARPS};
use super::ptx::{Kernel, Loop};
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
    /// Bytes requested of the second-level cache.
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
        let (longest, seconds) = all
            .into_iter()
            .zip(by)
            .fold((Resource::Latency, device.latency), |best, (r, s)| if s > best.1 { (r, s) } else { best });
        let busy = by.into_iter().fold(0.0, f64::max);
        debug_assert!(seconds >= busy);
        let waves = self.blocks / (processors * f64::from(self.resident.max(1)));
        Cost { seconds: busy + device.latency, bound: longest, by, waves }
    }

    /// Operations in total, padding included.
    pub fn operations(&self) -> f64 {
        self.blocks * (self.mma + self.wgmma + self.fma)
    }
}

/// What a recorded launch asks of `device`.
pub fn demand(launch: &Launch, device: &Device) -> Demand {
    let conv = launch.values.last().and_then(|bytes| Launched::read(bytes)).filter(|_| pass(&launch.name).is_some());
    let [read, written] = traffic(launch, conv.as_ref());
    let hbm = read + written;
    let blocks: f64 = launch.spread.grid.map(f64::from).iter().product();
    let mut d = Demand { blocks, resident: BLOCKS, hbm, l2: hbm, ..Demand::default() };
    let Some(kernel) = &launch.kernel else { return d };
    let threads = launch.spread.block.iter().product::<u32>();
    let warps = f64::from(threads.div_ceil(32));
    d.resident = resident(kernel, threads, launch.spread.shared, device);
    let main = kernel.main.unwrap_or_default();
    let passes = match (pass(&launch.name), conv) {
        (Some(pass), Some(conv)) if main.mma + main.wgmma > 0 => {
            let tile = tile(&launch.name);
            let (of_block, active) = k_blocks(pass, &conv, &launch.spread.grid, depth(&main, tile, warps));
            d.blocks = active;
            let copied = copied(&main, tile, threads);
            d.l2 = active * of_block * copied + written;
            d.shared = of_block * copied;
            of_block
        }
        // Elsewhere the main loop runs until the launch's reads are done; without loads in it, its length is unknown and the
        // body counts once.
        _ => {
            let of_pass = f64::from(threads) * f64::from(main.copied + main.loaded);
            d.shared = if of_pass > 0.0 { read / blocks * f64::from(u8::from(main.copied > 0)) } else { 0.0 };
            if of_pass > 0.0 { (read / blocks / of_pass).max(1.0) } else { 1.0 }
        }
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

/// Bytes that a launch reads and writes, each once. A kernel smaller than its stride leaves part of a convolution's
/// input unread.
fn traffic(launch: &Launch, conv: Option<&Launched>) -> [f64; 2] {
    let [mut read, mut written] = [0.0; 2];
    for (at, region) in launch.regions.iter().enumerate() {
        // The input is the first argument of fprop and wgrad.
        let part = match conv {
            Some(p) if at == 0 && pass(&launch.name) != Some(Pass::Dgrad) => used(p),
            _ => 1.0,
        };
        let bytes = region.bytes as f64 * part;
        match region.access {
            Access::Read => read += bytes,
            Access::Write => written += bytes,
            Access::ReadWrite | Access::Scratch => (read, written) = (read + bytes, written + bytes),
        }
    }
    [read, written]
}

/// The part of the input that the windows of a convolution touch.
fn used(p: &Launched) -> f64 {
    (0..3).map(|a| (p.kernel[a] as f64 / p.stride[a] as f64).min(1.0)).product()
}

/// A pass of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Fprop,
    Dgrad,
    Wgrad,
}

/// The pass that a kernel computes, by its name.
pub fn pass(name: &str) -> Option<Pass> {
    let rest = name.strip_prefix("conv3d_")?;
    let starts = |word: &str| rest.starts_with(word);
    [("fprop", Pass::Fprop), ("dgrad", Pass::Dgrad), ("wgrad", Pass::Wgrad)]
        .into_iter()
        .find_map(|(word, pass)| starts(word).then_some(pass))
}

/// Rows and columns of a block's tile, if the kernel's name has them: `128x64`.
fn tile(name: &str) -> Option<[f64; 2]> {
    name.split('_').find_map(|part| {
        let (m, n) = part.split_once('x')?;
        Some([m.parse().ok()?, n.parse().ok()?])
    })
}

/// Extent of K in one pass of the main loop. Where the name has no tile it is that of all kernels here, 32.
fn depth(main: &Loop, tile: Option<[f64; 2]>, warps: f64) -> usize {
    let operations = main.mma as f64 * warps + main.wgmma as f64 * warps / 4.0;
    tile.map_or(32, |[m, n]| (operations / (2.0 * m * n)).round() as usize).max(16)
}

/// Bytes that a block copies to shared memory in one pass of the main loop.
fn copied(main: &Loop, tile: Option<[f64; 2]>, threads: u32) -> f64 {
    match tile {
        // What the tensor memory accelerator copies is not in its instruction.
        Some([m, n]) if main.copied == 0 => (m + n) * depth(main, tile, f64::from(threads.div_ceil(32))) as f64 * 2.0,
        _ => f64::from(threads) * f64::from(main.copied),
    }
}

/// Passes of the main loop of a block that has any, in the mean, and the number of such blocks.
fn k_blocks(pass: Pass, p: &Launched, grid: &[u32; 3], depth: usize) -> (f64, f64) {
    let blocks = grid.iter().map(|v| f64::from(*v)).product::<f64>();
    let taps: usize = p.kernel.iter().product();
    match pass {
        Pass::Fprop => ((taps * p.of_row[0]).div_ceil(depth) as f64, blocks),
        Pass::Wgrad => {
            let pixels = p.n * p.out.iter().product::<usize>();
            (p.split.clamp(1, pixels.max(1)).div_ceil(depth) as f64, blocks)
        }
        Pass::Dgrad => {
            // One block in the second dimension for each residue class of inputs modulo the stride.
            let lengths = classes(p).map(|taps| (taps * p.of_row[1]).div_ceil(depth));
            let with: Vec<usize> = lengths.filter(|passes| *passes > 0).collect();
            let classes: usize = p.stride.iter().product();
            let mean = with.iter().sum::<usize>() as f64 / with.len().max(1) as f64;
            (mean, blocks * with.len() as f64 / classes as f64)
        }
    }
}

/// Taps that meet each residue class of inputs modulo the stride.
fn classes(p: &Launched) -> impl Iterator<Item = usize> {
    let of_axis = |a: usize| -> Vec<usize> {
        let meets = |r: usize, tap: usize| (r + p.pad[a]) as i64 - (tap * p.dilation[a]) as i64;
        (0..p.stride[a])
            .map(|r| (0..p.kernel[a]).filter(|tap| meets(r, *tap).rem_euclid(p.stride[a] as i64) == 0).count())
            .collect()
    };
    let [t, h, w] = [0, 1, 2].map(of_axis);
    let mut all = Vec::new();
    for a in &t {
        for b in &h {
            all.extend(w.iter().map(|c| a * b * c));
        }
    }
    all.into_iter()
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
