//! The map in f32, one task per frame; the losses in f64, one task per sample. Tasks share no sums, so results do not
//! depend on the number of threads.

pub(super) mod cosines;
pub(super) mod map;
