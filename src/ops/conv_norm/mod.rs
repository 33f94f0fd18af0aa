//! A convolution fused with the batch norm before it, on the tape.
//!
//! Networks are made of `conv -> batch norm -> ReLU`. The batch norm of one convolution is the prologue of the next. In
//! the backward pass, ReLU's mask and the two sums that the batch norm's gradient begins with are the epilogue of the
//! next convolution's dgrad ([`crate::ops::conv3d::fusion`]). So the batch norm is passed on together with its result:
//! an [`Activation`] is a value, or the result of a batch norm with ReLU, which need not be stored. [`conv_norm`]
//! records the convolution of an activation.
//!
//! ```
//! use tubelet::ops::{Activation, conv_norm, conv3d::fusion::Epilogue};
//! use tubelet::{Tape, Tensor, shape::Window};
//! let t = Tape::new();
//! let x = Activation::from(&t.leaf(Tensor::full([1, 2, 4, 4, 8], 1.0)));
//! let w = t.leaf(Tensor::full([16, 1, 3, 3, 8], 0.1));
//! // The sums from which the next batch norm's statistics are formed come with the result.
//! let epilogue = Epilogue::Moments { parts: 1, near: &Tensor::zeros([16]) };
//! let (y, moments) = conv_norm(&t, &x, &w, &Window::same([1, 3, 3]).into(), epilogue)?;
//! assert!(y.value().dims() == [1, 2, 4, 4, 16] && moments.is_some());
//! # Ok::<(), tubelet::Error>(())
//! ```

mod grad;

pub use grad::{Activation, conv_norm};
