//! Convolutions in tiles of bf16.

pub(super) mod correlate;
mod correlate_flat;
mod correlate_pack;
