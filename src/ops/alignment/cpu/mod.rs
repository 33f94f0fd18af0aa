//! The map in f32, frame by frame; the losses in f64, sample by sample. Both are independent of each other, so the thread
//! count cannot matter.

pub(super) mod cosines;
pub(super) mod map;
