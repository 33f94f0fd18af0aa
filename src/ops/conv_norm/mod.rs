//! A convolution fused with the batch norm before it, on the tape.
//!
//! Networks are made of `conv -> batch norm -> ReLU`. The batch norm of one convolution is the prologue of the next. In
//! the backward pass, ReLU's mask and the two sums that the batch norm's gradient begins with are the epilogue of the
//! next convolution's dgrad ([`crate::ops::conv3d::fusion`]). So the batch norm is passed on together with its result:
//! an [`Activation`] is a value, or the result of a batch norm with ReLU, which need not be stored. [`conv_norm`]
//! records the convolution of an activation.

mod grad;

pub use grad::{Activation, conv_norm};
