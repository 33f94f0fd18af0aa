//! Decoded instructions of sm_90: mbarriers, bulk copies, `wgmma`, and what belongs to them.

use crate::ins::Slot;
use crate::machine::Swizzled;
use crate::tensor_map::Swizzle;

/// An address: a register and an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub base: Slot,
    pub offset: i64,
}

/// Operands that are not listed here are in [`crate::ins::Ins`].
#[derive(Clone, Debug)]
pub(crate) enum Async {
    /// An mbarrier at `at`, for `b` arrivals.
    Init {
        at: Address,
    },
    Invalidate {
        at: Address,
    },
    /// `b` arrivals, after `c` more bytes are expected; `d` becomes the state.
    Arrive {
        at: Address,
        complete: bool,
        relaxed: bool,
    },
    /// `c` more bytes are expected.
    Expect {
        at: Address,
    },
    /// Whether the phase of state `b`, or with parity `b`, is complete; waits for it if `suspend`.
    Wait {
        at: Address,
        parity: bool,
        suspend: bool,
        acquire: bool,
    },
    /// A box or a column of a tensor, to shared memory.
    LoadTensor(Box<Transfer>),
    /// A box of a tensor, from shared memory.
    StoreTensor(Box<Transfer>),
    /// `b` bytes, to shared memory.
    LoadBulk(Box<Copy>),
    /// `b` bytes, from shared memory.
    StoreBulk {
        to: Address,
        from: Address,
    },
    Commit,
    /// All bulk groups but the last so many.
    Complete {
        keep: u32,
    },
    /// `fence.proxy.async`.
    Fence,
    /// `fence.mbarrier_init`.
    FenceInit,
    ArriveCluster {
        relaxed: bool,
    },
    WaitCluster,
    /// Address `a` in block `b` of the cluster; or the rank of the block where `a` is.
    MapAddress {
        rank_of: bool,
    },
    /// The address must hold a tensor map.
    Prefetch {
        map: Address,
    },
    FenceRegisters,
    CommitProducts,
    WaitProducts {
        keep: u32,
    },
    Multiply(Box<Multiply>),
    /// Registers per thread from here on.
    Registers {
        count: u32,
        increase: bool,
    },
    /// `p` is true in one of the lanes of the mask `a`, whose number is in `d`.
    Elect {
        p: Slot,
    },
}

/// A copy of an array to shared memory.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub to: Address,
    pub from: Address,
    /// Whether it comes from shared memory.
    pub shared: bool,
    pub barrier: Address,
    /// A mask of blocks of the cluster.
    pub multicast: Option<Slot>,
}

/// A copy between shared memory and a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub map: Address,
    pub coordinates: Vec<Slot>,
    /// Offsets of im2col; `None` for tiles.
    pub offsets: Option<Vec<Slot>>,
    pub shared: Address,
    /// Where a load completes.
    pub barrier: Address,
    /// A mask of blocks of the cluster.
    pub multicast: Option<Slot>,
}

/// The first factor of a product of matrices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Factor {
    /// A descriptor.
    Shared(Slot),
    Registers([Slot; 4]),
}

/// `wgmma.mma_async`: `D = A B + D`.
#[derive(Clone, Debug)]
pub(crate) struct Multiply {
    pub bf16: bool,
    pub columns: usize,
    pub d: Vec<Slot>,
    pub a: Factor,
    pub b: Slot,
    /// Whether `D` is added, and whether that predicate is negated.
    pub add: (Slot, bool),
    pub negative: [bool; 2],
    /// Whether each factor is stored with its rows (of A) or columns (of B) next to each other, instead of along k.
    pub transposed: [bool; 2],
}

/// A matrix in shared memory, as a descriptor of `wgmma` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub start: u64,
    pub leading: u64,
    pub stride: u64,
    pub base: u64,
    pub swizzle: Swizzle,
}

impl Descriptor {
    pub fn new(bits: u64, swizzled: Swizzled) -> Descriptor {
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        let swizzle = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(bits >> 62) as usize];
        let start = field(0);
        let origin = if swizzled == Swizzled::ByOperand { start >> 7 } else { 0 };
        Descriptor { start, leading: field(16), stride: field(32), base: ((bits >> 49) + origin) & 7, swizzle }
    }

    /// Where the pattern of the swizzle puts an address, if its repetition begins at `base` times 128 bytes.
    fn place(&self, address: u64) -> u64 {
        let phase = address.wrapping_sub(self.base << 7);
        address ^ phase ^ self.swizzle.place(phase)
    }

    /// The address of eight elements of 16 bits: those along k from `8 part` of row `index`, or, transposed, rows from
    /// `8 index` at `part` of k.
    pub fn chunk(&self, index: u64, part: u64, transposed: bool) -> u64 {
        let span = self.swizzle.span();
        let at = match (transposed, self.swizzle) {
            (false, Swizzle::None) => index / 8 * self.stride + index % 8 * 16 + part * self.leading,
            (false, _) => index / 8 * self.stride + index % 8 * span + part * 16,
            (true, Swizzle::None) => index * self.stride + part % 8 * 16 + part / 8 * self.leading,
            (true, _) => {
                let wide = span / 16;
                index % wide * 16 + index / wide * self.leading + part % 8 * span + part / 8 * self.stride
            }
        };
        self.place(self.start + at)
    }
}
