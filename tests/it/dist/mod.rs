//! Several ranks.

mod law;
pub mod nccl;
mod overlap;
mod sync_bn;
mod tcp;
