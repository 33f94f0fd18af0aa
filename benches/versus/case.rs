//! Cases, and how they are timed.

use crate::clock::Clock;
use serde_json::Value;
use std::time::Instant;
use tubelet::error::Result;
use tubelet::nn::Precision;

/// The unit whose peak bounds a case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// f32 multiply-adds.
    F32,
    /// bf16 matrix products, this many for each product of the case.
    Bf16(u32),
}

impl Unit {
    /// The unit used by convolutions of `precision`.
    pub fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 | Precision::Fma => Unit::F32,
            Precision::Bf16 => Unit::Bf16(1),
            Precision::Bf16x3 => Unit::Bf16(3),
            Precision::Bf16x6 => Unit::Bf16(6),
            other => panic!("which unit computes {} is not known here", other.name()),
        }
    }
}

/// One row of the comparison.
pub struct Case {
    /// `<op>/<pass>/<case>/<dtype>/cpu`.
    pub name: String,
    /// Description for the peer; null if there is no peer.
    pub problem: Value,
    /// Floating-point operations, by the usual count.
    pub flops: u64,
    /// Minimum memory traffic in bytes.
    pub bytes: u64,
    /// Whether it is run only on request.
    pub extra: bool,
    /// The unit used.
    pub unit: Unit,
    /// Creates the operands.
    pub make: Box<dyn Fn() -> Result<Work>>,
}

/// A case with its operands.
pub struct Work {
    /// Runs it once.
    pub run: Box<dyn FnMut() -> Result<()>>,
    /// Additional measurements of its result (errors).
    pub check: Option<Box<dyn FnMut() -> Result<Value>>>,
}

/// How long to run, by which clock.
pub struct Turn {
    /// Minimum number of seconds.
    pub seconds: f64,
    /// Minimum number of runs.
    pub least: u64,
    /// Whether to measure the processor time of this process instead of wall time.
    pub processor: bool,
}

/// Milliseconds of the best run, and the number of runs.
pub fn best(run: &mut dyn FnMut() -> Result<()>, turn: &Turn) -> Result<(f64, u64)> {
    let (begin, clock) = (Instant::now(), Clock::new(turn.processor));
    let (mut least, mut runs) = (f64::INFINITY, 0);
    while runs < turn.least.max(1) || begin.elapsed().as_secs_f64() < turn.seconds {
        let start = clock.seconds();
        run()?;
        least = least.min(clock.seconds() - start);
        runs += 1;
    }
    Ok((1e3 * least, runs))
}
