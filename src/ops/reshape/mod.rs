//! The same elements in another shape. The eager function is [`crate::tensor::Tensor::reshape`].
//!
//! ```
//! use tubelet::{Tape, Tensor, ops};
//! let t = Tape::new();
//! let x = t.leaf(Tensor::zeros([2, 3, 4]));
//! assert_eq!(ops::reshape(&t, &x, [6, 4].into())?.value().dims(), [6, 4]);
//! # Ok::<(), tubelet::Error>(())
//! ```

mod grad;

pub use grad::reshape;
