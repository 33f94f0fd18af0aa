//! Sizes, since there is nothing else to vary.

/// One size.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in benchmarks.
    pub name: &'static str,
    /// Number of elements.
    pub len: usize,
    /// Why it is here.
    pub why: &'static str,
}

impl Case {
    /// Comparisons.
    pub fn flops(&self) -> usize {
        self.len
    }

    /// Bytes read and written once, f32, forward.
    pub fn bytes(&self) -> usize {
        8 * self.len
    }
}

/// Sizes around the chunk of a task.
pub const CASES: &[Case] = &[
    Case { name: "one", len: 1, why: "the smallest" },
    Case { name: "ragged", len: 1003, why: "no multiple of a vector" },
    Case { name: "chunks", len: (1 << 16) + 7, why: "three tasks, the last short" },
];
