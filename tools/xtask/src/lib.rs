//! The commands of `cargo xtask`, as a library, so that the repository's tests can run the same checks.

pub mod ablation;
mod arrows;
pub mod bundle;
pub mod chaos;
pub mod device;
pub mod fuzz;
pub mod maclr;
pub mod model;
pub mod mpi;
mod nightly;
pub mod pack_trial;
pub mod profile;
mod programs;
pub mod protocol;
pub mod ranks;
pub mod redraw;
pub mod sanitize;
mod source;
pub mod tidy;
pub mod transfer;
pub mod versus;
