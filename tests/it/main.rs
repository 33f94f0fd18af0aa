//! Integration tests, one binary: each module is a room of the house.

mod augment;
mod batch_norm;
mod cache;
mod checkpoint;
mod cli;
mod close;
mod conv3d;
mod eval;
mod examples;
mod ffmpeg;
mod flow;
mod grad;
mod kernels;
mod layers;
mod losses;
mod maclr;
mod motion;
mod networks;
mod no_gpu;
mod pool3d;
mod ptx;
mod queue;
mod tape;
mod updates;
mod video;
