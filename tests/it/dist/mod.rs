//! Several ranks.

mod law;
mod tcp;
