//! Several ranks.

mod law;
pub mod nccl;
mod overlap;
mod tcp;
