//! Kernels and a small training stack for learning video representations from motion.
//!
//! Data walks one corridor, room by room; each takes and returns plain values and can be used alone.
//!
//! | room | takes | gives |
//! |---|---|---|
//! | [`video`] | files, folders of frames, procedures | clips of frames |
//! | [`flow`] with [`ops::tvl1`], [`ops::motion_map`] | pairs of frames | optical flow, motion maps, where a video moves |
//! | [`augment`] | frames and maps | the input of a network: cropped (where things move, if wanted), flipped, coloured |
//! | [`tensor`], [`ops`] | numbers in `n t h w c` | numbers |
//! | [`tape`] | recorded operations | gradients, and gradients of gradients |
//! | [`nn`] | named parameters | networks |
//! | [`ssl`] | two networks' codes, queues of negatives | a loss |
//! | [`train`] | a data set, a method | a checkpoint |
//! | [`eval`] | features | accuracy of a probe and of nearest neighbours |
//!
//! Underneath: [`driver`] (of GPUs), [`cpu`] (its instructions), [`files`], [`error`], [`shape`], [`rng`]. Beside it: [`interop`], for arrays and streams of other crates.
//!
//! `video`, `train` and `eval` are there by the features `video` and `train`, GPUs by `cuda`; all are on by default. What is left without features needs no
//! decoder and no serialisation.

#![warn(missing_docs)]

pub mod augment;
pub mod cpu;
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

/// The examples of the README are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
