//! Sums of tensor cores that are cut off instead of rounded: [`crate::Sums::Truncated`].

/// Bits that the alignment keeps behind the 24 of an f32. Fasi et al. find at least one on an A100.
const EXTRA: i32 = 1;
/// An exponent below all others: that of zero.
const NONE: i32 = -10_000;

/// `floor(log2 |x|)` of a finite number.
fn exponent(x: f32) -> i32 {
    match (x.to_bits() >> 23 & 255) as i32 {
        0 if x == 0.0 => NONE,
        0 => (x.to_bits() & 0x7f_ffff).ilog2() as i32 - 149,
        e => e - 127,
    }
}

/// `2^e`, for exponents of normal f64.
fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// `x` without what an f32 cannot hold.
fn cut(x: f64) -> f32 {
    let nearest = x as f32;
    let beyond = nearest.is_finite() && f64::from(nearest).abs() > x.abs();
    f32::from_bits(nearest.to_bits() - u32::from(beyond))
}

/// `c` plus products of `a` and `b`.
fn add(c: f32, pairs: impl Iterator<Item = (f32, f32)> + Clone) -> f32 {
    if !c.is_finite() || pairs.clone().any(|(a, b)| !a.is_finite() || !b.is_finite()) {
        return pairs.fold(c, |sum, (a, b)| sum + a * b);
    }
    // Products are not normalised before they are aligned: their exponent is the sum of their factors' exponents.
    let largest = pairs.clone().map(|(a, b)| exponent(a) + exponent(b)).fold(exponent(c), i32::max);
    if largest <= NONE / 2 {
        return c + 0.0;
    }
    let unit = power(largest - 23 - EXTRA);
    let aligned = |x: f64| (x / unit) as i64;
    let sum = pairs.fold(aligned(f64::from(c)), |sum, (a, b)| sum + aligned(f64::from(a) * f64::from(b)));
    cut(sum as f64 * unit)
}

/// `acc += a b`, `block` products at a time.
pub(super) fn multiply(acc: &mut [[f32; 8]; 16], a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], depth: usize, block: usize) {
    for (out, row) in acc.iter_mut().zip(a) {
        for (column, sum) in out.iter_mut().enumerate() {
            for from in (0..depth).step_by(block) {
                *sum = add(*sum, (from..from + block).map(|k| (row[k], b[k][column])));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(c: f32, products: &[(f32, f32)]) -> f32 {
        add(c, products.iter().copied())
    }

    const TINY: f32 = 1.0 / (1 << 24) as f32;

    #[test]
    fn results_are_cut_off_towards_zero() {
        // 2 + 3·2^-24 lies nearer to 2 + 2^-22 than to 2, the next f32 below.
        assert_eq!(sum(0.0, &[(2.0, 1.0), (3.0 * TINY, 1.0)]), 2.0);
        assert_eq!(sum(0.0, &[(-2.0, 1.0), (-3.0 * TINY, 1.0)]), -2.0);
        assert_eq!(sum(2.0, &[(4.0 * TINY, 1.0)]), 2.0 + 4.0 * TINY);
    }

    #[test]
    fn alignment_keeps_one_bit_more_and_no_second_one() {
        assert_eq!(sum(-(1.0 - TINY), &[(1.0, 1.0)]), TINY);
        assert_eq!(sum(-1.0, &[(1.0, 1.0), (TINY, 1.0)]), TINY);
        assert_eq!(sum(-1.0, &[(1.0, 1.0), (TINY, 0.5)]), 0.0);
        // A product keeps the exponent of its factors: 1.5·1.5 is aligned as 1, not as 2.
        assert_eq!(sum(-2.25, &[(1.5, 1.5), (TINY, 2.0)]), 2.0 * TINY);
    }

    #[test]
    fn small_addends_vanish_one_by_one() {
        // Together they would have been 2^-22, which an f32 near 1 holds.
        let eight = [(TINY * 0.25, 1.0); 8];
        assert_eq!(sum(1.0, &eight), 1.0);
        assert_eq!(sum(0.0, &eight), 2.0 * TINY);
    }

    #[test]
    fn special_numbers() {
        assert_eq!(sum(0.0, &[(0.0, 1.0)]).to_bits(), 0);
        assert_eq!(sum(f32::INFINITY, &[(1.0, 1.0)]), f32::INFINITY);
        assert!(sum(1.0, &[(f32::NAN, 0.0)]).is_nan());
        let least = f32::from_bits(1);
        assert_eq!(sum(least, &[(least, 1.0)]), 2.0 * least);
        assert_eq!(sum(0.0, &[(least, least)]), 0.0);
        assert_eq!(sum(f32::MAX, &[(-f32::MAX, 1.0)]), 0.0);
    }
}
