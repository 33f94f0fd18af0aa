//! The problem table.

/// One problem to test and measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in tests and benches.
    pub name: &'static str,
    /// Queries.
    pub n: usize,
    /// Length of a code.
    pub d: usize,
    /// Keys in the queue.
    pub m: usize,
    /// Temperature.
    pub tau: f32,
    /// Why it is in the table.
    pub why: &'static str,
}

impl Case {
    /// Arithmetic operations of the loss and its gradient: two products of `n·m·d`, and about 20 per exponential.
    pub fn flops(&self) -> u64 {
        (self.n * self.m * (4 * self.d + 20)) as u64
    }

    /// Bytes of f32 that must be moved: the codes and the queue once, the gradient once.
    pub fn bytes(&self) -> u64 {
        (4 * self.d * (3 * self.n + self.m)) as u64
    }
}

/// The problems.
pub const CASES: &[Case] = &[
    Case { name: "tiny", n: 2, d: 3, m: 4, tau: 0.5, why: "readable by eye" },
    Case { name: "one", n: 1, d: 1, m: 1, tau: 1.0, why: "smallest" },
    Case { name: "ragged", n: 67, d: 19, m: 301, tau: 0.1, why: "no extent divides a tile or a block" },
    Case { name: "cold", n: 9, d: 16, m: 530, tau: 0.01, why: "logits between -100 and 100" },
    Case { name: "parts", n: 5, d: 8, m: 9000, tau: 0.1, why: "more blocks than parts, the last one short" },
    Case { name: "tiles", n: 300, d: 8, m: 40, tau: 0.1, why: "more queries than a tile, the last one short" },
    Case { name: "small", n: 32, d: 128, m: 256, tau: 0.1, why: "a small run's batch and queue" },
    Case { name: "paper", n: 256, d: 128, m: 65536, tau: 0.1, why: "MaCLR's queue with 256 videos a step" },
];
