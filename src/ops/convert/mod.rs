//! Conversions: the same values in another data type, the same elements in another shape. The eager functions
//! are [`Tensor::cast`](crate::tensor::Tensor::cast) and [`Tensor::reshape`](crate::tensor::Tensor::reshape).
//!
//! ```
//! use tubelet::{DType, Tape, Tensor, ops};
//! let t = Tape::new();
//! let x = t.leaf(Tensor::full([2, 3, 4], 1.0 / 3.0));
//! let y = ops::reshape(&t, &x, [6, 4].into())?;
//! assert_eq!(y.value().dims(), [6, 4]);
//! assert_eq!(ops::cast(&t, &y, DType::BF16)?.value().load()?[0], 0.333_984_38); // 8 significant bits
//! # Ok::<(), tubelet::Error>(())
//! ```

mod grad;

pub use grad::{cast, reshape};
