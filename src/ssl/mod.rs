//! Self-supervised methods: losses and the state they keep between steps. No file access, no clocks.

pub mod alignment;
pub mod capture;
pub mod maclr;
pub mod mcl;
mod objective;
pub mod pathway;
pub mod queue;
pub mod report;
mod step;
