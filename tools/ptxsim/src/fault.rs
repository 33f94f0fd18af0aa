//! Errors: texts that do not parse, and kernels with faults.

use std::fmt;

use crate::types::Space;

/// A text that is not in the supported subset of PTX. Nothing is ever skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: u32,
    /// One sentence.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> ParseError {
        ParseError { line, message: message.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Where in a launch a fault happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The kernel.
    pub entry: String,
    /// Line of the PTX text, from 1; 0 for faults without an instruction.
    pub line: u32,
    /// Index of the block in the grid.
    pub block: [u32; 3],
    /// Index of the warp in its block.
    pub warp: u32,
    /// Index of the lane in its warp.
    pub lane: u32,
    /// The address, if there is one.
    pub address: Option<u64>,
    /// Details of this fault.
    pub detail: String,
}

/// A fault of a launch, or of a host call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An access outside all regions of the launch, outside shared or local memory, or by the host outside an
    /// allocation.
    OutOfBounds(Space, Box<Site>),
    /// An address that is not a multiple of the access's size.
    Misaligned(Space, Box<Site>),
    /// A read of memory never written, or not yet written by a pending `cp.async`.
    Uninitialised(Space, Box<Site>),
    /// A register that was never written determines an address, a branch, or a value that leaves the thread.
    UninitialisedRegister(Box<Site>),
    /// A store to a region with `Access::Read`.
    ReadOnly(Box<Site>),
    /// Two accesses that are not ordered, at least one of them a store.
    Race(Space, Box<Site>),
    /// A barrier or a warp-wide instruction that not all of its participating threads reach.
    Divergence(Box<Site>),
    /// All remaining threads wait for each other.
    Deadlock(Box<Site>),
    /// A region with `Access::Write` was not filled.
    NotWritten(Box<Site>),
    /// The kernel executed `trap`.
    Trap(Box<Site>),
    /// The launch exceeded its maximum number of instructions.
    Runaway(Box<Site>),
    /// Another violation of the rules of a barrier or an instruction.
    Illegal(Box<Site>),
    /// A store that the async proxy does not see, for want of a proxy fence.
    Proxy(Box<Site>),
    /// Registers that a `wgmma` in flight reads or writes are used, or ones changed since the last `wgmma.fence` are its
    /// operands; or a warp leaves before its asynchronous operations are complete.
    InFlight(Box<Site>),
    /// A wrong use of an mbarrier.
    Mbarrier(Box<Site>),
    /// The launch itself is wrong: its entry or its parameters.
    Launch(String),
    /// A grid or a block that the device or the entry does not allow.
    Geometry(String),
    /// More shared memory than the device has for a block, or than the function was granted.
    SharedMemory(String),
    /// A block whose registers do not fit into a multiprocessor.
    Registers(String),
    /// A tensor map beyond the limits of `cuTensorMapEncode`.
    TensorMap(String),
    /// The device does not have what the kernel's target needs.
    Unsupported(String),
    /// A host call refers to memory that does not exist.
    Host(String),
}

impl Fault {
    /// Where it happened; `None` for faults of the host.
    pub fn site(&self) -> Option<&Site> {
        use Fault::*;
        match self {
            OutOfBounds(_, s) | Misaligned(_, s) | Uninitialised(_, s) | Race(_, s) => Some(s),
            UninitialisedRegister(s) | ReadOnly(s) | Divergence(s) | Deadlock(s) | NotWritten(s) => Some(s),
            Trap(s) | Runaway(s) | Illegal(s) | Proxy(s) | InFlight(s) | Mbarrier(s) => Some(s),
            Launch(_) | Geometry(_) | SharedMemory(_) | Registers(_) => None,
            TensorMap(_) | Unsupported(_) | Host(_) => None,
        }
    }

    pub(crate) fn site_mut(&mut self) -> Option<&mut Site> {
        use Fault::*;
        match self {
            OutOfBounds(_, s) | Misaligned(_, s) | Uninitialised(_, s) | Race(_, s) => Some(s),
            UninitialisedRegister(s) | ReadOnly(s) | Divergence(s) | Deadlock(s) | NotWritten(s) => Some(s),
            Trap(s) | Runaway(s) | Illegal(s) | Proxy(s) | InFlight(s) | Mbarrier(s) => Some(s),
            Launch(_) | Geometry(_) | SharedMemory(_) | Registers(_) => None,
            TensorMap(_) | Unsupported(_) | Host(_) => None,
        }
    }

    /// A name for the kind of fault, for tables.
    pub fn name(&self) -> &'static str {
        use Fault::*;
        match self {
            OutOfBounds(..) => "out of bounds",
            Misaligned(..) => "misaligned",
            Uninitialised(..) => "uninitialised memory",
            UninitialisedRegister(_) => "uninitialised register",
            ReadOnly(_) => "store to read-only memory",
            Race(..) => "race",
            Divergence(_) => "divergence",
            Deadlock(_) => "deadlock",
            NotWritten(_) => "output not written",
            Trap(_) => "trap",
            Runaway(_) => "runaway",
            Illegal(_) => "illegal instruction",
            Proxy(_) => "missing proxy fence",
            InFlight(_) => "operation in flight",
            Mbarrier(_) => "misused mbarrier",
            Launch(_) => "bad launch",
            Geometry(_) => "bad grid or block",
            SharedMemory(_) => "too much shared memory",
            Registers(_) => "too many registers",
            TensorMap(_) => "bad tensor map",
            Unsupported(_) => "unsupported by the device",
            Host(_) => "bad call",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = match self {
            Fault::OutOfBounds(s, _) | Fault::Misaligned(s, _) | Fault::Uninitialised(s, _) | Fault::Race(s, _) => {
                Some(s)
            }
            _ => None,
        };
        match self {
            Fault::Launch(m) | Fault::Geometry(m) | Fault::SharedMemory(m) | Fault::Registers(m) | Fault::Host(m) => {
                return write!(f, "{}: {m}", self.name());
            }
            Fault::TensorMap(m) | Fault::Unsupported(m) => return write!(f, "{}: {m}", self.name()),
            _ => write!(f, "{}", self.name())?,
        }
        if let Some(space) = space {
            write!(f, " ({})", format!("{space:?}").to_lowercase())?;
        }
        if let Some(s) = self.site() {
            if !s.entry.is_empty() {
                write!(
                    f,
                    " in {} at PTX line {}, block {:?}, warp {}, lane {}",
                    s.entry, s.line, s.block, s.warp, s.lane
                )?;
            }
            if let Some(a) = s.address {
                write!(f, ", address {a:#x}")?;
            }
            if !s.detail.is_empty() {
                write!(f, ": {}", s.detail)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
