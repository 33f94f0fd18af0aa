//! The problem table.

/// One size to test and measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in tests and benches.
    pub name: &'static str,
    /// Number of weights.
    pub len: usize,
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Operations of one step.
    pub fn flops(&self) -> u64 {
        (8 * self.len) as u64
    }

    /// Bytes of f32 read and written in one step.
    pub fn bytes(&self) -> u64 {
        (20 * self.len) as u64
    }
}

/// The sizes.
pub const CASES: &[Case] = &[
    Case { name: "tiny", len: 5, why: "readable by eye" },
    Case { name: "ragged", len: 70_001, why: "more than two tasks, the last one short" },
    Case { name: "res5", len: 512 * 512 * 27, why: "the largest filter of R3D-50" },
];
