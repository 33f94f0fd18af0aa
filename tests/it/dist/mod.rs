//! Several ranks.

mod law;
mod overlap;
mod sync_bn;
mod tcp;
