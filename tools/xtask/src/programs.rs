//! The examples as programs, for the commands that run them as a user would.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that has them: `given` (`--programs`), or that of a release build, which is made.
///
/// # Errors
/// When `given` cannot be read, or the examples do not build.
pub(crate) fn folder(root: &Path, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = given {
        return folder.canonicalize().with_context(|| format!("--programs {}", folder.display()));
    }
    let built = Command::new("cargo").args(["build", "--release", "--examples"]).current_dir(root).status()?;
    ensure!(built.success(), "the examples do not build");
    Ok(root.join("target/release/examples"))
}
