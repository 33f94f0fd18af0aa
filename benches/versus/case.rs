//! What is timed, and how.

use crate::clock::Clock;
use serde_json::Value;
use std::time::Instant;
use tubelet::error::Result;
use tubelet::nn::Precision;

/// The unit whose peak bounds a case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Multiply-adds of f32.
    F32,
    /// Products of bf16 matrices, this many for each of the case.
    Bf16(u32),
}

impl Unit {
    /// What multiplies in convolutions of `precision`.
    pub fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 | Precision::Fma => Unit::F32,
            Precision::Bf16 => Unit::Bf16(1),
            Precision::Bf16x3 => Unit::Bf16(3),
            Precision::Bf16x6 => Unit::Bf16(6),
        }
    }
}

/// One row of the comparison.
pub struct Case {
    /// `<op>/<pass>/<case>/<dtype>/cpu`.
    pub name: String,
    /// All that a peer has to know; null where there is none.
    pub problem: Value,
    /// Floating-point operations, as anybody counts them.
    pub flops: u64,
    /// Bytes that must be read and written, each once.
    pub bytes: u64,
    /// Whether it is run only when asked for.
    pub extra: bool,
    /// What multiplies.
    pub unit: Unit,
    /// Makes the operands.
    pub make: Box<dyn Fn() -> Result<Work>>,
}

/// A case with its operands.
pub struct Work {
    /// Runs it once.
    pub run: Box<dyn FnMut() -> Result<()>>,
    /// What else there is to say about its result (errors).
    pub check: Option<Box<dyn FnMut() -> Result<Value>>>,
}

/// How long to run, by which clock.
pub struct Turn {
    /// At least so long.
    pub seconds: f64,
    /// At least so often.
    pub least: u64,
    /// Time of all processors spent on this process rather than of the wall.
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
