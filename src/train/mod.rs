//! Running a method: the loop, its schedule, its files.

mod background;
mod batch;
pub mod checkpoint;
pub mod finetune;
pub mod focus;
pub mod folder;
mod graph;
pub mod limits;
pub mod maclr;
pub mod mcl;
mod method;
pub mod metrics;
mod order;
mod owners;
mod pair;
mod part;
mod pathway;
pub mod pretrain;
pub mod recipe;
mod resume;
pub mod schedule;
mod settings;
mod share;
mod synthetic;
pub mod trace;
pub mod views;

pub use share::{Clips, Share};
