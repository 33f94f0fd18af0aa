//! A convolution as the kernels take it: `struct Conv` of `cuda/conv3d/problem.cuh`, field by field.

use super::super::Conv3d;
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

/// The problem and how it is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Conv {
    n: u32,
    input: [u32; 3],
    out: [u32; 3],
    kernel: [u32; 3],
    stride: [u32; 3],
    pad: [u32; 3],
    dilation: [u32; 3],
    c: u32,
    k: u32,
    c_group: u32,
    k_group: u32,
    pub(super) c_row: u32,
    pub(super) k_row: u32,
    tap_every: [u32; 3],
    tap_move: [u32; 3],
    grid: [[Divisor; 2]; 3],
    pub(super) column_tiles: u32,
    pub(super) group_tiles: u32,
    pub(super) group_rows: u32,
    pub(super) split: u32,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Conv {
    /// The problem, undivided. `backward`: its rows are inputs (dgrad), not outputs.
    pub(super) fn new(p: &Conv3d, backward: bool) -> Self {
        let three = |v: [usize; 3]| v.map(|v| v as u32);
        let window = &p.geometry.window;
        let axis = |f: &dyn Fn(usize, usize, usize) -> usize| {
            [0, 1, 2].map(|a| f(a, window.stride[a], gcd(window.stride[a], window.dilation[a])) as u32)
        };
        let grid = [0, 1, 2].map(|a| {
            let s = window.stride[a];
            let [more, fewer] = if backward { [p.input[a] / s + 1, p.input[a] / s] } else { [p.out[a]; 2] };
            [Divisor::new(more), Divisor::new(fewer)]
        });
        Conv {
            n: p.n as u32,
            input: three(p.input),
            out: three(p.out),
            kernel: three(p.kernel),
            stride: three(window.stride),
            pad: three(window.pad),
            dilation: three(window.dilation),
            c: p.c as u32,
            k: p.k as u32,
            c_group: p.c_group() as u32,
            k_group: p.k_group() as u32,
            c_row: p.c as u32,
            k_row: p.k as u32,
            tap_every: axis(&|_, s, g| s / g),
            tap_move: axis(&|a, _, g| window.dilation[a] / g),
            grid,
            column_tiles: 1,
            group_tiles: 1,
            group_rows: 0,
            split: 0,
        }
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
