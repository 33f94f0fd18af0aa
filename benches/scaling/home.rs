//! The folder that relative paths on the command line refer to.

use std::path::Path;

/// Changes to the repository's folder, since cargo starts a bench in the folder of its manifest. A program started
/// without cargo stays in its current folder.
pub fn go() -> std::io::Result<()> {
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(package) => std::env::set_current_dir(Path::new(&package).join("..")),
        None => Ok(()),
    }
}
