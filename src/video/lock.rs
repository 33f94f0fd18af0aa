//! The write lock of a cache folder: one process holds it at a time, and waiting processes are told which one. And the
//! shared lock of the readers, whose files must not be removed.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// The process that is writing to a cache, as far as known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: Option<u32>,
    /// Name of the program.
    pub program: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.program) {
            (Some(pid), Some(program)) => write!(f, "process {pid} ({program})"),
            (Some(pid), None) => write!(f, "process {pid}"),
            _ => write!(f, "another process"),
        }
    }
}

impl Holder {
    /// This process.
    fn own() -> Holder {
        let program = std::env::current_exe().ok();
        let program = program.and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        Holder { pid: Some(std::process::id()), program }
    }

    /// Parses what a holder wrote to the lock file: process id and program, on one line.
    fn parse(text: &str) -> Holder {
        let line = text.lines().next().unwrap_or_default();
        let (pid, program) = line.split_once(' ').unwrap_or((line, ""));
        // It is displayed, so anything that is not a plain name is removed.
        let program = Some(program.to_owned()).filter(|p| !p.is_empty() && !p.contains(char::is_control));
        Holder { pid: pid.parse().ok(), program }
    }
}

/// Shared lock of a process that reads a cache, held until dropped: nothing is removed from the cache meanwhile.
#[derive(Debug)]
pub(super) struct Use(#[expect(dead_code, reason = "its lock is what counts")] File);

impl Use {
    /// Marks `dir` as in use; `None` if that is not possible, as in a missing or read-only folder.
    pub(super) fn of(dir: &Path) -> Option<Use> {
        let file = used(dir).ok()?;
        file.lock_shared().ok()?;
        Some(Use(file))
    }

    /// Exclusive lock for removing files of `dir`, while no process uses them.
    ///
    /// # Errors
    /// `Locked` if a process uses them, `Io` if that cannot be determined.
    pub(super) fn of_nobody(dir: &Path) -> Result<Use> {
        let file = used(dir).map_err(Error::io("lock", dir))?;
        match file.try_lock() {
            Ok(()) => Ok(Use(file)),
            Err(TryLockError::WouldBlock) => Err(ErrorKind::Locked { path: dir.to_owned(), holder: None }.into()),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", dir)(e)),
        }
    }
}

fn used(dir: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(dir.join(".used"))
}

/// The write lock, held until dropped.
pub(super) struct Lock(File);

impl Lock {
    /// Waits until this process holds the write lock of `dir`. `waiting` is called periodically with the current
    /// holder.
    ///
    /// # Errors
    /// `Stopped` when `stop` was set meanwhile, `Io` when the lock cannot be created.
    pub(super) fn take(dir: &Path, stop: &AtomicBool, mut waiting: impl FnMut(Holder)) -> Result<Lock> {
        let path = dir.join(".lock");
        let mut file = lock_file(&path)?;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
                Err(TryLockError::WouldBlock) if stop.load(Ordering::Relaxed) => {
                    let what =
                        format!("nothing was changed in {}, which another process is writing into", dir.display());
                    return Err(Error::stopped(dir, what));
                }
                Err(TryLockError::WouldBlock) => waiting(holder(&mut file)),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(Lock::held(file))
    }

    /// The lock in the file at `path`, without waiting.
    ///
    /// # Errors
    /// `Locked` when another process holds it, `Io` when it cannot be created.
    pub(super) fn try_take(path: &Path) -> Result<Lock> {
        let mut file = lock_file(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock::held(file)),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", path)(e)),
            Err(TryLockError::WouldBlock) => {
                Err(ErrorKind::Locked { path: path.to_owned(), holder: holder(&mut file).pid }.into())
            }
        }
    }

    fn held(file: File) -> Lock {
        let mut lock = Lock(file);
        // Information for waiting processes: on a full disk the lock holds nevertheless.
        let Holder { pid, program } = Holder::own();
        let _ = lock.write(&format!("{} {}\n", pid.unwrap_or_default(), program.unwrap_or_default()));
        lock
    }

    fn write(&mut self, text: &str) -> std::io::Result<()> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(text.as_bytes())
    }
}

impl Drop for Lock {
    /// Closing would suffice, unless a program is being started at this moment: until its exec, it holds copies of all
    /// descriptors, and with them the lock.
    fn drop(&mut self) {
        let _ = self.write(""); // whoever holds it next writes its own
        let _ = self.0.unlock();
    }
}

fn lock_file(path: &Path) -> Result<File> {
    let mut options = File::options();
    let file = options.create(true).truncate(false).read(true).write(true).open(path);
    file.map_err(Error::io("create", path))
}

/// The process that wrote to a lock file.
fn holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(1024).read_to_string(&mut text));
    read.map_or_else(|_| Holder::default(), |_| Holder::parse(&text))
}
