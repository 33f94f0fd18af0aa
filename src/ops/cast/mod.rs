//! Conversion between data types. The eager function is [`crate::tensor::Tensor::cast`].
//!
//! ```
//! use tubelet::{DType, Tape, Tensor, ops};
//! let t = Tape::new();
//! let x = t.leaf(Tensor::full([3], 1.0 / 3.0));
//! assert_eq!(ops::cast(&t, &x, DType::BF16)?.value().load()?[..], [0.333_984_38; 3]); // 8 significant bits
//! # Ok::<(), tubelet::Error>(())
//! ```

mod grad;

pub use grad::cast;
