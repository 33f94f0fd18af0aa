//! Methods of self-supervised learning: their losses and their state.

pub mod queue;
