//! Sums of tensor cores that are cut off instead of rounded: [`crate::Sums::Truncated`].

/// Bits that the alignment keeps behind the 24 of an f32. Fasi et al. find at least one on an A100.
const EXTRA: i32 = 1;
/// The exponent of zero, far below that of any product.
const NONE: i32 = -10_000;
/// The exponent of infinities and NaN, far above that of any product, also where the other factor is zero.
const SPECIAL: i32 = 20_000;
/// A bound below the exponents of all products, and the least exponent that f32 does not have.
const LEAST: i32 = -400;
const TOO_LARGE: i32 = 128;

/// `floor(log2 |x|)`.
fn exponent(x: f32) -> i32 {
    match (x.to_bits() >> 23 & 255) as i32 {
        255 => SPECIAL,
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

/// `out += row · b` for eight columns, in one step; `exponents` are those of `row` and `b`.
#[inline(always)]
fn step(out: &mut [f32; 8], row: &[f32], b: &[[f32; 8]], exponents: (&[i32], &[[i32; 8]])) {
    // Products are not normalised before they are aligned: their exponent is the sum of their factors' exponents.
    let mut largest = out.map(exponent);
    for (of_row, of_b) in exponents.0.iter().zip(exponents.1) {
        for (most, e) in largest.iter_mut().zip(of_b) {
            *most = (of_row + e).max(*most);
        }
    }
    if largest.iter().any(|e| *e >= TOO_LARGE) {
        for (x, column) in row.iter().zip(b) {
            out.iter_mut().zip(column).for_each(|(sum, y)| *sum += x * y);
        }
        return;
    }
    let scale = largest.map(|e| power(23 + EXTRA - e.max(LEAST)));
    // Below 2^26, and the sum of nine of them below 2^30.
    let aligned = |x: f64, scale: f64| (x * scale) as i32;
    let mut sums = [0; 8];
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum = aligned(out[j].into(), scale[j]);
    }
    for (x, column) in row.iter().zip(b) {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum += aligned(f64::from(*x) * f64::from(column[j]), scale[j]);
        }
    }
    for (j, sum) in sums.into_iter().enumerate() {
        out[j] = cut(f64::from(sum) / scale[j]);
    }
}

/// `acc += a b`, `block` products at a time.
pub(super) fn multiply(acc: &mut [[f32; 8]; 16], a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], depth: usize, block: usize) {
    let of_b = b.map(|column| column.map(exponent));
    for (out, row) in acc.iter_mut().zip(a) {
        let of_row = row.map(exponent);
        for at in (0..depth).step_by(block).map(|from| from..from + block) {
            step(out, &row[at.clone()], &b[at.clone()], (&of_row[at.clone()], &of_b[at]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `c` plus products.
    fn sum(c: f32, products: &[(f32, f32)]) -> f32 {
        let (mut acc, mut a, mut b) = ([[0.0; 8]; 16], [[0.0; 16]; 16], [[0.0; 8]; 16]);
        acc[3][5] = c;
        for (k, (x, y)) in products.iter().enumerate() {
            (a[3][k], b[k][5]) = (*x, *y);
        }
        multiply(&mut acc, &a, &b, 8, 8);
        acc[3][5]
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
        assert!(sum(1.0, &[(f32::NAN, 0.0)]).is_nan() && sum(1.0, &[(f32::INFINITY, 0.0)]).is_nan());
        let least = f32::from_bits(1);
        assert_eq!(sum(least, &[(least, 1.0)]), 2.0 * least);
        assert_eq!(sum(0.0, &[(least, least)]), 0.0);
        assert_eq!(sum(f32::MAX, &[(-f32::MAX, 1.0)]), 0.0);
    }
}
