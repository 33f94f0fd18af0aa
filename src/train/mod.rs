//! Checkpoints.

pub mod checkpoint;
