//! The nightly compiler, for what the stable one does not do.

use anyhow::{Result, ensure};
use std::process::Command;

/// `cargo` of the nightly compiler.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(args);
    // What the `cargo` that started this program has set would choose its own compiler.
    ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "LD_LIBRARY_PATH"].iter().for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// Whether `cargo` of the nightly compiler can do this.
pub fn has(args: &[&str]) -> bool {
    cargo(args).output().is_ok_and(|out| out.status.success())
}

/// # Errors
/// When there is no nightly compiler: `what` is what needs it.
pub fn require(what: &str) -> Result<()> {
    ensure!(
        has(&["--version"]),
        "{what} needs a nightly compiler, and `rustup run nightly cargo` is not there: `rustup toolchain install nightly` gets it"
    );
    Ok(())
}
