//! The problem table.

/// One shape to test and measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in tests and benches.
    pub name: &'static str,
    /// Rows.
    pub n: usize,
    /// Classes.
    pub c: usize,
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Arithmetic operations of the forward pass, an exponential counted as 20.
    pub fn flops(&self) -> u64 {
        (22 * self.n * self.c) as u64
    }

    /// Bytes of f32 read by the forward pass.
    pub fn bytes(&self) -> u64 {
        (4 * self.n * self.c) as u64
    }
}

/// The shapes.
pub const CASES: &[Case] = &[
    Case { name: "tiny", n: 2, c: 3, why: "readable by eye" },
    Case { name: "one", n: 1, c: 1, why: "one class is certain" },
    Case { name: "ragged", n: 517, c: 37, why: "more than one task, the last one short" },
    Case { name: "ucf101", n: 64, c: 101, why: "fine-tuning on UCF101" },
];
