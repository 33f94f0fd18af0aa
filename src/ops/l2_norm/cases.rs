//! The problem table.

/// One shape to test and measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in tests and benches.
    pub name: &'static str,
    /// Rows.
    pub n: usize,
    /// Row length.
    pub d: usize,
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Arithmetic operations of the forward pass: squares, sums, one scaling.
    pub fn flops(&self) -> u64 {
        (3 * self.n * self.d) as u64
    }

    /// Bytes of f32 read and written by the forward pass.
    pub fn bytes(&self) -> u64 {
        (8 * self.n * self.d) as u64
    }
}

/// The shapes.
pub const CASES: &[Case] = &[
    Case { name: "tiny", n: 2, d: 3, why: "readable by eye" },
    Case { name: "row", n: 1, d: 1, why: "smallest" },
    Case { name: "ragged", n: 37, d: 129, why: "no extent divides a chunk" },
    Case { name: "codes", n: 256, d: 128, why: "MaCLR's projections" },
];
