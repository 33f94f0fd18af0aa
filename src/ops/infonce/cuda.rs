//! InfoNCE on a GPU: one pass over the queue for up to four terms at once, the merging of its parts, and the means.
//!
//! The rows of all terms are concatenated. A block holds a tile of rows and iterates over one part of the queue; the
//! parts write partial sums to the workspace, which the second kernel merges in order. Three launches, no host
//! synchronisation. On Hopper, tiles of more than 64 rows are swept with TMA and wgmma.

use crate::driver::{Declared, Gpu, In, Kernel, Map, Module, Out, Pod, Spread, TensorMap, TensorWindow};
use crate::error::{Error, Result};
use crate::tensor::{DType, WIDE, aligned};

static MODULE: Module = Module::new("infonce", include_str!("../../../ptx/infonce.sm_80.ptx"));

type Sweep = (In, In, In, In, In, In, In, Out, Out, Pod<Extents>);
/// Indexed by rows per tile (64, 256), then the maximum length of a code (64, 128).
static TENSOR: Kernel<Sweep> = Kernel::new(
    &MODULE,
    &[
        "infonce_sweep_r64_d64_bf16",
        "infonce_sweep_r64_d128_bf16",
        "infonce_sweep_r256_d64_bf16",
        "infonce_sweep_r256_d128_bf16",
    ],
);
static SM90: Module = Module::new("infonce_sm90", include_str!("../../../ptx/infonce_sm90.sm_90a.ptx"));
type SweepOfMap = (In, In, In, In, Map, In, In, Out, Out, Pod<Extents>);
/// Indexed by the maximum length of a code (64, 128).
static WGMMA: Kernel<SweepOfMap> =
    Kernel::new(&SM90, &["infonce_sweep_sm90_r128_d64_bf16", "infonce_sweep_sm90_r128_d128_bf16"]);
/// Indexed by the data type of the queue, then the maximum length of a code (64, 128).
static PLAIN: Kernel<Sweep> = Kernel::new(
    &MODULE,
    &[
        "infonce_sweep_ffma_d64_f32",
        "infonce_sweep_ffma_d128_f32",
        "infonce_sweep_ffma_d64_bf16",
        "infonce_sweep_ffma_d128_bf16",
    ],
);
type Merge = (In, In, In, In, In, In, In, In, In, In, Out, Out, Out, Out, Out, Pod<Joined>);
static MERGE: Kernel<Merge> = Kernel::new(&MODULE, &["infonce_merge_f32"]);
type Mean = (In, Out, Out, Out, Out, Out, Out, Out, Out, u32);
static MEAN: Kernel<Mean> = Kernel::new(&MODULE, &["infonce_mean_f32"]);

pub(in crate::ops) fn kernels() -> Vec<Declared> {
    vec![TENSOR.declared(), WGMMA.declared(), PLAIN.declared(), MERGE.declared(), MEAN.declared()]
}

/// Maximum number of terms per pass.
pub const TERMS: usize = 4;
/// Maximum length of a code.
const WIDEST: usize = 128;
/// Below this temperature `exp((l - 1)/τ)` exceeds f32's range for codes that point in opposite directions.
const COLDEST: f32 = 0.025;
/// Minimum number of keys per part.
const SHORTEST: usize = 256;
/// Target number of blocks, if there are enough keys: the number of multiprocessors of the largest GPUs.
const BLOCKS: usize = 132;

/// The parameters of the pass over the queue as its kernels take them.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Extents {
    n: u32,
    rows: u32,
    d: u32,
    m: u32,
    share: u32,
    q_bf16: u32,
    scale: f32,
}

/// The parameters of the merging as its kernel takes them.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Joined {
    n: u32,
    rows: u32,
    d: u32,
    parts: u32,
    q_bf16: u32,
    k_bf16: u32,
    inverse_tau: f32,
}

/// Extents, data types and temperature of a pass over the queue, and whether it computes a gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// Terms that share the queue, 1 to [`TERMS`].
    pub terms: usize,
    /// Queries per term.
    pub n: usize,
    /// Length of a code, at most 128.
    pub d: usize,
    /// Keys in the queue.
    pub m: usize,
    /// Data type of the queries.
    pub q: DType,
    /// Data type of the positives.
    pub k: DType,
    /// Data type of the queue.
    pub queue: DType,
    /// Temperature, at least 0.025.
    pub tau: f32,
    /// Whether the gradient by the queries is computed too.
    pub gradient: bool,
}

/// Device addresses of the arguments, aligned to 16 bytes, `loss` and `stats` to 4. Those of absent terms are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pointers {
    /// Queries `[n d]` of each term, rows of unit length.
    pub q: [u64; TERMS],
    /// Their positives `[n d]`, rows of unit length.
    pub k: [u64; TERMS],
    /// The negatives `[m d]`, rows of unit length.
    pub queue: u64,
    /// Owners of the queries (`n` 32-bit numbers, the same for every term) and of the keys (`m`); 0 and 0 for no mask.
    pub owners: [u64; 2],
    /// Gradients `[n d]` in f32, written; 0 where none is needed.
    pub dq: [u64; TERMS],
    /// The loss of each term, one f32, written.
    pub loss: [u64; TERMS],
    /// Mean probability of the positive, and share of queries whose positive is nearest: two f32, written.
    pub stats: [u64; TERMS],
    /// [`Layout::workspace`] bytes.
    pub workspace: u64,
}

impl Pointers {
    /// Refuses addresses that the kernels cannot take.
    fn check(&self, l: &Layout) -> Result<()> {
        let of_terms = [("q", &self.q, WIDE), ("k", &self.k, WIDE), ("loss", &self.loss, 4), ("stats", &self.stats, 4)];
        for (arg, all, multiple) in of_terms {
            all[..l.terms].iter().try_for_each(|at| aligned("infonce", arg, *at, multiple))?;
        }
        aligned("infonce", "queue", self.queue, WIDE)?;
        aligned("infonce", "workspace", self.workspace, WIDE)?;
        if self.owners != [0, 0] {
            self.owners.iter().try_for_each(|at| aligned("infonce", "owners", *at, WIDE))?;
        }
        let mut needed = self.dq[..l.terms].iter().filter(|at| l.gradient && **at != 0);
        needed.try_for_each(|at| aligned("infonce", "dq", *at, WIDE))
    }
}

/// The sort of kernel that passes over the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Plain arithmetic: any data types, any `d`.
    Plain,
    /// Tensor cores with `mma.sync`: bf16 queries and queue, `d` a multiple of 8.
    Mma,
    /// The same with TMA and `wgmma`, on Hopper, for more than 64 rows.
    Wgmma,
}

/// How a pass is divided into blocks: tiles of rows times parts of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The sort of kernel.
    pub sort: Sort,
    /// Rows per tile.
    pub tile: usize,
    /// Number of tiles.
    pub tiles: usize,
    /// Keys per part, a multiple of 64; the last part may be shorter.
    pub share: usize,
    /// Number of parts.
    pub parts: usize,
    /// Maximum length of a code for the chosen kernel, 64 or 128.
    pub width: usize,
}

impl Plan {
    /// A plan for `blocks` concurrent blocks, of a Hopper or of another GPU.
    pub fn new(l: &Layout, blocks: usize, hopper: bool) -> Plan {
        let rows = l.terms * l.n;
        let tensor = l.q == DType::BF16 && l.queue == DType::BF16 && l.d.is_multiple_of(8);
        let (sort, tile) = match (tensor, rows > 64) {
            (true, true) if hopper => (Sort::Wgmma, 128),
            (true, true) => (Sort::Mma, 256),
            (true, false) => (Sort::Mma, 64),
            (false, _) => (Sort::Plain, 64),
        };
        let tiles = rows.div_ceil(tile);
        let parts = (blocks / tiles).clamp(1, l.m.div_ceil(SHORTEST));
        let share = l.m.div_ceil(parts).next_multiple_of(64);
        Plan { sort, tile, tiles, share, parts: l.m.div_ceil(share), width: if l.d <= 64 { 64 } else { WIDEST } }
    }

    /// Threads per block.
    fn threads(&self) -> u32 {
        match (self.sort, self.tile) {
            (Sort::Wgmma, _) => 384,
            (_, 256) => 256,
            _ => 128,
        }
    }

    /// Dynamic shared memory per block: the tile of rows, two tiles of keys with their owners and, without tensor cores,
    /// which keep the weights in registers, the weights. With `wgmma`, which keeps the rows in registers as well, four
    /// tiles of keys, aligned to 1024 bytes.
    fn shared(&self) -> u32 {
        let (tile, width) = (self.tile as u32, self.width as u32);
        match self.sort {
            Sort::Wgmma => 4 * 64 * width * 2 + 1024,
            Sort::Mma => (tile + 2 * 64) * width * 2 + 2 * 64 * 4,
            Sort::Plain => (tile + 2 * 32) * (width + 4) * 4 + 32 * (tile + 4) * 4 + 2 * 32 * 4,
        }
    }

    fn spread(&self) -> Spread {
        Spread { grid: [self.tiles as u32, self.parts as u32, 1], ..Spread::line(1, self.threads()) }
            .with_shared(self.shared())
    }

    /// Bytes that the three launches load from and store to memory outside the caches, without a mask.
    pub fn traffic(&self, l: &Layout) -> u64 {
        let rows = l.terms * l.n;
        let codes = rows * l.d;
        let partial = self.parts * (rows * 8 + if l.gradient { codes * 4 } else { 0 });
        let sweep = self.tiles * l.m * l.d * l.queue.size() + self.parts * codes * l.q.size() + partial;
        let positives = codes * l.k.size() * if l.gradient { 2 } else { 1 };
        let merge = codes * l.q.size() + positives + partial + if l.gradient { codes * 4 } else { 0 } + rows * 16;
        (sweep + merge + rows * 16 + l.terms * 12) as u64
    }
}

impl Layout {
    /// Refuses layouts that the kernels do not support.
    pub(super) fn check(&self) -> Result<()> {
        if self.d > WIDEST {
            return Err(Error::param("infonce", "d", self.d, format!("codes on a GPU have at most {WIDEST} elements")));
        }
        if self.tau < COLDEST {
            return Err(Error::param("infonce", "tau", self.tau, format!("on a GPU it is at least {COLDEST}")));
        }
        let rows = self.terms.saturating_mul(self.n);
        if rows > 1 << 20 || self.m > 1 << 28 {
            let extents = format!("{rows} rows and {} keys", self.m);
            return Err(Error::param("infonce", "extents", extents, "at most 2^20 rows and 2^28 keys go in one sweep"));
        }
        Ok(())
    }

    fn plan(&self, hopper: bool) -> Plan {
        Plan::new(self, BLOCKS, hopper)
    }

    /// Minimum memory traffic of this computation: every argument and result once, without a mask.
    #[must_use]
    pub fn fewest_bytes(&self) -> u64 {
        let codes = self.terms * self.n * self.d;
        let gradient = if self.gradient { codes * 4 } else { 0 };
        (self.m * self.d * self.queue.size() + codes * (self.q.size() + self.k.size()) + gradient + self.terms * 12)
            as u64
    }

    /// Bytes of working memory that [`launch`] needs on any GPU.
    #[must_use]
    pub fn workspace(&self) -> usize {
        self.workspace_for(&self.plan(false)).max(self.workspace_for(&self.plan(true)))
    }

    /// As [`Layout::workspace`], for a given plan.
    #[must_use]
    pub fn workspace_for(&self, plan: &Plan) -> usize {
        self.spans(plan).iter().sum()
    }

    /// Bytes of the scores of rows, the partial sums and the weighted keys, each rounded up to a multiple of 16.
    fn spans(&self, plan: &Plan) -> [usize; 3] {
        let rows = self.terms * self.n;
        let weighted = if self.gradient { plan.parts * rows * self.d * 4 } else { 0 };
        [rows * 16, (plan.parts * rows * 8).next_multiple_of(16), weighted]
    }
}

/// Enqueues the loss of `layout.terms` terms on `gpu`: mean loss, mean probability of the positive, share of nearest
/// positives, and gradient by the queries, from one pass over the queue.
///
/// Rows must be of unit length: the exponentials are relative to `1/τ`, the largest logit of such rows.
///
/// # Safety
/// Every address of the layout's arguments is valid on `gpu`'s device for the extents that [`Pointers`] states until the
/// work is done.
///
/// # Errors
/// `Param` when `d` is above 128, the temperature below 0.025, there are no terms, queries or keys, or an address is null or
/// not aligned as [`Pointers`] says; `Driver`.
pub unsafe fn launch(gpu: &Gpu, layout: &Layout, at: &Pointers) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { launch_planned(gpu, layout, &layout.plan(gpu.compute_capability() == (9, 0)), at) }
}

/// As [`launch`], with a given plan, whose working memory is [`Layout::workspace_for`].
///
/// # Safety
/// As [`launch`].
///
/// # Errors
/// As [`launch`].
pub unsafe fn launch_planned(gpu: &Gpu, layout: &Layout, plan: &Plan, at: &Pointers) -> Result<()> {
    let l = layout;
    l.check()?;
    if !(1..=TERMS).contains(&l.terms) || l.n == 0 || l.d == 0 || l.m == 0 {
        return Err(Error::param("infonce", "layout", format!("{l:?}"), "it has 1 to 4 terms and no extent of 0"));
    }
    at.check(l)?;
    let (rows, codes) = (l.terms * l.n, l.n * l.d);
    let bytes = |ptr: u64, bytes: usize| if ptr == 0 { 0 } else { bytes };
    let input = |ptr: u64, n: usize| In(ptr, bytes(ptr, n));
    let output = |ptr: u64, n: usize| Out(ptr, bytes(ptr, n));
    let [q0, q1, q2, q3] = at.q.map(|p| input(p, codes * l.q.size()));
    let [k0, k1, k2, k3] = at.k.map(|p| input(p, codes * l.k.size()));
    let [scores_bytes, sums_bytes, weighted_bytes] = l.spans(plan);
    let sums = at.workspace + scores_bytes as u64;
    let weighted = if l.gradient { sums + sums_bytes as u64 } else { 0 };

    let extents = Extents {
        n: l.n as u32,
        rows: rows as u32,
        d: l.d as u32,
        m: l.m as u32,
        share: plan.share as u32,
        q_bf16: l.q.index() as u32,
        scale: std::f32::consts::LOG2_E / l.tau,
    };
    let wide = usize::from(plan.width > 64);
    let queue = input(at.queue, l.m * l.d * l.queue.size());
    let owners = [input(at.owners[0], 4 * l.n), input(at.owners[1], 4 * l.m)];
    let sums_used = plan.parts * rows * 8;
    let partial = (Out(weighted, weighted_bytes), Out(sums, sums_used));
    if plan.sort == Sort::Wgmma {
        let window = TensorWindow::Tiled(vec![64, 64]);
        let map = gpu.tensor_map(&TensorMap { ptr: queue.0, extents: vec![l.d as u64, l.m as u64], window })?;
        let sweep = (q0, q1, q2, q3, map, owners[0], owners[1], partial.0, partial.1, Pod(extents));
        WGMMA.launch(gpu, wide, plan.spread(), sweep)?;
    } else {
        let (kernel, which) = if plan.sort == Sort::Mma {
            (&TENSOR, 2 * usize::from(plan.tile > 64) + wide)
        } else {
            (&PLAIN, 2 * l.queue.index() + wide)
        };
        let sweep = (q0, q1, q2, q3, queue, owners[0], owners[1], partial.0, partial.1, Pod(extents));
        kernel.launch(gpu, which, plan.spread(), sweep)?;
    }

    let joined = Joined {
        n: extents.n,
        rows: extents.rows,
        d: extents.d,
        parts: plan.parts as u32,
        q_bf16: extents.q_bf16,
        k_bf16: l.k.index() as u32,
        inverse_tau: 1.0 / l.tau,
    };
    let [d0, d1, d2, d3] = at.dq.map(|p| output(if l.gradient { p } else { 0 }, codes * 4));
    let scores = Out(at.workspace, scores_bytes);
    let partial = (In(weighted, weighted_bytes), In(sums, sums_used));
    let merge = (q0, q1, q2, q3, k0, k1, k2, k3, partial.0, partial.1, scores, d0, d1, d2, d3, Pod(joined));
    MERGE.launch(gpu, 0, Spread::line(rows as u32, 256), merge)?; // a block a row

    let [l0, l1, l2, l3] = at.loss.map(|p| output(p, 4));
    let [s0, s1, s2, s3] = at.stats.map(|p| output(p, 8));
    let mean = (In(at.workspace, scores_bytes), l0, l1, l2, l3, s0, s1, s2, s3, l.n as u32);
    MEAN.launch(gpu, 0, Spread::line(l.terms as u32, 256), mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    #[test]
    fn a_plan_covers_every_row_and_key_once() {
        for case in 0..256 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let [terms, n, d, m, blocks] = [TERMS, 699, WIDEST, 199_999, 299].map(|most| rng.random_range(1..=most));
            let dtype = if case.is_multiple_of(2) { DType::F32 } else { DType::BF16 };
            let l = Layout { terms, n, d, m, q: dtype, k: dtype, queue: dtype, tau: 0.1, gradient: true };
            let p = Plan::new(&l, blocks, case % 3 == 0);
            let rows = terms * n;
            assert!(p.tiles * p.tile >= rows && (p.tiles - 1) * p.tile < rows);
            assert!(p.parts * p.share >= m && (p.parts - 1) * p.share < m && p.share.is_multiple_of(64));
            assert!(p.parts == 1 || p.tiles * p.parts <= blocks);
            assert!(p.width >= d && p.shared() <= 163 * 1024 && (p.sort != Sort::Plain || p.shared() <= 99 * 1024));
            assert!(l.workspace() >= rows * 16 && p.traffic(&l) >= l.fewest_bytes());
        }
    }
}
