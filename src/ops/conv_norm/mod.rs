//! Convolution where it meets batch normalisation, on the tape.
//!
//! A network is made of `conv -> batch norm -> ReLU`. The batch norm of one convolution is the prologue of the next, and in
//! the backward pass ReLU's mask and the two sums that the batch norm's gradient begins with are the epilogue of the next
//! convolution's dgrad ([`crate::ops::conv3d::fusion`]). So the layer travels with its result: an [`Activation`] is a value,
//! or the result of a batch norm with ReLU, which need not be in memory. [`conv_norm`] records the convolution of one.

mod grad;

pub use grad::{Activation, conv_norm};
