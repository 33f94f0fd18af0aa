//! A convolution as the kernels take it: `struct Conv` of `cuda/conv3d/problem.cuh`, field by field.

use super::super::Conv3d;
use crate::ops::divisor::Divisor;
use bytemuck::{Pod, Zeroable};

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

pub(super) fn gcd(a: usize, b: usize) -> usize {
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

/// The extents of a convolution that was launched, read back from the kernel's last argument: for a driver that records
/// launches.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Samples.
    pub n: usize,
    /// Extents `t h w` of `x`.
    pub input: [usize; 3],
    /// Extents `t h w` of `y`.
    pub out: [usize; 3],
    /// Extents of the filters.
    pub kernel: [usize; 3],
    /// Strides.
    pub stride: [usize; 3],
    /// Zeros before each axis.
    pub pad: [usize; 3],
    /// Distances between taps.
    pub dilation: [usize; 3],
    /// Channels of `x` and of `y`.
    pub channels: [usize; 2],
    /// The same of one group.
    pub of_group: [usize; 2],
    /// The same of a row in memory, padded.
    pub of_row: [usize; 2],
    /// Pixels that one block of wgrad adds up; 0 in the other passes.
    pub split: usize,
}

#[cfg(any(test, feature = "testing"))]
impl Launched {
    /// The operand that `pass` gathers.
    #[must_use]
    pub fn gather(&self, pass: super::super::Operator) -> super::reuse::Gather {
        let channels = self.of_row[usize::from(pass == super::super::Operator::Dgrad)];
        let Launched { input, out, kernel, stride, dilation, .. } = *self;
        super::reuse::Gather { pass, input, out, kernel, stride, dilation, channels }
    }

    /// From the bytes of the argument; `None` if they are not a convolution's.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Launched> {
        let p: Conv = bytemuck::try_pod_read_unaligned(bytes).ok()?;
        let three = |v: [u32; 3]| v.map(|v| v as usize);
        let two = |a: u32, b: u32| [a as usize, b as usize];
        Some(Launched {
            n: p.n as usize,
            input: three(p.input),
            out: three(p.out),
            kernel: three(p.kernel),
            stride: three(p.stride),
            pad: three(p.pad),
            dilation: three(p.dilation),
            channels: two(p.c, p.k),
            of_group: two(p.c_group, p.k_group),
            of_row: two(p.c_row, p.k_row),
            split: p.split as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Geometry;
    use super::*;
    use crate::shape::Window;

    #[test]
    fn a_launched_problem_is_read_back() {
        let window = Window::same([1, 3, 3]).strided([1, 2, 2]);
        let p =
            Conv3d::new("conv3d", [2, 4, 9, 8, 16].into(), [24, 1, 3, 3, 16].into(), &Geometry::from(window)).unwrap();
        let conv = Conv { c_row: 16, split: 96, ..Conv::new(&p, false) };
        let read = Launched::read(bytemuck::bytes_of(&conv)).unwrap();
        assert_eq!((read.n, read.input, read.out), (2, [4, 9, 8], [4, 5, 4]));
        assert_eq!((read.kernel, read.stride, read.pad, read.dilation), ([1, 3, 3], [1, 2, 2], [0, 1, 1], [1; 3]));
        assert_eq!((read.channels, read.of_group, read.of_row, read.split), ([16, 24], [16, 24], [16, 24], 96));
        assert_eq!(Launched::read(&[0; 8]), None);
    }
}
