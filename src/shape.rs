//! Shapes, and the one place with the output arithmetic of convolutions and pools.

use crate::error::{Error, Result};
use serde::Serialize;
use std::fmt;

/// Up to five extents, outermost first. Activations are `n t h w c`, filters `k kt kh kw c`; contiguous is what a
/// shape means, so there are no strides.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 5],
    rank: u8,
}

impl Shape {
    /// The most extents a shape has.
    pub const MAX_RANK: usize = 5;

    /// A shape of at most five extents.
    ///
    /// # Panics
    /// With more than five extents: that is a mistake in the program, not in its input.
    pub const fn new(d: &[usize]) -> Self {
        assert!(d.len() <= 5, "a shape has at most five extents");
        let mut dims = [1; 5];
        let mut i = 0;
        while i < d.len() {
            dims[i] = d[i];
            i += 1;
        }
        Shape { dims, rank: d.len() as u8 }
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// Number of extents.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The five extents `n t h w c` of an activation, or an error naming `op` and `arg`.
    pub fn nthwc(&self, op: &'static str, arg: &'static str) -> Result<[usize; 5]> {
        if self.rank != 5 {
            return Err(Error::shape(op, arg, "n t h w c", self));
        }
        Ok(self.dims)
    }

    /// The two extents of a matrix, or an error naming `op` and `arg`.
    pub fn matrix(&self, op: &'static str, arg: &'static str) -> Result<[usize; 2]> {
        if self.rank != 2 {
            return Err(Error::shape(op, arg, "a matrix (two extents)", self));
        }
        Ok([self.dims[0], self.dims[1]])
    }

    /// The innermost extent (channels), 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(d: [usize; N]) -> Self {
        Shape::new(&d)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.dims().iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a window of a convolution or a pool moves, per axis `t h w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Window {
    /// Steps between outputs.
    pub stride: [usize; 3],
    /// Zeros (for a maximum: minus infinities) put before and after each axis.
    pub pad: [usize; 3],
    /// Steps between taps.
    pub dilation: [usize; 3],
}

impl Window {
    /// Stride 1, no padding, no dilation.
    pub const UNIT: Window = Window { stride: [1; 3], pad: [0; 3], dilation: [1; 3] };

    /// Stride 1 and the padding that keeps the extents under an odd `kernel`.
    pub const fn same(kernel: [usize; 3]) -> Self {
        Window { stride: [1; 3], pad: [kernel[0] / 2, kernel[1] / 2, kernel[2] / 2], dilation: [1; 3] }
    }

    /// The same window with another stride.
    pub const fn strided(mut self, stride: [usize; 3]) -> Self {
        self.stride = stride;
        self
    }

    /// Output extents for input extents `t h w` and kernel `kt kh kw`:
    /// `floor((extent + 2 pad - dilation (kernel - 1) - 1) / stride) + 1`.
    ///
    /// # Errors
    /// `Param` when a stride, dilation or kernel extent is 0, or when the kernel is larger than the padded input.
    pub fn out(&self, op: &'static str, input: [usize; 3], kernel: [usize; 3]) -> Result<[usize; 3]> {
        let mut out = [0; 3];
        for (a, o) in out.iter_mut().enumerate() {
            if self.stride[a] == 0 {
                return Err(Error::param(op, "stride", "0", "every stride must be at least 1"));
            }
            if self.dilation[a] == 0 {
                return Err(Error::param(op, "dilation", "0", "every dilation must be at least 1"));
            }
            if kernel[a] == 0 {
                return Err(Error::param(op, "kernel", "0", "every kernel extent must be at least 1"));
            }
            let span = self.dilation[a] * (kernel[a] - 1) + 1;
            let padded = input[a] + 2 * self.pad[a];
            if padded < span {
                return Err(Error::param(
                    op,
                    "kernel",
                    format!("{kernel:?} with dilation {:?}", self.dilation),
                    format!("it must fit into the input {input:?} padded by {:?}", self.pad),
                ));
            }
            *o = (padded - span) / self.stride[a] + 1;
        }
        Ok(out)
    }
}
