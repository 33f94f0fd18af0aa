//! Several ranks.

mod law;
pub mod nccl;
pub mod overlap;
mod sync_bn;
mod tcp;
