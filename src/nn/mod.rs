//! Networks: parameters, and immutable layers that refer to them by id.
//!
//! A network consists of two things. Its *structure* ([`Trunk`], [`Encoder`], [`Classifier`]) holds kernel extents,
//! strides and [`ParamId`]s and never changes; its [`Params`] are the named numbers. A query encoder and a key encoder
//! are one structure with two [`Params`]. A [`Pass`] combines structure, parameters and a tape for one forward pass:
//!
//! ```
//! use tubelet::nn::{Encoder, Mode, Pass, SmallR3d};
//! use tubelet::tape::{Tape, Var};
//! use tubelet::tensor::Tensor;
//! let (encoder, mut params) = Encoder::new(&SmallR3d::default().net()?, 64, 32, 7)?;
//! let tape = Tape::no_grad();
//! let clips = Var::constant(Tensor::zeros([2, 8, 32, 32, 3])); // n t h w c
//! let codes = encoder.forward(&mut Pass::new(&tape, &mut params, Mode::Eval), &clips)?;
//! assert_eq!(codes.shape().dims(), [2, 32]);
//! # Ok::<(), tubelet::error::Error>(())
//! ```
//!
//! The published networks and the small ones are tables of stages, in [`nets`].

mod arch;
mod backbone;
mod block;
mod build;
mod conv;
mod head;
mod layers;
mod mcl;
pub mod nets;
mod norm;
mod p3d;
mod params;
mod pass;
mod precision;
mod recompute;

pub use arch::{ARCHES, Arch};
pub use backbone::Trunk;
pub use block::{Block, ConvNorm, Grid};
pub use build::Builder;
pub use conv::{Conv, ConvSpec};
pub use head::{Classifier, Encoder, HeadSpec, ProjectionHead, dropout};
pub use layers::{BlockLayers, Layer, Layers, MOST_PARAMETERS, Shortcut};
pub use mcl::{Codes, MclEncoder};
pub use nets::{Net, SmallR3d};
pub use norm::Norm;
pub use p3d::P3d;
pub use params::{Param, ParamId, Params, Role};
pub use pass::{Mode, Pass};
pub use precision::Precision;
