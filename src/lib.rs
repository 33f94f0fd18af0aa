//! Kernels and a small training stack for learning video representations from motion.

#![warn(missing_docs)]

pub mod augment;
pub mod error;
pub mod eval;
pub mod flow;
pub mod nn;
pub mod ops;
pub mod rng;
pub mod shape;
pub mod ssl;
pub mod tape;
pub mod tensor;
pub mod train;
pub mod video;
