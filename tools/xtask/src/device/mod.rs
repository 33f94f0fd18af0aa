//! Device code: the sources under `cuda/` are compiled to `ptx/<family>.sm_80.ptx`, those of families `_sm90`
//! to `.sm_90a.ptx`, with a manifest of the inputs.
//! The family of a source is its path from `cuda/`, with `_` for `/`.

mod assemble;
mod build;
mod check;
mod committed;
mod cubins;
mod family;
mod format;
pub mod kernels;
mod listing;
mod nvrtc;
mod occupancy;
mod sass;
mod tools;

pub use build::{build, chosen};
pub use check::{Checked, check};
pub use committed::problems;
pub use cubins::{architectures, cubins, line};
pub use family::{Family, Manifest, families, family_of, files, ptx_path, read_manifest};
pub use format::{Formatted, formatted};
pub use tools::{INSTALL, Tools};

use sha2::{Digest, Sha256};

/// The sha256 of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
