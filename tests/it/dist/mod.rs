//! Several ranks.

mod law;
mod overlap;
mod tcp;
