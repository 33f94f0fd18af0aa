//! The error type. It is pointer-sized and opaque; its [`ErrorKind`] says what went wrong.
//!
//! Every message is a complete sentence with the values in it, so that a program can print it as it is.

use std::fmt;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Match on [`Error::kind`].
pub struct Error(Box<ErrorKind>);

/// What went wrong, with the values needed to fix it.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument of an operation has an invalid shape.
    Shape {
        /// The operation, e.g. `conv3d`.
        op: &'static str,
        /// The argument, e.g. `w`.
        arg: &'static str,
        /// The rule, in words or letters.
        expected: String,
        /// The shape that was passed.
        got: String,
    },
    /// A parameter is outside the range that the operation accepts.
    Param {
        /// The operation or option group.
        op: &'static str,
        /// The parameter's name.
        name: &'static str,
        /// The value that was passed.
        value: String,
        /// The rule it breaks.
        rule: String,
    },
    /// An argument has a data type that the operation does not support.
    DType {
        /// The operation.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// The types accepted.
        expected: &'static str,
        /// The type that was passed.
        got: &'static str,
    },
    /// A second-order gradient of this operation was requested, but is not defined.
    NoSecondOrder {
        /// The operation.
        op: &'static str,
    },
    /// A file does not conform to its format.
    Format {
        /// The file.
        path: PathBuf,
        /// Byte offset (or line, for text) where it was noticed, if `what` does not say it and it helps to find the fault.
        offset: Option<u64>,
        /// What is wrong there.
        what: String,
    },
    /// A system call failed.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, e.g. `write`.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An external program (`ffmpeg`, `ffprobe`) is missing, failed or hung.
    Program {
        /// The program.
        program: &'static str,
        /// What happened and what to do about it.
        what: String,
        /// The system's reason, if the program could not be run or its output could not be read.
        source: Option<std::io::Error>,
    },
    /// The data set cannot provide what was requested.
    Data {
        /// The folder, list or clip.
        path: PathBuf,
        /// Why, and what would help.
        what: String,
    },
    /// A number that must be finite is not.
    NotFinite {
        /// The quantity, e.g. `loss`.
        name: &'static str,
        /// The optimiser step, counted from 0.
        step: u64,
        /// The value.
        value: f64,
    },
    /// Another process has locked the folder.
    Locked {
        /// The folder.
        path: PathBuf,
        /// Process id of that process, if known.
        holder: Option<u32>,
    },
    /// No GPU can be used: there is no driver, it is too old, or there is no device.
    NoDriver {
        /// What was looked for, what was found, and what to do.
        what: String,
    },
    /// The driver reported an error, or an earlier launch failed.
    Driver {
        /// What was being done, e.g. `load a module`.
        action: &'static str,
        /// The driver's reason, with its compiler's log if there is one.
        what: String,
    },
    /// The device has no memory left.
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes requested.
        asked: usize,
        /// Bytes in use by this process's tensors.
        live: usize,
    },
    /// An argument is on another device than the first one, or on one that the operation does not support.
    Device {
        /// The operation.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// The device where it must be.
        expected: String,
        /// The device where it is.
        got: String,
    },
    /// Processes that train together do not find each other, or one of them has ended or hangs.
    Peer {
        /// Which rank, and what happened to it.
        what: String,
    },
    /// The work was interrupted on request.
    Stopped {
        /// The folder or file of the work.
        path: PathBuf,
        /// What was saved, and how to resume it.
        what: String,
    },
}

impl Error {
    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0
    }

    /// Whether the machine failed, and not the file that was read: no descriptors, processes or memory are left, the
    /// disk is full or broken, a program cannot be run. Another file would meet the same, and the same file may well be
    /// read when the machine has recovered, so work on many files ends with such an error instead of skipping the file.
    #[must_use]
    pub fn is_of_the_machine(&self) -> bool {
        match self.kind() {
            ErrorKind::Io { source, .. } => !is_of_a_file(source),
            ErrorKind::Program { source, .. } => source.is_some(),
            ErrorKind::NoDriver { .. } | ErrorKind::Driver { .. } | ErrorKind::OutOfMemory { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn shape(
        op: &'static str,
        arg: &'static str,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        ErrorKind::Shape { op, arg, expected: expected.to_string(), got: got.to_string() }.into()
    }

    pub(crate) fn param(
        op: &'static str,
        name: &'static str,
        value: impl fmt::Display,
        rule: impl fmt::Display,
    ) -> Self {
        ErrorKind::Param { op, name, value: value.to_string(), rule: rule.to_string() }.into()
    }

    pub(crate) fn format(path: impl AsRef<Path>, offset: u64, what: impl fmt::Display) -> Self {
        ErrorKind::Format { path: path.as_ref().to_owned(), offset: Some(offset), what: what.to_string() }.into()
    }

    /// A file whose content is wrong as a whole, or in what `what` names: no offset would tell more.
    pub(crate) fn content(path: impl AsRef<Path>, what: impl fmt::Display) -> Self {
        ErrorKind::Format { path: path.as_ref().to_owned(), offset: None, what: what.to_string() }.into()
    }

    pub(crate) fn data(path: impl AsRef<Path>, what: impl fmt::Display) -> Self {
        ErrorKind::Data { path: path.as_ref().to_owned(), what: what.to_string() }.into()
    }

    #[cfg(feature = "video")]
    pub(crate) fn program(program: &'static str, what: impl fmt::Display) -> Self {
        ErrorKind::Program { program, what: what.to_string(), source: None }.into()
    }

    /// A program that could not be run, for the reason `source`.
    #[cfg(feature = "video")]
    pub(crate) fn not_run(program: &'static str, what: impl fmt::Display, source: std::io::Error) -> Self {
        ErrorKind::Program { program, what: what.to_string(), source: Some(source) }.into()
    }

    pub(crate) fn driver(action: &'static str, what: impl fmt::Display) -> Self {
        ErrorKind::Driver { action, what: what.to_string() }.into()
    }

    pub(crate) fn device(
        op: &'static str,
        arg: &'static str,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        ErrorKind::Device { op, arg, expected: expected.to_string(), got: got.to_string() }.into()
    }

    #[cfg(feature = "video")]
    pub(crate) fn stopped(path: impl AsRef<Path>, what: impl fmt::Display) -> Self {
        ErrorKind::Stopped { path: path.as_ref().to_owned(), what: what.to_string() }.into()
    }

    /// For `map_err`: `std::fs::read(p).map_err(Error::io("read", p))`.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| ErrorKind::Io { path, action, source }.into()
    }
}

/// Whether a system call failed because of the file it was given. A list of these is short and known; of all that can
/// be wrong with a machine it is not.
fn is_of_a_file(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::*;
    let kinds = [
        NotFound,
        PermissionDenied,
        NotADirectory,
        IsADirectory,
        InvalidFilename,
        InvalidInput,
        InvalidData,
        UnexpectedEof,
    ];
    // The kind of a circle of links is not stable yet.
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(libc::ELOOP)
}

/// The result of reading one file of many: `None` where it cannot be read.
///
/// # Errors
/// Those [of the machine](Error::is_of_the_machine).
#[cfg(feature = "video")]
pub(crate) fn unless_of_the_machine<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_of_the_machine() => Err(e),
        Err(_) => Ok(None),
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Error(Box::new(kind))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            ErrorKind::Shape { op, arg, expected, got } => {
                write!(f, "{op}: `{arg}` must be {expected}, but it is {got}")
            }
            ErrorKind::Param { op, name, value, rule } => {
                write!(f, "{op}: {name} = {value}, but {rule}")
            }
            ErrorKind::DType { op, arg, expected, got } => {
                write!(f, "{op}: `{arg}` must be of type {expected}, but it is {got}")
            }
            ErrorKind::NoSecondOrder { op } => {
                write!(f, "{op}: the gradient of its gradient is not defined")
            }
            ErrorKind::Format { path, offset: Some(offset), what } => {
                write!(f, "{}: {what} (at {offset})", path.display())
            }
            ErrorKind::Format { path, offset: None, what } => write!(f, "{}: {what}", path.display()),
            ErrorKind::Io { path, action, source } => {
                write!(f, "cannot {action} {}: {source}", path.display())
            }
            ErrorKind::Program { program, what, .. } => write!(f, "{program}: {what}"),
            ErrorKind::Data { path, what } => write!(f, "{}: {what}", path.display()),
            ErrorKind::NotFinite { name, step, value } => {
                write!(f, "{name} became {value} at step {step}: ")?;
                f.write_str(match step {
                    0 => "the weights that training started from (--init) do not fit clips with these colours, or are damaged",
                    _ => "a lower learning rate (--lr) may help",
                })
            }
            ErrorKind::Locked { path, holder: Some(pid) } => {
                write!(f, "{} is in use by process {pid}", path.display())
            }
            ErrorKind::Locked { path, holder: None } => {
                write!(f, "{} is in use by another process", path.display())
            }
            ErrorKind::NoDriver { what } => write!(f, "no GPU can be used: {what}"),
            ErrorKind::Driver { action, what } => write!(f, "the GPU's driver could not {action}: {what}"),
            ErrorKind::OutOfMemory { device, asked, live } => {
                write!(f, "{device} has no {asked} bytes left ({live} are in use); make the batch or the clips smaller")
            }
            ErrorKind::Device { op, arg, expected, got } => {
                write!(f, "{op}: `{arg}` must be on {expected}, but it is on {got}")
            }
            ErrorKind::Peer { what } => f.write_str(what),
            ErrorKind::Stopped { what, .. } => write!(f, "stopped as asked: {what}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.kind() {
            ErrorKind::Io { source, .. } | ErrorKind::Program { source: Some(source), .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn failures_of_the_machine_are_told_from_those_of_a_file() {
        let read = |source: io::Error| Error::io("read", "a.mp4")(source);
        let codes = [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM, libc::ENOSPC, libc::EFBIG, libc::EIO];
        for code in codes.into_iter().chain([libc::EDQUOT, libc::ESTALE, libc::ETIMEDOUT, libc::EROFS, libc::ENOTCONN])
        {
            let error = read(io::Error::from_raw_os_error(code));
            assert!(error.is_of_the_machine(), "{error}");
        }
        assert!(read(io::ErrorKind::OutOfMemory.into()).is_of_the_machine());
        for code in [libc::ENOENT, libc::EACCES, libc::EPERM, libc::ENOTDIR, libc::EISDIR, libc::ENAMETOOLONG] {
            let error = read(io::Error::from_raw_os_error(code));
            assert!(!error.is_of_the_machine(), "{error}");
        }
        assert!(!read(io::Error::from_raw_os_error(libc::ELOOP)).is_of_the_machine());
        assert!(!Error::data("a.mp4", "the file is empty").is_of_the_machine());
        assert!(!Error::format("a.png", 0, "cut short").is_of_the_machine());
    }

    #[test]
    fn a_place_in_a_file_is_told_where_it_helps() {
        assert_eq!(Error::format("a.pth", 8, "a cut record").to_string(), "a.pth: a cut record (at 8)");
        assert_eq!(Error::content("a.pth", "another network").to_string(), "a.pth: another network");
    }
}
