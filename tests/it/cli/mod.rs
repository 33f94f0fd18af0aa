//! Programs: the examples, and what `cargo xtask` runs.

pub mod cache;
pub mod check_data;
pub mod evaluate;
pub mod examples;
pub mod extract_flow;
pub mod finetune;
pub mod fuzz_corpus;
pub mod going_on;
pub mod motion_similarity;
pub mod options;
pub mod pack;
pub mod penalty;
pub mod pretrain;
pub mod ranks;
pub mod ranks_with_labels;
pub mod refused_resume;
pub mod signals;
pub mod unlabelled;
pub mod versus;
pub mod weights;
