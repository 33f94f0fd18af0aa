//! The results of instructions for one lane.

pub(crate) mod bits;
pub(crate) mod float;
pub(crate) mod format;
