//! Division on a GPU by a number that is known when a kernel is launched: `struct Divisor` of `cuda/common/divisor.cuh`.

use bytemuck::{Pod, Zeroable};

/// Division of numbers below 2³¹ by a constant, as the upper half of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Divisor {
    by: u32,
    mul: u32,
    shift: u32,
}

impl Divisor {
    /// Divides by `by`. A grid without rows has an extent of 0, which is never used as a divisor.
    pub fn new(by: usize) -> Self {
        let by = by as u32;
        if by <= 1 {
            return Divisor { by, mul: 0, shift: 0 };
        }
        // With 2^(l-1) < by <= 2^l, `mul` = ceil(2^(31+l) / by) is below 2^32 and exceeds the exact quotient by less
        // than 1. That changes n · mul / 2^(31+l) by less than 1/by for n < 2^31, so the floor is unchanged.
        let l = 32 - (by - 1).leading_zeros();
        let mul = (1u64 << (31 + l)).div_ceil(u64::from(by));
        Divisor { by, mul: mul as u32, shift: l - 1 }
    }

    /// The same arithmetic as in the kernels.
    #[cfg(test)]
    fn quotient(self, n: u32) -> u32 {
        if self.by == 1 { n } else { ((u64::from(n) * u64::from(self.mul)) >> 32) as u32 >> self.shift }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    #[test]
    fn products_divide() {
        let mut rng = stream(0, 0, 0, Purpose::Test);
        for _ in 0..1000 {
            let (by, n, q) =
                (rng.random_range(1..1u32 << 31), rng.random_range(0..1u32 << 31), rng.random_range(0..64));
            for by in [by, by % 1000 + 1, 1 << (by % 31)] {
                let at = by.saturating_mul(q).min((1 << 31) - 1);
                for n in [n, at, at.saturating_sub(1), (1 << 31) - 1] {
                    assert_eq!(Divisor::new(by as usize).quotient(n), n / by, "{n} / {by}");
                }
            }
        }
    }
}
