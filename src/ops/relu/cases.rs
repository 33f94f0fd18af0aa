//! Sizes; nothing else varies.

/// One size.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in benchmarks.
    pub name: &'static str,
    /// Number of elements.
    pub len: usize,
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Comparisons.
    pub fn flops(&self) -> usize {
        self.len
    }

    /// Bytes read and written by the forward pass, f32.
    pub fn bytes(&self) -> usize {
        8 * self.len
    }
}

/// Sizes around the number of elements per task.
pub const CASES: &[Case] = &[
    Case { name: "one", len: 1, why: "the smallest" },
    Case { name: "ragged", len: 1003, why: "no multiple of a vector" },
    Case { name: "chunks", len: (1 << 16) + 7, why: "three tasks, the last short" },
];
