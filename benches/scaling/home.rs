//! Where names of files on the command line start from.

use std::path::Path;

/// Goes to the folder of the repository: cargo starts a bench in the folder of its manifest. Started without cargo, a
/// program stays where it is.
pub fn go() -> std::io::Result<()> {
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(package) => std::env::set_current_dir(Path::new(&package).join("..")),
        None => Ok(()),
    }
}
