//! The matrix products of the networks and the losses.

/// One product `[m k] · [k n]`.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in benchmarks.
    pub name: &'static str,
    /// `m k n`.
    pub extents: [usize; 3],
    /// Whether `a` is stored transposed.
    pub ta: bool,
    /// Whether `b` is stored transposed.
    pub tb: bool,
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Multiplications and additions.
    pub fn flops(&self) -> usize {
        let [m, k, n] = self.extents;
        2 * (m * k * n)
    }

    /// Bytes read and written once, f32.
    pub fn bytes(&self) -> usize {
        let [m, k, n] = self.extents;
        4 * (m * k + k * n + m * n)
    }
}

const fn case(name: &'static str, extents: [usize; 3], ta: bool, tb: bool, why: &'static str) -> Case {
    Case { name, extents, ta, tb, why }
}

/// Small shapes, ragged shapes, and those of the methods.
pub const CASES: &[Case] = &[
    case("one", [1, 1, 1], false, false, "the smallest"),
    case("ragged", [7, 13, 5], false, false, "no extent is a multiple of a vector"),
    case("ragged_tn", [7, 13, 5], true, false, "the gradient of weights"),
    case("ragged_nt", [7, 13, 5], false, true, "a linear layer"),
    case("ragged_tt", [7, 13, 5], true, true, "both transposed"),
    case("row", [1, 65, 33], false, true, "one sample"),
    case("column", [33, 65, 1], false, false, "one output"),
    case("head", [64, 2048, 2048], false, true, "first layer of the projection head of a 50-layer network"),
    case("logits", [64, 128, 65536], false, true, "queries against a queue"),
];
