//! Floating-point formats and rounding into them.

use crate::types::Round;

/// A binary format narrower than f64: fraction bits and exponent bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    fraction: u32,
    exponent: u32,
}

pub(crate) const F32: Format = Format { fraction: 23, exponent: 8 };
pub(crate) const F16: Format = Format { fraction: 10, exponent: 5 };
pub(crate) const BF16: Format = Format { fraction: 7, exponent: 8 };

/// The bits of `value + tail` rounded once to a format. `tail` is the error of rounding an exact result to f64: only
/// its sign is used, and it is less than half a unit in the last place of `value`. NaN becomes the canonical NaN (all
/// bits set but the sign), as PTX requires.
pub(crate) fn round_to(value: f64, tail: f64, f: Format, mode: Round) -> u32 {
    let sign = ((value.to_bits() >> 63) as u32) << (f.fraction + f.exponent);
    let infinity = ((1u32 << f.exponent) - 1) << f.fraction;
    if value.is_nan() {
        return infinity | ((1 << f.fraction) - 1);
    }
    if value.is_infinite() {
        return sign | infinity;
    }
    if value == 0.0 {
        return sign;
    }
    let negative = value < 0.0;
    let bits = value.abs().to_bits();
    let (mut e, mut m) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
    if e == 0 {
        // An f64 subnormal is far below every format here; only its being non-zero matters.
        e = 1;
    } else {
        m |= 1 << 52;
    }
    m <<= 8;
    if tail != 0.0 {
        // The exact result is slightly above or below.
        if (tail < 0.0) == negative { m |= 1 } else { m -= 1 }
    }
    // value = m · 2^(e - 1023 - 60). Align it with the grid of the format.
    let bias = (1 << (f.exponent - 1)) - 1;
    let top = 63 - m.leading_zeros() as i32;
    let exp = e - 1023 - 60 + top;
    let min = 1 - bias;
    let grid = exp.max(min) - f.fraction as i32;
    let shift = grid - (e - 1023 - 60);
    let (mut q, rest, half) = if shift <= 0 {
        (m << -shift, 0u64, 1u64)
    } else if shift > 63 {
        (0, 1, 2)
    } else {
        (m >> shift, m & ((1 << shift) - 1), 1 << (shift - 1))
    };
    let up = match mode {
        Round::Near => rest > half || (rest == half && q & 1 == 1),
        Round::Away => rest >= half && rest != 0,
        Round::Zero => false,
        Round::Down => rest != 0 && negative,
        Round::Up => rest != 0 && !negative,
    };
    q += u64::from(up);
    // q counts grid steps; the encoding of finite numbers is linear in it within a binade and carries into the exponent.
    let binade = (exp.max(min) - min) as u64;
    let code = if q >> f.fraction == 0 { q } else { (binade << f.fraction) + q };
    if code >= infinity as u64 {
        let finite = match mode {
            Round::Near | Round::Away => false,
            Round::Zero => true,
            Round::Down => !negative,
            Round::Up => negative,
        };
        return sign | if finite { infinity - 1 } else { infinity };
    }
    sign | code as u32
}

/// The exact sum of two f64, as the rounded sum and the rounding error.
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    if !s.is_finite() {
        return (s, 0.0);
    }
    let bb = s - a;
    (s, (a - (s - bb)) + (b - bb))
}

/// Changes the rounding of an f64: `value` was rounded to nearest, with the rounding error `tail`.
pub(crate) fn redirect(value: f64, tail: f64, mode: Round) -> f64 {
    if tail == 0.0 || !value.is_finite() {
        return value;
    }
    let (up, down) = (value.next_up(), value.next_down());
    match mode {
        Round::Near | Round::Away => value,
        Round::Down if tail < 0.0 => down,
        Round::Up if tail > 0.0 => up,
        Round::Zero if value > 0.0 && tail < 0.0 => down,
        Round::Zero if value < 0.0 && tail > 0.0 => up,
        _ => value,
    }
}

/// The value of an f16.
pub(crate) fn f16_value(bits: u64) -> f64 {
    let (s, e, m) = (bits >> 15 & 1, bits >> 10 & 31, bits & 1023);
    let v = match e {
        0 => m as f64 * 2f64.powi(-24),
        31 if m != 0 => f64::NAN,
        31 => f64::INFINITY,
        _ => (1.0 + m as f64 / 1024.0) * 2f64.powi(e as i32 - 15),
    };
    if s == 1 { -v } else { v }
}

/// The value of a bf16.
pub(crate) fn bf16_value(bits: u64) -> f64 {
    f32::from_bits((bits as u32) << 16) as f64
}

/// `v` as an integer, rounded.
pub(crate) fn to_integral(v: f64, mode: Round) -> f64 {
    match mode {
        Round::Near => v.round_ties_even(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
        Round::Away => v.round(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_f32_is_the_machine_s() {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        for i in 0..200_000 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Exponents around the range of f32, including subnormals and overflow.
            let v = f64::from_bits((x & !(0x7ff << 52)) | ((1023 - 155 + (i % 290)) << 52));
            assert_eq!(round_to(v, 0.0, F32, Round::Near), (v as f32).to_bits(), "{v:e}");
            let (d, u) = (round_to(v, 0.0, F32, Round::Down), round_to(v, 0.0, F32, Round::Up));
            let (d, u) = (f32::from_bits(d), f32::from_bits(u));
            assert!(d as f64 <= v && u as f64 >= v && (d == u || d.next_up() == u), "{v:e} {d:e} {u:e}");
            let z = f32::from_bits(round_to(v, 0.0, F32, Round::Zero));
            assert_eq!(z.to_bits(), if v < 0.0 { u } else { d }.to_bits());
        }
    }

    #[test]
    fn every_half_and_bfloat_survives() {
        for b in 0..=0xffffu64 {
            let h = f16_value(b);
            if !h.is_nan() {
                assert_eq!(round_to(h, 0.0, F16, Round::Near) as u64, b);
            }
            let h = bf16_value(b);
            if !h.is_nan() {
                assert_eq!(round_to(h, 0.0, BF16, Round::Near) as u64, b);
            }
        }
    }

    #[test]
    fn a_tail_breaks_ties() {
        let tie = 1.0 + 2f64.powi(-24);
        assert_eq!(round_to(tie, 0.0, F32, Round::Near), 1f32.to_bits());
        assert_eq!(round_to(tie, 1e-30, F32, Round::Near), 1f32.to_bits() + 1);
        assert_eq!(round_to(tie + 2f64.powi(-23), -1e-30, F32, Round::Near), 1f32.to_bits() + 1);
        assert_eq!(round_to(1.0, -1e-30, F32, Round::Down), 1f32.to_bits() - 1);
    }
}
