//! The tape, and gradients through whole networks.

pub mod alignment_loss;
pub mod recompute;
pub mod second_order;
pub mod tape;
