//! Running a method: the loop, its schedule, its files.

pub mod checkpoint;
pub mod folder;
pub mod metrics;
pub mod schedule;
