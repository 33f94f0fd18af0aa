//! The one error type. It is pointer-sized, opaque, and its [`ErrorKind`] says which sort of mistake was made.
//!
//! Every message is a full sentence with the values in it, so that an example can print it as it is.

use std::fmt;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Match on [`Error::kind`].
pub struct Error(Box<ErrorKind>);

/// What went wrong, with the values needed to mend it.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument of an operation has a shape it cannot have.
    Shape {
        /// The operation, e.g. `conv3d`.
        op: &'static str,
        /// The argument, e.g. `w`.
        arg: &'static str,
        /// The rule, in words or letters.
        expected: String,
        /// The shape that came.
        got: String,
    },
    /// A parameter is outside of what the operation accepts.
    Param {
        /// The operation or option group.
        op: &'static str,
        /// The parameter's name.
        name: &'static str,
        /// The value that came.
        value: String,
        /// The rule it breaks.
        rule: String,
    },
    /// An argument has a number type the operation does not take.
    DType {
        /// The operation.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// The types accepted.
        expected: &'static str,
        /// The type that came.
        got: &'static str,
    },
    /// A gradient of this operation's gradient was asked for and is not defined.
    NoSecondOrder {
        /// The operation.
        op: &'static str,
    },
    /// A file does not hold what its format demands.
    Format {
        /// The file.
        path: PathBuf,
        /// Byte offset (or line, for text) where it was noticed.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The operating system refused something.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, e.g. `write`.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An outside program (`ffmpeg`, `ffprobe`) is absent, failed or hung.
    Program {
        /// The program.
        program: &'static str,
        /// What happened and what to do about it.
        what: String,
    },
    /// The data set cannot serve what was asked of it.
    Data {
        /// The folder, list or clip.
        path: PathBuf,
        /// Why, and what would do.
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
    /// Another process holds the folder.
    Locked {
        /// The folder.
        path: PathBuf,
        /// Process id of the holder, where known.
        holder: Option<u32>,
    },
    /// There is no GPU to be had: no driver, one too old, or no device.
    NoDriver {
        /// What was looked for, what was found, and what to do.
        what: String,
    },
    /// The driver refused something, or an earlier launch failed.
    Driver {
        /// What was being done, e.g. `load a module`.
        action: &'static str,
        /// The driver's reason, with its compiler's log where there is one.
        what: String,
    },
    /// The device has no memory left.
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        asked: usize,
        /// Bytes in use by this process's tensors.
        live: usize,
    },
    /// An argument lives on another device than the first one, or on one that the operation cannot use.
    Device {
        /// The operation.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// Where it must be.
        expected: String,
        /// Where it is.
        got: String,
    },
    /// The work was asked to stop and did.
    Stopped {
        /// The folder or file of the work.
        path: PathBuf,
        /// What is kept of it, and how it is taken up again.
        what: String,
    },
}

impl Error {
    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0
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
        ErrorKind::Format { path: path.as_ref().to_owned(), offset, what: what.to_string() }.into()
    }

    pub(crate) fn data(path: impl AsRef<Path>, what: impl fmt::Display) -> Self {
        ErrorKind::Data { path: path.as_ref().to_owned(), what: what.to_string() }.into()
    }

    #[cfg(feature = "video")]
    pub(crate) fn program(program: &'static str, what: impl fmt::Display) -> Self {
        ErrorKind::Program { program, what: what.to_string() }.into()
    }

    #[cfg(feature = "cuda")]
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

    pub(crate) fn stopped(path: impl AsRef<Path>, what: impl fmt::Display) -> Self {
        ErrorKind::Stopped { path: path.as_ref().to_owned(), what: what.to_string() }.into()
    }

    /// For `map_err`: `std::fs::read(p).map_err(Error::io("read", p))`.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| ErrorKind::Io { path, action, source }.into()
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
            ErrorKind::Format { path, offset, what } => {
                write!(f, "{}: {what} (at {offset})", path.display())
            }
            ErrorKind::Io { path, action, source } => {
                write!(f, "cannot {action} {}: {source}", path.display())
            }
            ErrorKind::Program { program, what } => write!(f, "{program}: {what}"),
            ErrorKind::Data { path, what } => write!(f, "{}: {what}", path.display()),
            ErrorKind::NotFinite { name, step, value } => {
                write!(f, "{name} became {value} at step {step}")
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
            ErrorKind::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
