//! Error bounds of approximate instructions, relative to what this simulator computes.
//!
//! The simulator computes all of them in f64 and rounds correctly. The bounds are those of the PTX ISA (version 8.4,
//! section 9.7.3, "Floating Point Instructions"), widened by the simulator's own half unit in the last place where that
//! matters.

/// A bound on the error of an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// The opcode with the modifiers that matter.
    pub opcode: &'static str,
    /// Largest error relative to the result; 0 where only an absolute bound is stated.
    pub relative: f64,
    /// Largest absolute error; 0 where only a relative bound is stated.
    pub absolute: f64,
    /// The range in which the bound holds.
    pub range: &'static str,
}

const fn row(opcode: &'static str, relative: f64, absolute: f64, range: &'static str) -> Accuracy {
    Accuracy { opcode, relative, absolute, range }
}

const fn two_to_minus(n: u32) -> f64 {
    1.0 / (1u64 << n) as f64
}

/// All approximate instructions that are simulated.
pub const TABLE: &[Accuracy] = &[
    row("ex2.approx.f32", two_to_minus(22), 0.0, "all"),
    row("lg2.approx.f32", two_to_minus(22), two_to_minus(22), "relative outside of (1/2, 2), absolute inside"),
    row("rcp.approx.f32", two_to_minus(23), 0.0, "all"),
    row("rcp.approx.ftz.f64", two_to_minus(20), 0.0, "all; the lower 32 bits of the result are zero"),
    row("div.approx.f32", two_to_minus(22), 0.0, "divisors of magnitude in [2^-126, 2^126]"),
    row("div.full.f32", two_to_minus(22), 0.0, "all"),
    row("sqrt.approx.f32", two_to_minus(23), 0.0, "all"),
    row("rsqrt.approx.f32", two_to_minus(22), 0.0, "all"),
    row("rsqrt.approx.f64", two_to_minus(20), 0.0, "all"),
    row("sin.approx.f32", 0.0, two_to_minus(20), "[-2 pi, 2 pi]"),
    row("cos.approx.f32", 0.0, two_to_minus(20), "[-2 pi, 2 pi]"),
    row("tanh.approx.f32", two_to_minus(11), 0.0, "all"),
    row("ex2.approx.f16", two_to_minus(9), 0.0, "all"),
    row("tanh.approx.f16", 0.0, two_to_minus(10), "all"),
    row("tanh.approx.bf16", 0.0, two_to_minus(8), "all"),
];

/// The bound of an opcode, such as `ex2.approx.f32`; flushing of subnormals (`.ftz`) does not change it.
pub fn accuracy(opcode: &str) -> Option<Accuracy> {
    let plain = opcode.replace(".ftz.f32", ".f32");
    TABLE.iter().find(|a| a.opcode == plain).copied()
}
