//! Decoded instructions: every operand is a slot of a register file, including constants.

use crate::asynchronous::Async;
use crate::counters::Class;
use crate::lane::float::{Compare, Convert, FloatOp, Relation};
use crate::types::{Round, Space, Type};

/// The register file that holds a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum File {
    /// Predicates: a bit per lane.
    P,
    /// Up to 32 bits per lane; narrower values are zero-extended.
    W,
    /// 64 bits per lane.
    X,
}

/// A register, or a constant that is stored like a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub file: File,
    /// Declared width: 1, 8, 16, 32 or 64.
    pub bits: u8,
    pub i: u16,
}

impl Slot {
    /// In place of a source that an instruction does not have: the constant 0.
    pub const NONE: Slot = Slot { file: File::W, bits: 32, i: 0 };
    /// A destination that is never read.
    pub const SINK: Slot = Slot { file: File::W, bits: 32, i: 1 };
}

/// Slots that every function has: the constant zero (or the predicate that is always true) and the sink.
pub(crate) const RESERVED: u16 = 2;

/// A function of the sources of one lane. Sources are zero-extended, the result is truncated to the destination.
pub(crate) type Pure = fn(u64, u64, u64, u64) -> u64;

/// The value of a constant slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Value(u64),
    Special(Special),
}

/// Special registers that do not change while a block runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    Warps,
    LaneMask(Order),
    DynamicShared,
    TotalShared,
    /// The block's index in its cluster, the blocks of a cluster, the cluster's index, and the number of clusters.
    InCluster(u8),
    OfCluster(u8),
    Cluster(u8),
    Clusters(u8),
    /// The block's rank in its cluster, and the number of ranks.
    Rank,
    Ranks,
}

/// Which lanes are in a lane mask register, relative to the lane itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// A load or store.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub space: Space,
    pub offset: i64,
    pub ty: Type,
    /// Registers loaded or stored, one per element of the vector.
    pub regs: Vec<Slot>,
    /// Ordered by its own memory semantics, not by barriers: `volatile`, `relaxed`, `acquire`, `release`.
    pub strong: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// The reduction of a barrier over its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduce {
    None,
    And,
    Or,
    Popc,
}

/// Shape and types of a matrix multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tensor {
    Bf16K16,
    Bf16K8,
    F16K16,
    F16K8,
    Tf32K8,
    Tf32K4,
}

/// The operation of an instruction. Sources are `a`, `b`, `c`, `e` of [`Ins`], the destination is `d`.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Pure(Pure),
    Hot(Hot),
    Float(FloatOp),
    Convert(Convert),
    Compare {
        cmp: Compare,
        combine: Option<Logic>,
        invert: bool,
        second: Option<Slot>,
    },
    Select,
    /// Predicates, as masks.
    PredLogic(Logic),
    PredNot,
    PredMove,
    /// `mov {d0, d1}, a` and `mov d, {a0, a1}`.
    Unpack(Box<[Slot]>),
    Pack(Box<[Slot]>),
    Clock,
    Load(Box<Memory>),
    Store(Box<Memory>),
    /// Address `a`, operands `b` and `c`; `d` is the sink for `red`.
    Atomic {
        op: AtomicOp,
        space: Space,
        offset: i64,
        ty: Type,
    },
    /// Copies to `a` in shared memory from `b`; `c` bytes are read if `partial`, and none if predicate `e` is true.
    CopyAsync {
        bytes: u8,
        to: i64,
        from: i64,
        partial: bool,
        ignore: bool,
    },
    Commit,
    Wait(u32),
    WaitAll,
    Fence,
    Branch(u32),
    BranchTable(Box<[u32]>),
    Exit,
    Trap,
    /// Barrier `a` with `b` threads (0: all); `c` is the predicate of a reduction.
    Barrier {
        reduce: Reduce,
        invert: bool,
        arrive: bool,
    },
    WarpSync,
    /// `p` is the predicate that is true if the source lane was in range.
    Shuffle {
        mode: Shuffle,
        valid: Option<Slot>,
    },
    Vote {
        mode: Vote,
        invert: bool,
    },
    Match {
        all: bool,
        pred: Option<Slot>,
    },
    Redux(Pure),
    ActiveMask,
    LoadMatrix {
        offset: i64,
        trans: bool,
        regs: Box<[Slot]>,
    },
    StoreMatrix {
        offset: i64,
        trans: bool,
        regs: Box<[Slot]>,
    },
    Mma {
        kind: Tensor,
        d: [Slot; 4],
        a: Box<[Slot]>,
        b: Box<[Slot]>,
        c: [Slot; 4],
    },
    Async(Box<Async>),
}

/// Frequent instructions, for which there are loops over all lanes at once. The number is the width of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hot {
    Mov32,
    Mov64,
    Add32,
    Sub32,
    Mul32,
    Mad32,
    And32,
    Or32,
    Xor32,
    Not32,
    Neg32,
    Shl32,
    ShrU32,
    ShrS32,
    MinS32,
    MaxS32,
    MinU32,
    MaxU32,
    MulHiU32,
    Bfe32,
    Select32,
    Add64,
    Sub64,
    And64,
    Or64,
    Shl64,
    MulWideS32,
    MulWideU32,
    MadWideS32,
    MadWideU32,
    /// 32 bits to 64, unsigned and signed, and back.
    WidenU,
    WidenS,
    Narrow,
    FAdd,
    FSub,
    FMul,
    FFma,
    FDiv,
    FRcp,
    FSqrt,
    FMin,
    FMax,
    FNeg,
    FAbs,
    S32ToF32,
    U32ToF32,
    F32ToS32(Round),
    F32ToF32(Round),
    F32ToBf16,
    F32ToBf16x2,
    /// Two halves to a word, and back.
    Pack16,
    Unpack16,
    CompareS32(Relation),
    CompareU32(Relation),
    CompareS64(Relation),
    CompareU64(Relation),
    CompareF32(Relation, bool),
}

/// An instruction.
#[derive(Clone, Debug)]
pub(crate) struct Ins {
    pub op: Op,
    /// Predicate slot of the guard; slot 0 is always true.
    pub guard: u16,
    /// All ones where the guard is negated.
    pub negate: u32,
    pub d: Slot,
    pub a: Slot,
    pub b: Slot,
    pub c: Slot,
    pub e: Slot,
    pub class: Class,
    pub line: u32,
    /// Diverged lanes at the lowest rank run first.
    pub rank: u32,
}
