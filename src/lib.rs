//! Kernels and a small training stack for learning video representations from motion.
//!
//! Data passes through these modules from top to bottom. Each takes and returns plain values, and can be used alone.
//!
//! | module | takes | returns |
//! |---|---|---|
//! | [`video`] | files, folders of frames, procedures | clips of frames |
//! | [`flow`] with [`ops::tvl1`], [`ops::motion_map`] | pairs of frames | optical flow, motion maps, where a video moves |
//! | [`augment`] | frames and maps | the input of a network: cropped (optionally where things move), flipped, recoloured |
//! | [`tensor`], [`ops`] | numbers in `n t h w c` | numbers |
//! | [`tape`] | recorded operations | gradients of any order |
//! | [`nn`] | named parameters | networks |
//! | [`ssl`] | two networks' codes, queues of negatives | a loss |
//! | [`weights`] | files of PyTorch and safetensors | parameters of a network |
//! | [`train`] | a data set, a method | a checkpoint |
//! | [`eval`] | features | accuracy of a probe and of nearest neighbours |
//!
//! Below them: [`driver`] (GPUs), [`cpu`] (instruction sets), [`files`], [`error`], [`shape`], [`rng`]. [`interop`] adapts
//! arrays and streams of other crates.
//!
//! The modules `video`, `weights`, `train` and `eval` belong to the features `video` and `train`, GPU support to `cuda`. All are on
//! by default.

#![warn(missing_docs)]

pub use error::{Error, Result};
pub use tape::{Mode, Tape, Var};
pub use tensor::{DType, Device, Tensor};

pub mod augment;
pub mod cpu;
pub mod dist;
pub mod driver;
pub mod error;
#[cfg(feature = "train")]
pub mod eval;
pub mod files;
pub mod flow;
pub mod interop;
pub mod nn;
pub mod ops;
pub mod rng;
pub mod shape;
pub mod ssl;
pub mod tape;
pub mod tensor;
#[cfg(feature = "train")]
pub mod train;
#[cfg(feature = "video")]
pub mod video;
#[cfg(feature = "train")]
pub mod weights;

/// The examples in the README are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
