//! Operations on the CPU against their definitions.

pub mod alignment;
pub mod augment;
pub mod batch_norm;
pub mod batch_norm_moments;
pub mod batch_norm_shared;
pub mod conv3d;
pub mod conv3d_amx;
pub mod conv3d_amx_wgrad;
pub mod conv3d_bf16;
pub mod conv3d_epilogue;
pub mod conv3d_prologue;
pub mod in_order;
pub mod layers;
pub mod limits;
pub mod losses;
pub mod motion;
pub mod pool3d;
pub mod rand_augment;
pub mod tvl1;
pub mod updates;
