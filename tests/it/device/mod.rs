//! Device code, in the simulator or on a GPU, against the CPU's and the definitions.

pub mod alignment;
pub mod augment;
pub mod conv3d;
pub mod conv3d_sm90;
pub mod cost_model;
pub mod counters;
pub mod coverage;
pub mod declarations;
pub mod host;
pub mod infonce;
pub mod instructions;
pub mod launches;
pub mod layers;
pub mod maclr;
pub mod matmul;
pub mod mcl;
pub mod motion_map;
pub mod no_gpu;
pub mod offsets;
pub mod peaks;
pub mod ptx;
pub mod raw;
pub mod raw_conv3d;
pub mod seeded_faults;
pub mod tensors;
pub mod tvl1;
