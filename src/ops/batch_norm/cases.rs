//! The batch norms of the networks, and edge cases.

use super::Rows;

/// One batch norm.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in benchmarks.
    pub name: &'static str,
    /// Parts, rows and channels of `x`.
    pub rows: Rows,
    /// Why it is here.
    pub why: &'static str,
}

impl Case {
    /// Elements of `x`.
    pub fn len(&self) -> usize {
        self.rows.parts * self.rows.rows * self.rows.c
    }

    /// Whether there are no elements (never true).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Arithmetic operations of the forward pass with batch statistics: difference, two sums, square; difference,
    /// product, sum.
    pub fn flops(&self) -> usize {
        7 * self.len()
    }

    /// Bytes moved by the forward pass with batch statistics, f32: `x` twice (once for the statistics) and `y`.
    pub fn bytes(&self) -> usize {
        12 * self.len()
    }

    /// Bytes moved by the backward pass with a ReLU, f32: `x` and `dy` twice and `dx`.
    pub fn bytes_backward(&self) -> usize {
        20 * self.len()
    }
}

const fn case(name: &'static str, [parts, rows, c]: [usize; 3], why: &'static str) -> Case {
    Case { name, rows: Rows { parts, rows, c }, why }
}

/// Small shapes, ragged shapes, and those of the networks.
pub const CASES: &[Case] = &[
    case("pair", [1, 2, 1], "the smallest with a variance"),
    case("ragged", [1, 107, 13], "no extent is a multiple of a vector or a step"),
    case("parts", [3, 35, 6], "sub-batches"),
    case("chunks", [2, 1061, 45], "several chunks in each part, the last one short"),
    case("wide", [1, 37, 2049], "rows longer than a chunk's share"),
    case("head", [1, 64, 2048], "behind a linear layer of a projection head"),
    case("stem", [1, 2 * 8 * 56 * 56, 64], "first layers: few channels, many rows"),
    case("middle", [1, 2 * 4 * 14 * 14, 576], "a (2+1)D layer's middle channels"),
];
