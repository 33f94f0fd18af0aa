//! The output folder of a run: locked by one process, bound to one set of settings, with files written atomically.

use crate::error::{self, Error, Result};
use crate::files;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A run's folder, locked as long as this value exists.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Of a rank other than the first there is none.
    lock: Option<File>,
    /// The folders that were created for it, the innermost last.
    created: Vec<PathBuf>,
}

impl Folder {
    /// A field of settings that is there for the reader, and not compared.
    pub const PATHS: &str = "paths";

    /// Creates the folder if needed and locks it, and removes what a killed process had not finished in it. If the
    /// value is dropped before [`Folder::settle`], because the run was refused, what was created is removed again.
    ///
    /// # Errors
    /// `Locked` while another process holds it; `Io` when it cannot be created or written.
    pub fn open(path: impl AsRef<Path>) -> Result<Folder> {
        let path = path.as_ref().to_owned();
        let mut created: Vec<PathBuf> =
            path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).map(Path::to_owned).collect();
        created.reverse();
        let lock_path = path.join(LOCK);
        let mut lock = loop {
            fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
            let mut lock = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&lock_path)
                .map_err(Error::io("write", &lock_path))?;
            // SAFETY: flock takes a descriptor that `lock` keeps open, and accesses no memory of this process.
            if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                return Err(held(&path, &mut lock));
            }
            // A process that was refused may have removed the file since it was opened here: a lock on it is worth
            // nothing.
            let ours = lock.metadata().map_err(Error::io("read", &lock_path))?;
            if fs::metadata(&lock_path).is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino())) {
                break lock;
            }
        };
        let write = |lock: &mut File| {
            lock.set_len(0)?;
            lock.seek(SeekFrom::Start(0))?;
            writeln!(lock, "{}", std::process::id())
        };
        write(&mut lock).map_err(Error::io("write", &lock_path))?;
        remove_unfinished(&path)?;
        Ok(Folder { path, lock: Some(lock), created })
    }

    /// The folder of a run of several ranks, for those that only read it: the first rank holds its lock.
    pub fn of_first_rank(path: impl AsRef<Path>) -> Folder {
        Folder { path: path.as_ref().to_owned(), lock: None, created: Vec::new() }
    }

    /// Checks that [`Folder::open`] would succeed now, and creates nothing.
    ///
    /// # Errors
    /// As [`Folder::open`]; `Data` when something that is not a folder is in the way.
    pub fn check(path: &Path) -> Result<()> {
        files::check_writable(path)?;
        let lock_path = path.join(LOCK);
        let mut lock = match OpenOptions::new().read(true).write(true).open(&lock_path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("write", &lock_path)(e)),
        };
        // A shared lock, released at once with the file, so that several checks do not block each other.
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(held(path, &mut lock)),
            _ => Ok(()),
        }
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compares `settings` with those that the run in the folder `path` was started with, without changing anything;
    /// returns whether there are any. Both are JSON objects, whose fields are named in errors as they are here. The fields
    /// `free` may differ.
    ///
    /// # Errors
    /// `Data` naming each field that differs with both values; `Io`; `Format`.
    pub fn compare(path: &Path, settings: &Value, free: &[&str]) -> Result<bool> {
        Self::compared(path, settings, free, true)
    }

    /// As [`Folder::compare`], without the fields that `settings` lacks: before all of them are known.
    ///
    /// # Errors
    /// As [`Folder::compare`].
    pub fn compare_known(path: &Path, settings: &Value, free: &[&str]) -> Result<bool> {
        Self::compared(path, settings, free, false)
    }

    /// The settings that the run in the folder `path` was started with, if there are any: a JSON object.
    ///
    /// # Errors
    /// `Io`; `Format`; `Data` when the file holds something else.
    pub fn settings(path: &Path) -> Result<Option<Value>> {
        let file = path.join(SETTINGS);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => return Ok(None),
            Err(e) => return Err(Error::io("read", &file)(e)),
        };
        let begun: Value =
            serde_json::from_str(&text).map_err(|e| Error::format(&file, e.line() as u64, "is not valid JSON"))?;
        if !begun.is_object() {
            let what = "these are not the settings of a run, which are a JSON object: choose another --out, or remove the file";
            return Err(Error::data(file, what));
        }
        Ok(Some(begun))
    }

    fn compared(path: &Path, settings: &Value, free: &[&str], all: bool) -> Result<bool> {
        let Some(mut begun) = Self::settings(path)? else { return Ok(false) };
        set_fields(&mut begun, settings, free);
        if begun.get("recipe").is_some_and(Value::is_string) {
            let what = "an earlier version of this program began this run, and its settings cannot be compared with these: \
                        choose another --out, or end the run with that version";
            return Err(Error::data(path, what));
        }
        if let (Some(by), Some(now)) = (begun["program"].as_str(), settings["program"].as_str())
            && by != now
        {
            return Err(Error::data(path, format!("{by} began this run, not {now}: choose another --out")));
        }
        let mut found = Vec::new();
        differences(&begun, settings, all, String::new(), &mut found);
        if found.is_empty() {
            return Ok(true);
        }
        let more = found.len().saturating_sub(NAMED);
        found.truncate(NAMED);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        let what = format!(
            "this run has other settings; continue with the same, or choose another --out: {}{more}",
            found.join("; ")
        );
        Err(Error::data(path, what))
    }

    /// Binds the folder to `settings`: they are written if the folder has none yet, and [compared](Folder::compare)
    /// otherwise; those of the fields `free` that differ are written anew. Call it when nothing else can prevent the run from
    /// starting.
    ///
    /// # Errors
    /// As [`Folder::compare`].
    pub fn settle(&self, settings: &Value, free: &[&str]) -> Result<()> {
        Self::compare(&self.path, settings, free)?;
        let begun = Self::settings(&self.path)?;
        let mut now = begun.clone().unwrap_or_else(|| settings.clone());
        set_fields(&mut now, settings, free);
        if begun.as_ref() == Some(&now) {
            return Ok(());
        }
        write_atomic(&self.path.join(SETTINGS), format!("{now:#}\n").as_bytes())
    }
}

/// The error for a folder that another process has locked, whose process id is in the file `lock`.
fn held(path: &Path, lock: &mut File) -> Error {
    let mut text = String::new();
    let _ = lock.read_to_string(&mut text); // the process id is optional
    error::ErrorKind::Locked { path: path.to_owned(), holder: text.trim().parse().ok() }.into()
}

/// The file that is locked by the process using the folder.
const LOCK: &str = "lock";
/// The file with the settings a run was started with.
const SETTINGS: &str = "settings.json";
/// Maximum number of differing settings named in an error.
const NAMED: usize = 8;

/// Sets the fields called `names` of a JSON object to those of `from`.
fn set_fields(object: &mut Value, from: &Value, names: &[&str]) {
    for name in names {
        if let Some(value) = from.get(name) {
            object[name] = value.clone();
        }
    }
}

/// The leaves in which two JSON values differ, with both values. Those that `now` lacks count if `all`.
fn differences(begun: &Value, now: &Value, all: bool, at: String, found: &mut Vec<String>) {
    let (Some(x), Some(y)) = (begun.as_object(), now.as_object()) else {
        if begun != now {
            let shown = |v: &Value| match v {
                Value::Null => "nothing".to_owned(),
                Value::Array(all) if all.is_empty() => "none".to_owned(),
                Value::Array(all) if all.len() > NAMED => format!("{} and {} more", all[0], all.len() - 1),
                _ => v.to_string(),
            };
            found.push(format!("{at}: begun with {}, now {}", shown(begun), shown(now)));
        }
        return;
    };
    let keys = y.keys().chain(x.keys().filter(|key| all && !y.contains_key(*key)));
    for key in keys.filter(|key| *key != Folder::PATHS) {
        let name = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        differences(x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null), all, name, found);
    }
}

/// A checksum of the content of a file, for a comparison: not of use against forgery.
///
/// # Errors
/// `Io`.
pub fn checksum(path: &Path) -> Result<u32> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let (mut sum, mut piece) = (crc32fast::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).map_err(Error::io("read", path))? {
            0 => return Ok(sum.finalize()),
            n => sum.update(&piece[..n]),
        }
    }
}

/// Writes `bytes` to `path` so that a reader sees the old content or the new, never a part: a temporary file in the
/// same folder, synced, then renamed.
///
/// # Errors
/// `Io`; the temporary file is removed then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write(bytes)?;
    file.commit()
}

/// A file that is written piece by piece under a temporary name, and appears under its own when it is complete. Dropped
/// before that, it is removed.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
}

impl AtomicFile {
    /// Begins the file `path`, in its folder.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(path: &Path) -> Result<AtomicFile> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = File::create(&temporary).map_err(Error::io("write", path))?;
        Ok(AtomicFile { path: path.to_owned(), temporary, file: BufWriter::new(file) })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    /// Syncs the file and gives it its name, in place of a file that has it.
    ///
    /// # Errors
    /// `Io`.
    pub fn commit(mut self) -> Result<()> {
        let end = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        end.and_then(|()| fs::rename(&self.temporary, &self.path)).map_err(Error::io("write", &self.path))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary); // after `commit` there is none
    }
}

/// Removes the temporary files that [`AtomicFile`] left in `folder` when its process was killed. Call it only while no
/// other process can be writing there.
///
/// # Errors
/// `Io`.
pub fn remove_unfinished(folder: &Path) -> Result<()> {
    let is_process = |id: &OsStr| id.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let stem = path.file_stem().map(Path::new).filter(|_| path.extension().is_some_and(|e| e == "tmp"));
        if stem.and_then(Path::extension).is_some_and(is_process) {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

impl Drop for Folder {
    /// Removes the lock file of a run that was refused, and the folders that were created for it, if they are empty.
    ///
    /// Closing the file is not enough if a child process is being started at this moment: until its `exec` it holds
    /// copies of all descriptors, and thereby the lock.
    fn drop(&mut self) {
        let Some(lock) = &self.lock else { return };
        if !self.path.join(SETTINGS).exists() {
            // It is not an error if something remains.
            let _ = fs::remove_file(self.path.join(LOCK));
            for folder in self.created.iter().rev() {
                let _ = fs::remove_dir(folder);
            }
        }
        // SAFETY: as in `open`; if it fails, closing the descriptor releases the lock.
        unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_UN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn second_holder_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let held = Folder::open(dir.path()).unwrap();
        // flock is per open file description, so a second open in one process conflicts as a second process would
        let e = Folder::open(dir.path()).unwrap_err();
        let by_us = |e: &Error| matches!(e.kind(), error::ErrorKind::Locked { holder: Some(pid), .. } if *pid == std::process::id());
        assert!(by_us(&e) && by_us(&Folder::check(dir.path()).unwrap_err()), "{e}");
        drop(held);
        Folder::check(dir.path()).unwrap();
        Folder::open(dir.path()).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_refused_and_nothing_created() {
        let dir = tempfile::tempdir().unwrap();
        Folder::check(&dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        for path in [dir.path().join("file/run"), dir.path().join("link"), PathBuf::from("/proc/x/y")] {
            let e = Folder::check(&path).unwrap_err().to_string();
            assert!(Folder::open(&path).is_err() && (e.contains("not a folder") || e.contains("/proc")), "{e}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn every_setting_that_differs_is_named_with_both_values() {
        let dir = tempfile::tempdir().unwrap();
        let begun = json!({"--lr": 0.03, "method": {"queue": null, "parts": [1, 2]}, "--batch": 32});
        assert!(!Folder::compare(dir.path(), &begun, &[]).unwrap());
        let folder = Folder::open(dir.path()).unwrap();
        folder.settle(&begun, &[]).unwrap();
        folder.settle(&begun, &[]).unwrap();
        assert!(Folder::compare(dir.path(), &begun, &[]).unwrap());
        let other = json!({"--lr": 0.5, "method": {"queue": 8, "parts": [1, 3]}, "--epochs": 2});
        let e = folder.settle(&other, &[]).unwrap_err().to_string();
        for part in [
            "--lr: begun with 0.03, now 0.5",
            "method.queue: begun with nothing, now 8",
            "method.parts: begun with [1,2], now [1,3]",
            "--batch: begun with 32, now nothing",
            "--epochs: begun with nothing, now 2",
            "--out",
        ] {
            assert!(e.contains(part), "{part} in {e}");
        }
        // Comparing other settings leaves the folder unchanged.
        assert!(Folder::compare(dir.path(), &begun, &[]).unwrap());
    }

    #[test]
    fn a_refusal_stays_a_sentence_however_much_differs() {
        let dir = tempfile::tempdir().unwrap();
        let of = |n: i32| Value::from_iter((0..200).map(|i| (format!("field {i}"), json!(i + n))));
        Folder::open(dir.path()).unwrap().settle(&of(0), &[]).unwrap();
        let e = Folder::compare(dir.path(), &of(1), &[]).unwrap_err().to_string();
        assert!(e.contains("and 192 more") && e.len() < 800, "{e}");
    }

    #[test]
    fn settings_of_an_earlier_version_are_told_apart_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let old =
            json!({"data": "procedural", "seed": 0, "recipe": format!("Recipe {{ {} }}", "field: 1, ".repeat(400))});
        fs::write(dir.path().join(SETTINGS), old.to_string()).unwrap();
        let e = Folder::compare(dir.path(), &json!({"--lr": 0.5}), &[]).unwrap_err().to_string();
        assert!(e.contains("earlier version") && e.contains("--out") && e.len() < 400, "{e}");
    }

    #[test]
    fn what_a_killed_process_had_not_finished_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["seconds.123.tmp", "notes.tmp", "v1.2.txt", "a.b.tmp"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        drop(Folder::open(dir.path()).unwrap());
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.b.tmp", "notes.tmp", "v1.2.txt"]);
    }

    #[test]
    fn json_that_is_no_object_is_not_taken_for_settings() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["[]", "null", "3", "\"lr\""] {
            fs::write(dir.path().join(SETTINGS), text).unwrap();
            let e = Folder::compare(dir.path(), &json!({"--lr": 0.5}), &[]).unwrap_err().to_string();
            assert!(e.contains("settings.json: these are not the settings of a run") && !e.contains("begun"), "{e}");
        }
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
