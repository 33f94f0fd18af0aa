//! Integration tests, one binary: each module is a room of the house.

mod augment;
mod batch_norm;
mod cache;
mod checkpoint;
mod classes;
mod cli;
mod close;
mod conv3d;
mod conv3d_gpu;
mod device;
mod eval;
mod examples;
mod ffmpeg;
mod flow;
mod grad;
mod infonce_gpu;
mod kernels;
mod layers;

mod losses;
mod maclr;
mod matmul_gpu;
mod motion;
mod networks;
mod no_gpu;
mod pool3d;
mod ptx;
mod queue;
mod sim;
mod summed;
mod tape;
mod tvl1_gpu;
mod updates;
mod video;
