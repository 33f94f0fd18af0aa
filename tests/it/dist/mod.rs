//! Several ranks.

mod tcp;
