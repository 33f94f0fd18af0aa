//! Whether the sources under `cuda/` are formatted as `.clang-format` says.

use super::family::files;
use super::tools::{INSTALL, Tools};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// How the check went.
pub enum Formatted {
    /// clang-format ran; the files that it would change, one sentence each.
    Compared(Vec<String>),
    /// There is no clang-format of the pinned release: one sentence.
    Skipped(String),
}

/// Compares every source and header with what the pinned clang-format makes of it.
pub fn formatted(root: &Path) -> Result<Formatted> {
    let Some(program) = Tools::clang_format(root) else {
        return Ok(Formatted::Skipped(format!(
            "the pinned clang-format is absent, so the format of cuda/ was not checked; to install it: {INSTALL}"
        )));
    };
    let mut found = Vec::new();
    for file in files(root)? {
        let path = format!("cuda/{file}");
        let mut command = Command::new(&program);
        command.current_dir(root).args(["--style=file", "--output-replacements-xml", &path]);
        let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(output.status.success(), "clang-format {path}: {}", String::from_utf8_lossy(&output.stderr).trim());
        if String::from_utf8_lossy(&output.stdout).contains("<replacement ") {
            found.push(format!("{path} is not formatted: run `{} -i {path}`", program.display()));
        }
    }
    Ok(Formatted::Compared(found))
}
