//! `exp` over a row of logits, written so that the compiler turns it into vector instructions.

/// Logits of one row lie in a multiple of this many places.
pub(super) const LANES: usize = 16;

/// The largest element. A NaN is passed over here and shows in the exponential.
pub(super) fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for part in row.chunks_exact(LANES) {
        for (l, v) in lanes.iter_mut().zip(part) {
            *l = l.max(*v);
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces every element `v` by `exp(v - top)`, where `top` is none smaller, and returns the sum.
pub(super) fn exp(row: &mut [f32], top: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            return unsafe { exp_avx512(row, top) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            return unsafe { exp_avx2(row, top) };
        }
    }
    exp_lanes::<false>(row, top)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn exp_avx512(row: &mut [f32], top: f32) -> f32 {
    exp_lanes::<true>(row, top)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn exp_avx2(row: &mut [f32], top: f32) -> f32 {
    exp_lanes::<true>(row, top)
}

#[inline(always)]
fn exp_lanes<const FMA: bool>(row: &mut [f32], top: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    for part in row.chunks_exact_mut(LANES) {
        for (s, v) in sums.iter_mut().zip(part) {
            *v = exp_one::<FMA>(*v - top);
            *s += *v;
        }
    }
    sums.iter().sum()
}

/// `exp(x)` for `x ≤ 0`: `x = j·ln 2 + r` with an integer `j` and `|r| ≤ ln 2 / 2`, and Taylor's series of `exp(r)` to
/// degree 7, whose remainder is below 2⁻²⁷. Exact 0 below the smallest normal number; NaN stays NaN.
#[inline(always)]
fn exp_one<const FMA: bool>(x: f32) -> f32 {
    /// Adding and subtracting it rounds to an integer, which meanwhile is in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has trailing zeros, so that its product with `j` is exact.
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
        let inputs: Vec<f32> = (0..LANES * 4096).map(|i| -86.9 * i as f32 / (LANES * 4096) as f32).collect();
        let mut row = inputs.clone();
        exp(&mut row, 0.0);
        for (got, x) in row.iter().zip(&inputs) {
            let want = f64::from(*x).exp();
            let ulps = (f64::from(*got) - want).abs() / (want * f64::from(f32::EPSILON));
            assert!(ulps <= 2.0, "exp({x}): got {got}, want {want}, {ulps} roundings away");
        }
    }

    #[test]
    fn ends_of_the_range() {
        let mut row = [0.0f32; LANES];
        row[..4].copy_from_slice(&[0.0, f32::NEG_INFINITY, f32::NAN, -88.0]);
        row[4..].fill(f32::NEG_INFINITY);
        assert_eq!(max(&row), 0.0);
        exp(&mut row, 0.0);
        assert_eq!((row[0], row[1], row[3]), (1.0, 0.0, 0.0));
        assert!(row[2].is_nan());
    }
}
