//! Sums over rows on device addresses, for programs that manage memory and streams themselves: no tensors, no allocation.
//! The gradient of a bias is the sum of `dy` over all rows.

use super::cuda::Middle;
use crate::driver::Gpu;
use crate::error::{Error, Result};
use crate::ops::addresses::{Addresses, Workspace};
use crate::tensor::DType;

/// A matrix `[rows c]` whose rows are added up: for the bias of a convolution, `rows` is `n · to · ho · wo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub c: usize,
    /// Data type of the matrix.
    pub x: DType,
    /// Data type of the sums, which are f32 until they are stored.
    pub y: DType,
}

impl Layout {
    fn sums(&self) -> Result<Middle> {
        let fits = self.rows.checked_mul(self.c).is_some_and(|n| (1..=1 << 31).contains(&n));
        if !fits {
            let rule = "it has 1 to 2³¹ elements";
            return Err(Error::param("sum_rows", "layout", format!("{} x {}", self.rows, self.c), rule));
        }
        Ok(Middle { outer: 1, rows: self.rows, c: self.c, from: self.x, to: self.y, factor: 1.0 })
    }

    /// Bytes of working space that [`sum_rows`] needs.
    ///
    /// # Errors
    /// `Param` when there are no elements, or more than 2³¹.
    pub fn workspace(&self) -> Result<usize> {
        Ok(self.sums()?.workspace())
    }
}

/// `y [c]`, the sums of the rows of `x [rows c]`, with the bits of [`super::sum_to_forward`].
///
/// # Safety
/// `x` and `y` are addresses of contiguous arrays of these extents and types on `gpu`'s device, `workspace` is memory of its
/// length there, and all of them stay valid until the work given to the stream is done.
///
/// # Errors
/// As [`Layout::workspace`]; `Param` when an address is null or not a multiple of 16 (of 256 for `workspace`), or `workspace`
/// is too short; `Driver`.
pub unsafe fn sum_rows(gpu: &Gpu, layout: &Layout, x: u64, y: u64, workspace: Workspace) -> Result<()> {
    let (sums, check) = (layout.sums()?, Addresses("sum_rows"));
    let x = check.input("x", x, layout.rows * layout.c, layout.x)?;
    let y = check.output("y", y, layout.c, layout.y)?;
    let space = check.workspace(workspace, sums.workspace())?;
    sums.launch(gpu, x, y, space)
}
