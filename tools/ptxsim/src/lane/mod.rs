//! What instructions compute for one lane.

pub(crate) mod bits;
pub(crate) mod float;
pub(crate) mod format;
