//! Matrix product `y[m n] = op(a)[m k] · op(b)[k n]`, where `op` is the matrix or its transpose.
//!
//! Products and sums are f32 whatever the tensors' data types; a bf16 result is rounded once, at the end.
//!
//! ```
//! use tubelet::{Tensor, ops::matmul};
//! let a = Tensor::from_f32([1, 2], &[1.0, 2.0])?;
//! let b = Tensor::from_f32([3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0])?;
//! assert_eq!(matmul::forward(&a, &b, false, true)?.load()?[..], [1.0, 2.0, 3.0]); // a · bᵀ
//! # Ok::<(), tubelet::Error>(())
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod grad;
pub(crate) mod product;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub use grad::matmul;
pub(crate) use grad::matmul_as;

use crate::cpu::traffic::{self, Work};
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::{DType, Place, Tensor};

/// `op(a) · op(b)`; `ta`, `tb` say which of them is transposed. The result has the data type of `a`.
///
/// # Errors
/// `Shape` when `a` or `b` is not a matrix, the inner extents differ, or the result would exceed the maximum size of a
/// tensor; `Device` when they are on different devices; on a GPU also errors of its driver.
pub fn forward(a: &Tensor, b: &Tensor, ta: bool, tb: bool) -> Result<Tensor> {
    forward_as(a.dtype(), a, b, ta, tb)
}

/// [`forward`] with the result rounded to `dtype`: gradients of f32 weights stay f32 under bf16 activations.
///
/// # Errors
/// As [`forward`].
pub fn forward_as(dtype: DType, a: &Tensor, b: &Tensor, ta: bool, tb: bool) -> Result<Tensor> {
    let [m, k, n] = extents(a, b, ta, tb)?;
    match a.place("matmul", &[("b", b)])? {
        Place::Cpu => {
            let _pass = traffic::pass("matmul", || work([m, k, n]));
            let (av, bv) = (a.host()?, b.host()?);
            Tensor::build_as(dtype, [m, n], |y| {
                y.fill(0.0);
                cpu::add_product(y, [m, k, n], &av, ta, &bv, tb);
            })
        }
        Place::Gpu(gpu) => cuda::apply(gpu, dtype, [m, k, n], (a, ta), (b, tb)),
    }
}

/// `bias[n]` added to every row of `a · bᵀ`, in one pass over the result.
pub(super) fn apply_biased(a: &Tensor, b: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let [m, k, n] = extents(a, b, false, true)?;
    match a.place("matmul", &[("b", b), ("bias", bias)])? {
        Place::Cpu => {
            let _pass = traffic::pass("matmul", || work([m, k, n]));
            let (av, bv, bias) = (a.host()?, b.host()?, bias.host()?);
            Tensor::build_as(a.dtype(), [m, n], |y| {
                y.chunks_exact_mut(n.max(1)).for_each(|row| row.copy_from_slice(&bias));
                cpu::add_product(y, [m, k, n], &av, false, &bv, true);
            })
        }
        Place::Gpu(gpu) => cuda::apply_biased(gpu, [m, k, n], a, b, bias),
    }
}

/// The product is added to what the result is filled with first.
fn work([m, k, n]: [usize; 3]) -> Work {
    let moves = Work::wide(m * k + k * n + m * n, 2 * m * n);
    Work { flops: 2 * (m * k * n) as u64, tasks: 1, ..moves }
}

/// `m k n` of the product, with all checks.
fn extents(a: &Tensor, b: &Tensor, ta: bool, tb: bool) -> Result<[usize; 3]> {
    let turned = |[r, c]: [usize; 2], t: bool| if t { [c, r] } else { [r, c] };
    let [m, k] = turned(a.shape().matrix("matmul", "a")?, ta);
    let [kb, n] = turned(b.shape().matrix("matmul", "b")?, tb);
    if k != kb {
        let side = if tb { "columns" } else { "rows" };
        return Err(Error::shape(
            "matmul",
            "b",
            format!("of {k} {side}, the inner extent of a {}", a.shape()),
            b.shape(),
        ));
    }
    Shape::from([m, n]).check("matmul", "a · b")?;
    Ok([m, k, n])
}
