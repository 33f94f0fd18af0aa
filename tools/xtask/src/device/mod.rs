//! Device code: `cuda/<family>.cu` is compiled to `ptx/<family>.sm_80.ptx`, with a manifest of the inputs.

mod assemble;
mod build;
mod check;
mod committed;
mod family;
pub mod kernels;
mod listing;
mod nvrtc;
mod occupancy;
mod sass;
mod tools;

pub use build::{build, chosen};
pub use check::{Checked, check};
pub use committed::problems;
pub use family::{Family, Manifest, families};
pub use tools::{INSTALL, Tools};

use sha2::{Digest, Sha256};

/// The sha256 of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
