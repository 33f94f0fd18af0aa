use std::path::Path;
use std::process::ExitCode;
pub fn write(_folder: &Path) -> ExitCode {
    ExitCode::SUCCESS
}
