//! What `cargo xtask` does, as a library, so that the tests of the repository can ask the same questions.

pub mod ablation;
mod arrows;
pub mod bundle;
pub mod chaos;
pub mod device;
pub mod fuzz;
pub mod maclr;
mod nightly;
pub mod sanitize;
mod source;
pub mod tidy;
pub mod versus;
