//! Running a method: the loop, its schedule, its files.

pub mod checkpoint;
pub mod focus;
pub mod folder;
pub mod maclr;
pub mod metrics;
pub mod pretrain;
pub mod recipe;
pub mod schedule;
pub mod views;
