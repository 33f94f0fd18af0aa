//! A cost model of training steps on a GPU: what is launched, what each launch costs on a device, and what the best
//! kernels would take. No number is fitted to this crate's kernels. docs/gpu.md describes it.

pub mod calibrate;
pub mod conv;
pub mod cost;
pub mod device;
pub mod fabric;
pub mod floor;
pub mod gemm;
pub mod known;
pub mod loops;
#[path = "../versus/nets.rs"]
pub mod nets;
pub mod ptx;
pub mod ranks;
pub mod recorder;
pub mod report;
pub mod single;
pub mod stem;
pub mod steps;
