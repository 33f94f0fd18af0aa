//! A loaded file: its entries, their signatures and their decoded code.

use crate::ins::{Constant, Ins};
use crate::memory::Buffer;
use crate::types::Type;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// A parameter of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamType {
    /// The name in the PTX text.
    pub name: String,
    /// Type of the value, or of an element where the parameter is an array of bytes.
    pub ty: Type,
    /// Whether the parameter is an array (a structure passed by value).
    pub array: bool,
    /// Bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
    /// Offset in the parameters' memory.
    pub offset: u32,
}

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    pub(crate) name: String,
    pub(crate) line: u32,
    pub(crate) params: Vec<ParamType>,
    pub(crate) static_shared: u32,
    pub(crate) dynamic_shared: bool,
    /// Bytes of dynamic shared memory that it was granted; 0 before.
    pub(crate) granted: AtomicU32,
    pub(crate) local: u32,
    pub(crate) max_threads: Option<u32>,
    pub(crate) exact_threads: Option<[u32; 3]>,
    pub(crate) cluster: Option<[u32; 3]>,
    pub(crate) code: Vec<Ins>,
    /// Registers of the three files, without constants.
    pub(crate) registers: [usize; 3],
    /// Constants, which follow the registers in each file.
    pub(crate) constants: [Vec<Constant>; 3],
    /// Log2 of the narrowest access, per space: the granularity of the race detector.
    pub(crate) granule: [u32; 2],
    /// Whether it has asynchronous instructions of sm_90.
    pub(crate) asynchronous: bool,
    /// Registers that `wgmma` reads or writes.
    pub(crate) fragments: Vec<u16>,
}

impl Entry {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parameters in order.
    pub fn params(&self) -> &[ParamType] {
        &self.params
    }

    /// Bytes of shared memory that the text declares.
    pub fn static_shared(&self) -> u32 {
        self.static_shared
    }

    /// Whether the kernel uses shared memory whose size is given at launch.
    pub fn dynamic_shared(&self) -> bool {
        self.dynamic_shared
    }

    /// Bytes of local memory per thread.
    pub fn local(&self) -> u32 {
        self.local
    }

    /// Maximum threads per block (`.maxntid`, `.reqntid`).
    pub fn max_threads(&self) -> Option<u32> {
        self.exact_threads.map(|t| t.iter().product()).or(self.max_threads)
    }

    /// Blocks of a cluster (`.reqnctapercluster`).
    pub fn cluster(&self) -> Option<[u32; 3]> {
        self.cluster
    }

    /// Number of instructions.
    pub fn instructions(&self) -> usize {
        self.code.len()
    }
}

/// A loaded file.
#[derive(Debug)]
pub struct Module {
    pub(crate) entries: Vec<Entry>,
    pub(crate) version: String,
    pub(crate) target: String,
    /// `.global` and `.const` variables: the memory, and whether it may be written.
    pub(crate) variables: Vec<(Arc<Buffer>, bool)>,
}

impl Module {
    /// The kernels, in the order of the text.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The kernel called `name`.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// The version of the PTX text, such as `8.4`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The target, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }
}
