//! The output folder of a run: held by one process, tied to one set of settings, its files written whole or not at all.

use crate::error::{Error, ErrorKind, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A run's folder, locked for as long as this value lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Creates the folder where needed and locks it.
    ///
    /// # Errors
    /// `Locked` while another process holds it; `Io` when it cannot be created or written.
    pub fn open(path: impl AsRef<Path>) -> Result<Folder> {
        let path = path.as_ref().to_owned();
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(Error::io("write", &lock_path))?;
        // SAFETY: flock takes a descriptor that `lock` keeps open, and touches no memory of ours.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let mut text = String::new();
            let _ = lock.read_to_string(&mut text); // the holder's number is a courtesy; absent is fine
            return Err(ErrorKind::Locked { path, holder: text.trim().parse().ok() }.into());
        }
        let write = |lock: &mut File| {
            lock.set_len(0)?;
            lock.seek(SeekFrom::Start(0))?;
            writeln!(lock, "{}", std::process::id())
        };
        write(&mut lock).map_err(Error::io("write", &lock_path))?;
        Ok(Folder { path, lock })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ties the folder to `settings`: written if the folder has none yet, compared otherwise.
    ///
    /// # Errors
    /// `Param` naming the first setting that differs from those the folder was begun with; `Io`; `Format`.
    pub fn settle(&self, settings: &serde_json::Value) -> Result<()> {
        let path = self.path.join("settings.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let text = format!("{settings:#}\n");
                return write_atomic(&path, text.as_bytes());
            }
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let begun: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| Error::format(&path, e.line() as u64, "is not valid JSON"))?;
        match first_difference(&begun, settings, String::new()) {
            None => Ok(()),
            Some((name, old, new)) => Err(Error::param(
                "run",
                "settings",
                format!("{name} {new}"),
                format!(
                    "{} was begun with {name} {old}: continue with the same settings, or choose another --out",
                    self.path.display()
                ),
            )),
        }
    }
}

/// Path and both values of the first leaf in which two JSON values differ.
fn first_difference(
    a: &serde_json::Value,
    b: &serde_json::Value,
    at: String,
) -> Option<(String, serde_json::Value, serde_json::Value)> {
    let (Some(x), Some(y)) = (a.as_object(), b.as_object()) else {
        return (a != b).then(|| (at, a.clone(), b.clone()));
    };
    let null = serde_json::Value::Null;
    x.keys().chain(y.keys().filter(|k| !x.contains_key(*k))).find_map(|k| {
        let name = if at.is_empty() { k.clone() } else { format!("{at}.{k}") };
        first_difference(x.get(k).unwrap_or(&null), y.get(k).unwrap_or(&null), name)
    })
}

/// Writes `bytes` under `path` so that a reader sees the old content or the new, never a part: temporary file in the
/// same folder, synced, renamed.
///
/// # Errors
/// `Io`; the temporary file is removed then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut f = File::create(&temporary)?;
        f.write_all(bytes)?;
        f.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary); // the first error is the one to tell
        Error::io("write", path)(e)
    })
}

impl Drop for Folder {
    /// Closing would do, were it not for a program being started this very moment: until it runs, it holds copies of all
    /// descriptors, and with them the lock.
    fn drop(&mut self) {
        // SAFETY: as in `open`; a failure leaves the lock to the closing of the descriptor.
        unsafe { libc::flock(self.lock.as_raw_fd(), libc::LOCK_UN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let held = Folder::open(dir.path()).unwrap();
        // flock is per open file description, so a second open in one process conflicts as a second process would
        let e = Folder::open(dir.path()).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Locked { holder: Some(pid), .. } if *pid == std::process::id()), "{e}");
        drop(held);
        Folder::open(dir.path()).unwrap();
    }

    #[test]
    fn other_settings_are_refused_with_both_values() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        folder.settle(&serde_json::json!({"a": 1, "b": {"c": 2}})).unwrap();
        folder.settle(&serde_json::json!({"a": 1, "b": {"c": 2}})).unwrap();
        let e = folder.settle(&serde_json::json!({"a": 1, "b": {"c": 3}})).unwrap_err().to_string();
        assert!(e.contains("b.c 3") && e.contains("b.c 2"), "{e}");
        let e = folder.settle(&serde_json::json!({"b": {"c": 2}})).unwrap_err().to_string();
        assert!(e.contains("a null") && e.contains("a 1"), "{e}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, b"old").unwrap();
        let missing = dir.path().join("none").join("f");
        assert!(write_atomic(&missing, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
