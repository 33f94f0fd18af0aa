//! The nightly toolchain, for features that the stable one lacks.

use anyhow::{Result, ensure};
use std::process::Command;

/// `cargo` of the nightly toolchain.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(args);
    // Variables set by the `cargo` that started this program would select its own toolchain.
    ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "LD_LIBRARY_PATH"].iter().for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// Whether `cargo` of the nightly toolchain supports this command.
pub fn has(args: &[&str]) -> bool {
    cargo(args).output().is_ok_and(|out| out.status.success())
}

/// Checks that there is a nightly toolchain.
///
/// # Errors
/// When there is none: `what` is what needs it.
pub fn require(what: &str) -> Result<()> {
    ensure!(
        has(&["--version"]),
        "{what} needs a nightly compiler, and `rustup run nightly cargo` is not there: `rustup toolchain install nightly` gets it"
    );
    Ok(())
}
