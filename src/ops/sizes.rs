//! Tables of cases of the operations of which nothing but the size varies.

/// One size to test and measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in tests and benches.
    pub name: &'static str,
    /// Number of elements.
    pub len: usize,
    /// Why it is in the table.
    pub why: &'static str,
}

/// Sizes around the number of elements per task, for functions of one element.
pub const ELEMENTS: &[Case] = &[
    Case { name: "one", len: 1, why: "the smallest" },
    Case { name: "ragged", len: 1003, why: "no multiple of a vector" },
    Case { name: "chunks", len: (1 << 16) + 7, why: "several tasks, the last short" },
];

/// Sizes of a parameter, for updates of weights.
pub const WEIGHTS: &[Case] = &[
    Case { name: "tiny", len: 5, why: "readable by eye" },
    Case { name: "ragged", len: 70_001, why: "more than two tasks, the last one short" },
    Case { name: "res5", len: 512 * 512 * 27, why: "the largest filter of R3D-50" },
];
