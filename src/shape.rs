//! Shapes, the output arithmetic of convolutions and pools, and the limits of all numbers of a shape or a window, which
//! ensure that no product of them overflows.

use crate::error::{Error, Result};
use std::fmt;

/// Up to five extents, outermost first. Activations are `n t h w c`, filters `k kt kh kw c`. Tensors are contiguous, so
/// there are no strides.
///
/// A shape can have any extents. Constructors of tensors, and operations that take a shape as an argument, check it
/// with [`Shape::check`], so the shape of a tensor is always within the limits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 5],
    rank: u8,
}

impl Shape {
    /// The maximum number of extents.
    pub const MAX_RANK: usize = 5;

    /// The maximum number of elements of a tensor, where extents of 0 count as 1: 2⁴⁸ on 64-bit machines. The extents
    /// of such a shape can be multiplied in any order and by any small number without overflow.
    pub const MAX_LEN: usize = if usize::BITS >= 64 { 1 << (usize::BITS - 16) } else { 1 << 26 };

    /// A shape of at most five extents.
    ///
    /// # Panics
    /// With more than five extents, which is a bug in the program, not in its input.
    #[must_use]
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
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// Number of extents.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements. If that exceeds what memory can address it is `usize::MAX`: no tensor has such a shape, and
    /// [`Shape::checked_len`] returns `None`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.checked_len().unwrap_or(usize::MAX)
    }

    /// Number of elements of a shape that a tensor can have; `None` beyond [`Shape::MAX_LEN`].
    #[must_use]
    pub fn checked_len(&self) -> Option<usize> {
        let all = self.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
        (all <= Self::MAX_LEN).then(|| if self.dims().contains(&0) { 0 } else { all })
    }

    /// Checks that a tensor can have this shape.
    ///
    /// # Errors
    /// `Shape`, naming `op` and `arg`, when there are more than [`Shape::MAX_LEN`] elements, extents of 0 counted as 1.
    pub fn check(self, op: &'static str, arg: &'static str) -> Result<Shape> {
        match self.checked_len() {
            Some(_) => Ok(self),
            None => Err(Error::shape(op, arg, format!("of at most {} elements", Self::MAX_LEN), self)),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dims().contains(&0)
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

    /// The innermost extent (channels); 1 for a scalar.
    #[must_use]
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

/// Stride, padding and dilation of a convolution or a pool, per axis `t h w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Window {
    /// Distance between outputs.
    pub stride: [usize; 3],
    /// Zeros (for a maximum: minus infinities) added before and after each axis.
    pub pad: [usize; 3],
    /// Distance between taps.
    pub dilation: [usize; 3],
}

impl Window {
    /// The maximum stride, padding, dilation and extent of a kernel. An input with its padding is at most four times as
    /// long: coordinates then fit into signed 32-bit integers.
    pub const MAX: usize = 1 << 24;

    /// Stride 1, no padding, no dilation.
    pub const UNIT: Window = Window { stride: [1; 3], pad: [0; 3], dilation: [1; 3] };

    /// Stride 1 and the padding with which an odd `kernel` keeps the extents.
    #[must_use]
    pub const fn same(kernel: [usize; 3]) -> Self {
        Window { stride: [1; 3], pad: [kernel[0] / 2, kernel[1] / 2, kernel[2] / 2], dilation: [1; 3] }
    }

    /// The same window with another stride.
    #[must_use]
    pub const fn strided(mut self, stride: [usize; 3]) -> Self {
        self.stride = stride;
        self
    }

    /// Output extents for input extents `t h w` and kernel `kt kh kw`:
    /// `floor((extent + 2 pad - dilation (kernel - 1) - 1) / stride) + 1`.
    ///
    /// # Errors
    /// `Param` when a stride, dilation or kernel extent is 0, one of the numbers is larger than [`Window::MAX`] (for an
    /// input: than twice that), or the kernel is larger than the padded input.
    pub fn out(&self, op: &'static str, input: [usize; 3], kernel: [usize; 3]) -> Result<[usize; 3]> {
        let within = |name: &'static str, v: [usize; 3], least: usize, most: usize| match v {
            v if v.iter().all(|v| (least..=most).contains(v)) => Ok(()),
            [a, b, c] => {
                let rule = format!("each must be from {least} to {most}");
                Err(Error::param(op, name, format!("{a} {b} {c}"), rule))
            }
        };
        within("stride", self.stride, 1, Self::MAX)?;
        within("pad", self.pad, 0, Self::MAX)?;
        within("dilation", self.dilation, 1, Self::MAX)?;
        within("kernel", kernel, 1, Self::MAX)?;
        within("input extents", input, 0, 2 * Self::MAX)?;
        let mut out = [0; 3];
        for (a, o) in out.iter_mut().enumerate() {
            // At most 2^26 for what fits; below 2^49 for what does not.
            let span = self.dilation[a] as u64 * (kernel[a] as u64 - 1) + 1;
            let padded = input[a] + 2 * self.pad[a];
            if (padded as u64) < span {
                return Err(Error::param(
                    op,
                    "kernel",
                    format!("{kernel:?} with dilation {:?}", self.dilation),
                    format!("it must fit into the input {input:?} padded by {:?}", self.pad),
                ));
            }
            *o = (padded - span as usize) / self.stride[a] + 1;
        }
        Ok(out)
    }
}
