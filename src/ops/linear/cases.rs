//! The linear layers of the methods' heads.

/// One layer.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in benchmarks.
    pub name: &'static str,
    /// `n i o`.
    pub extents: [usize; 3],
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Multiplications and additions of the forward pass.
    pub fn flops(&self) -> usize {
        let [n, i, o] = self.extents;
        2 * (n * i * o + n * o)
    }

    /// Minimum memory traffic of the forward pass in bytes, f32.
    pub fn bytes(&self) -> usize {
        let [n, i, o] = self.extents;
        4 * (n * i + o * i + o + n * o)
    }
}

/// Small shapes, ragged shapes, and the heads of the methods.
pub const CASES: &[Case] = &[
    Case { name: "one", extents: [1, 1, 1], why: "the smallest" },
    Case { name: "ragged", extents: [5, 19, 7], why: "no extent is a multiple of a vector" },
    Case { name: "single_row", extents: [1, 33, 17], why: "one sample" },
    Case { name: "probe", extents: [32, 512, 101], why: "linear classifier of UCF101" },
    Case { name: "project", extents: [64, 2048, 128], why: "last layer of the projection head" },
];
