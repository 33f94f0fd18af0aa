//! Self-supervised methods: losses and the state they carry from step to step. No files, no clocks.

mod backward;
pub mod maclr;
pub mod pathway;
pub mod queue;
pub mod report;
