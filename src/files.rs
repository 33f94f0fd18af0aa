//! Opening untrusted files: regular files only, of bounded size, with memory that is allocated fallibly; syncing folders.
//!
//! Every file whose name comes from outside (lists, `.flo` files, frames, caches, checkpoints) is opened here: a FIFO
//! would block the program for ever, a device has no end, and a sparse file can claim any size.

use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Result};

/// Checks that `path` leads to a regular file, before its name is passed to another reader. `what` says what the file
/// should be, with its article: `a list`.
///
/// # Errors
/// `Io` when there is nothing at `path`, `Data` when it is a folder, a FIFO, a socket or a device.
pub(crate) fn check_regular(path: impl AsRef<Path>, what: &str) -> Result<Metadata> {
    let path = path.as_ref();
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    refuse_irregular(path, what, &metadata)?;
    Ok(metadata)
}

/// Checks that the folder `dir` exists or can be created, and that files can be written into it. Nothing is created.
///
/// # Errors
/// `Data` when something that is not a folder is in the way, or the file system does not allow folders; `Io` with the
/// system's reason.
pub fn check_writable(dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    let here = |p| if p == Path::new("") { Path::new(".") } else { p };
    // A dangling link exists, too: no folder can be created with its name.
    let there = dir.ancestors().map(here).find(|p| p.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(Error::data(there, "this is not a folder"));
    }
    let Ok(name) = CString::new(there.as_os_str().as_bytes()) else {
        return Err(Error::data(dir, "no path holds a zero byte"));
    };
    // SAFETY: `access` reads the string `name`, which is zero-terminated and outlives the call.
    if unsafe { libc::access(name.as_ptr(), libc::W_OK | libc::X_OK) } != 0 {
        return Err(Error::io("write into", there)(io::Error::last_os_error()));
    }
    if is_of_the_kernel(&name) {
        let what = format!("{} belongs to the system's own files, and nothing can be written there", there.display());
        return Err(Error::data(dir, what));
    }
    Ok(())
}

/// Whether a folder is on a pseudo file system of the kernel, such as `/proc`. For the super-user `access` reports
/// those as writable.
#[cfg(target_os = "linux")]
fn is_of_the_kernel(folder: &std::ffi::CStr) -> bool {
    /// Magic numbers of proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, devpts.
    const KERNEL: [i64; 8] =
        [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270, 0x6462_6720, 0x7472_6163, 0x7363_6673, 0x1cd1];
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `statfs` reads the string `folder`, which is zero-terminated, and fills `found` if it returns 0.
    let known = unsafe { libc::statfs(folder.as_ptr(), found.as_mut_ptr()) } == 0;
    if !known {
        return false;
    }
    // SAFETY: it was filled.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "its type is another on other systems")]
    let mark = found.f_type as i64;
    KERNEL.contains(&mark)
}

#[cfg(not(target_os = "linux"))]
fn is_of_the_kernel(_: &std::ffi::CStr) -> bool {
    false
}

/// Opens the regular file at `path` for reading, and returns its length in bytes. `what` says what the file should be,
/// with its article: `a list`. It never blocks, whatever is at `path`.
///
/// # Errors
/// As [`check_regular`]; `Io` when the file cannot be opened.
pub(crate) fn open_regular(path: impl AsRef<Path>, what: &str) -> Result<(File, u64)> {
    let path = path.as_ref();
    // Checked before it is opened, because opening some devices has effects, and afterwards, because the name may
    // meanwhile lead to another file.
    check_regular(path, what)?;
    let mut options = OpenOptions::new();
    // Miri does not know these flags, and its tests open no devices.
    let flags = if cfg!(miri) { 0 } else { libc::O_NONBLOCK | libc::O_NOCTTY };
    options.read(true).custom_flags(flags);
    let file = options.open(path).map_err(Error::io("open", path))?;
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    refuse_irregular(path, what, &metadata)?;
    Ok((file, metadata.len()))
}

/// The contents of the regular file at `path`, of at most `max` bytes. `what` says what the file should be, with its
/// article: `a list`.
///
/// # Errors
/// As [`open_regular`]; `Data` when the file is longer than `max` bytes; `Io` when it cannot be read or there is no
/// memory for it.
pub(crate) fn read_bounded(path: impl AsRef<Path>, max: u64, what: &str) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let (file, length) = open_regular(path, what)?;
    let too_long = |length: u64| Err(Error::data(path, format!("{length} bytes are too many for {what}")));
    if length > max {
        return too_long(length);
    }
    let mut bytes = with_room(path, length as usize)?;
    // The limit also holds for a file that grows while it is read.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > max {
        return too_long(bytes.len() as u64);
    }
    Ok(bytes)
}

/// An empty vector with capacity for `n` values read from the file at `path`.
///
/// # Errors
/// `Io` of the kind `OutOfMemory` where there is no memory for them.
pub(crate) fn with_room<T>(path: impl AsRef<Path>, n: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(n).map_err(|_| {
        let what = format!("there is no memory for {n} values of {} bytes", size_of::<T>());
        Error::io("read", path)(io::Error::new(io::ErrorKind::OutOfMemory, what))
    })?;
    Ok(values)
}

/// Syncs `folder`, so that renames in it survive a loss of power.
#[cfg(feature = "train")]
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let open = File::open(folder).map_err(Error::io("open", folder))?;
    open.sync_all().map_err(Error::io("sync", folder))
}

fn refuse_irregular(path: &Path, what: &str, metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let is = if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Error::data(path, format!("{what} must be a regular file, but this is {is}")))
}

/// 64-bit FNV-1a, for names of files and to recognise content: the same on every machine and in every version.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_on(bytes, 0xcbf2_9ce4_8422_2325)
}

/// Continues the hash `before` with `bytes`.
pub(crate) fn fnv1a_on(bytes: &[u8], before: u64) -> u64 {
    bytes.iter().fold(before, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixListener;

    /// Any of these would block, be read without end, or fail later with an error that does not name the file.
    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let name = CString::new(fifo.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name is a C string that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        let cases = [
            (fifo.as_path(), "a FIFO"),
            (&link, "a FIFO"),
            (&socket, "a socket"),
            (dir.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
            (Path::new("/dev/null"), "a device"),
        ];
        for (path, kind) in cases {
            let error = read_bounded(path, 100, "a list").unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Data { .. }), "{error}");
            let text = format!("{}: a list must be a regular file, but this is {kind}", path.display());
            assert_eq!(error.to_string(), text);
        }
        let error = open_regular(dir.path().join("absent"), "a list").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
    }

    #[test]
    fn lengths_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_bounded(&path, 5, "a list").unwrap(), b"12345");
        let text = read_bounded(&path, 4, "a list").unwrap_err().to_string();
        assert!(text.contains("5 bytes are too many for a list"), "{text}");
        // A sparse file: it takes no space on the disk and claims four terabytes.
        File::create(&path).unwrap().set_len(4 << 40).unwrap();
        assert!(read_bounded(&path, 1 << 20, "a list").is_err());
        let error = with_room::<u64>(&path, usize::MAX / 8).unwrap_err();
        assert!(error.to_string().contains("there is no memory for"), "{error}");
    }
}
