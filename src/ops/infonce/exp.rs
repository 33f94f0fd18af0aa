//! From the logits of a block of keys to exponentials: the largest logit, `exp`, and the sum, with each query in a lane
//! of its own. Plain loops, compiled for each instruction set.

use super::kernel::{LANES, Row};
use crate::cpu::Isa;

/// The running maximum and sum of the queries of a panel.
#[derive(Clone)]
pub(super) struct Tops {
    /// The largest logit so far; minus infinity if every key was masked.
    pub top: Row,
    /// `Σ exp(l - top)`.
    pub sum: [f64; LANES],
}

impl Tops {
    pub(super) const NONE: Tops = Tops { top: Row([f32::NEG_INFINITY; LANES]), sum: [0.0; LANES] };
}

/// Updates `tops` with the logits of a block of keys and replaces them by `exp(l - top)`. Where a maximum has
/// increased, returns the factors by which earlier weighted sums must be multiplied.
pub(super) fn weights(isa: Isa, logits: &mut [Row], tops: &mut Tops) -> Option<Row> {
    #[cfg(target_arch = "x86_64")]
    {
        let isa = isa.or_less();
        if isa >= Isa::Avx512 {
            // SAFETY: the processor has the instructions.
            return unsafe { weights_avx512(logits, tops) };
        }
        if isa == Isa::Avx2 {
            // SAFETY: as above.
            return unsafe { weights_avx2(logits, tops) };
        }
    }
    let _ = isa;
    weights_of::<false>(logits, tops)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn weights_avx512(logits: &mut [Row], tops: &mut Tops) -> Option<Row> {
    weights_of::<true>(logits, tops)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn weights_avx2(logits: &mut [Row], tops: &mut Tops) -> Option<Row> {
    weights_of::<true>(logits, tops)
}

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "a lane is an index of several arrays")]
fn weights_of<const FMA: bool>(logits: &mut [Row], tops: &mut Tops) -> Option<Row> {
    let before = tops.top;
    for row in logits.iter() {
        for (top, l) in tops.top.0.iter_mut().zip(&row.0) {
            *top = if *l > *top { *l } else { *top }; // NaN is skipped here and appears in the exponential
        }
    }
    let mut from = [0.0f32; LANES];
    let (mut factors, mut risen) = (Row::ZERO, false);
    for l in 0..LANES {
        let top = tops.top.0[l];
        // If every key so far was masked there is no largest logit, and any number will do.
        from[l] = if top == f32::NEG_INFINITY { 0.0 } else { top };
        risen |= top > before.0[l];
        factors.0[l] =
            exp_one::<FMA>(if before.0[l] == f32::NEG_INFINITY { before.0[l] } else { before.0[l] - from[l] });
    }
    let mut sums = [0.0f32; LANES];
    for row in logits.iter_mut() {
        for l in 0..LANES {
            let weight = exp_one::<FMA>(row.0[l] - from[l]);
            row.0[l] = weight;
            sums[l] += weight;
        }
    }
    for l in 0..LANES {
        if risen && tops.top.0[l] > before.0[l] {
            tops.sum[l] *= f64::from(factors.0[l]);
        }
        tops.sum[l] += f64::from(sums[l]);
        if sums[l].is_nan() && tops.top.0[l] == f32::NEG_INFINITY {
            tops.top.0[l] = 0.0; // NaN must propagate, also where every other key is masked
        }
    }
    risen.then_some(factors)
}

/// `exp(x)` for `x ≤ 0`: `x = j·ln 2 + r` with an integer `j` and `|r| ≤ ln 2 / 2`, and the Taylor series of `exp(r)`
/// to degree 7, whose remainder is below 2⁻²⁷. Exactly 0 below the smallest normal number; NaN is propagated.
#[inline(always)]
fn exp_one<const FMA: bool>(x: f32) -> f32 {
    /// Adding and subtracting it rounds to an integer, which is in the low bits in between.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 as a sum of two; the first has trailing zeros, so that its product with `j` is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let fma = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
    let low = x < -87.0;
    let x = if low { -87.0 } else { x };
    let shifted = fma(x, std::f32::consts::LOG2_E, ROUND);
    let j = shifted - ROUND;
    let r = fma(j, -LN2_LOW, fma(j, -LN2_HIGH, x));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = fma(p, r, c);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if low { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_two_roundings_of_the_exponential() {
        for &isa in Isa::available() {
            let inputs: Vec<Row> = (0..4096)
                .map(|i| Row(std::array::from_fn(|l| -86.9 * (i * LANES + l) as f32 / (4096 * LANES) as f32)))
                .collect();
            let mut rows = inputs.clone();
            let mut tops = Tops { top: Row::ZERO, ..Tops::NONE };
            assert!(weights(isa, &mut rows, &mut tops).is_none(), "no logit is above the top");
            for (got, x) in rows.iter().zip(&inputs).flat_map(|(r, x)| r.0.iter().zip(&x.0)) {
                let want = f64::from(*x).exp();
                let ulps = (f64::from(*got) - want).abs() / (want * f64::from(f32::EPSILON));
                assert!(ulps <= 2.0, "exp({x}): got {got}, want {want}, {ulps} roundings away");
            }
        }
    }

    #[test]
    fn ends_of_the_range() {
        for &isa in Isa::available() {
            let mut first = Row([f32::NEG_INFINITY; LANES]);
            first.0[..4].copy_from_slice(&[0.0, -1.0, f32::NAN, -88.0]);
            let mut rows = [first, Row([f32::NEG_INFINITY; LANES])];
            rows[1].0[3] = 0.0;
            let mut tops = Tops::NONE;
            let factors = weights(isa, &mut rows, &mut tops).expect("a top has risen");
            assert_eq!(factors.0, [0.0; LANES], "nothing was weighed before");
            assert_eq!(tops.top.0[..5], [0.0, -1.0, 0.0, 0.0, f32::NEG_INFINITY]);
            assert_eq!((tops.sum[0], tops.sum[1], tops.sum[3], tops.sum[4]), (1.0, 1.0, 1.0, 0.0));
            assert!(tops.sum[2].is_nan(), "a NaN shows");
            assert_eq!((rows[0].0[3], rows[1].0[3], rows[1].0[0]), (0.0, 1.0, 0.0));
            // A later block with a larger logit: earlier sums are multiplied by e⁻¹.
            let mut next = [Row([f32::NEG_INFINITY; LANES])];
            next[0].0[1] = 0.0;
            let factors = weights(isa, &mut next, &mut tops).expect("a top has risen");
            assert!((f64::from(factors.0[1]) - (-1f64).exp()).abs() < 1e-7 && factors.0[0] == 1.0);
            assert!((tops.sum[1] - 1.0 - f64::from(factors.0[1])).abs() < 1e-7);
        }
    }
}
