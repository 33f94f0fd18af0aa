//! Performance counters of launches.

/// Classes of instructions that are counted separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Class {
    Integer,
    Float,
    Double,
    Half,
    /// Approximate functions, reciprocal, square root, division.
    Special,
    /// Conversions.
    Convert,
    /// Moves and selections.
    Move,
    /// Comparisons and predicates.
    Compare,
    /// Branches and returns.
    Control,
    /// Barriers, fences, waits.
    Sync,
    /// Shuffles, votes, matches.
    Warp,
    GlobalLoad,
    GlobalStore,
    SharedLoad,
    SharedStore,
    Local,
    Param,
    Atomic,
    /// Asynchronous copies to shared memory.
    AsyncCopy,
    /// `ldmatrix` and `stmatrix`.
    Matrix,
    Tensor,
}

/// Number of classes.
pub const CLASSES: usize = Class::Tensor as usize + 1;

/// Counts of one launch, or of all launches of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Launches.
    pub launches: u64,
    /// Blocks run.
    pub blocks: u64,
    /// Instructions, counted once for all lanes of a warp that execute them together.
    pub warp_instructions: u64,
    /// Warp-wide accesses to global memory: loads, stores, atomics and asynchronous copies.
    pub global_requests: u64,
    /// 32-byte sectors touched by loads, summed over requests.
    pub global_sectors_loaded: u64,
    /// 32-byte sectors touched by stores and atomics, summed over requests.
    pub global_sectors_stored: u64,
    /// Bytes requested by loads, each byte once per request.
    pub global_bytes_loaded: u64,
    /// Bytes that stores and atomics write, each byte once per request.
    pub global_bytes_stored: u64,
    /// The minimum number of sectors that could hold the bytes of each request, summed over requests.
    pub ideal_sectors: u64,
    /// Warp-wide accesses to shared memory.
    pub shared_requests: u64,
    /// Additional cycles of shared accesses due to bank conflicts.
    pub bank_conflict_cycles: u64,
    /// Matrix multiplications on tensor cores.
    pub tensor_instructions: u64,
    /// Bytes that bulk copies (TMA) have loaded from global memory; not those that fill what lies outside a tensor.
    pub bulk_bytes_loaded: u64,
    /// 32-byte sectors that they touched, summed over contiguous rows.
    pub bulk_sectors_loaded: u64,
    /// Bytes that they have stored to global memory.
    pub bulk_bytes_stored: u64,
    /// Products of `wgmma`: one per multiplication of two elements.
    pub wgmma_products: u64,
    /// Warp instructions by [`Class`].
    pub classes: [u64; CLASSES],
}

impl Counters {
    /// Instructions of one class.
    pub fn of(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }

    /// Adds the counts of another launch.
    pub fn add(&mut self, o: &Counters) {
        self.launches += o.launches;
        self.blocks += o.blocks;
        self.warp_instructions += o.warp_instructions;
        self.global_requests += o.global_requests;
        self.global_sectors_loaded += o.global_sectors_loaded;
        self.global_sectors_stored += o.global_sectors_stored;
        self.global_bytes_loaded += o.global_bytes_loaded;
        self.global_bytes_stored += o.global_bytes_stored;
        self.ideal_sectors += o.ideal_sectors;
        self.shared_requests += o.shared_requests;
        self.bank_conflict_cycles += o.bank_conflict_cycles;
        self.tensor_instructions += o.tensor_instructions;
        self.bulk_bytes_loaded += o.bulk_bytes_loaded;
        self.bulk_sectors_loaded += o.bulk_sectors_loaded;
        self.bulk_bytes_stored += o.bulk_bytes_stored;
        self.wgmma_products += o.wgmma_products;
        for (a, b) in self.classes.iter_mut().zip(&o.classes) {
            *a += b;
        }
    }
}
