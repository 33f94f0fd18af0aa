//! Methods: losses and the state they keep between steps. MaCLR and MCL train without labels, [`supervised`] with them.
//! No file access, no clocks.

pub mod alignment;
pub mod capture;
mod division;
pub mod maclr;
pub mod mcl;
mod objective;
mod over_batch;
pub mod pathway;
pub mod queue;
pub mod report;
mod step;
pub mod supervised;
pub mod traffic;

pub use division::{BatchPart, Division};
