//! Methods, samples, the loop, checkpoints, evaluation.

pub mod background;
pub mod checkpoint;
pub mod checkpoint_damage;
pub mod eval;
pub mod finetune;
pub mod focus;
pub mod inputs;
pub mod longer;
pub mod maclr;
pub mod maclr_parity;
pub mod mcl;
pub mod mcl_graph;
pub mod mcl_parity;
pub mod mcl_samples;
pub mod memory;
pub mod queue;
pub mod resume;
pub mod saliency;
pub mod sgd_probe;
pub mod svm;
pub mod synthetic;
pub mod traffic;
