//! The problem table: sizes of flow fields.

/// One problem.
pub struct Case {
    /// Its name in benchmarks.
    pub name: &'static str,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Why it is in the table.
    pub why: &'static str,
}

/// Sizes of flow fields.
pub const CASES: [Case; 5] = [
    Case { name: "1x1", h: 1, w: 1, why: "every neighbour is the pixel itself" },
    Case { name: "1x7", h: 1, w: 7, why: "no row above or below" },
    Case { name: "5x2", h: 5, w: 2, why: "every column at a border" },
    Case { name: "64x64", h: 64, w: 64, why: "frames of the small preset" },
    Case { name: "224x224", h: 224, w: 224, why: "the paper's frames" },
];

impl Case {
    /// Additions and multiplications of the flow's edges (a square root and a division count as one each).
    pub fn flops(&self) -> u64 {
        (2 * 13 + 3) * (self.h * self.w) as u64
    }

    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        4 * 3 * (self.h * self.w) as u64
    }
}
