//! Convolutions in tiles of bf16.

pub(super) mod correlate;
mod correlate_flat;
pub(super) mod correlate_operands;
mod correlate_pack;
