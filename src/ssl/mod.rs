//! Methods: losses and the state they keep between steps. MaCLR and MCL train without labels, [`supervised`] with them.
//! No file access, no clocks.

pub mod alignment;
pub mod capture;
pub mod maclr;
pub mod mcl;
mod objective;
pub mod pathway;
pub mod queue;
pub mod report;
mod step;
pub mod supervised;
