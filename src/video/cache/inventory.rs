//! Lists the content of a cache folder: which files, from which source and settings, and which ones nothing will use
//! again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::super::key::{self, FlowKey, FramesKey, MapsKey, SourceKey};
use super::super::lock::{Holder, Lock, Use};
use super::super::packed::{Kind, Mapped, Named};
use super::file_of;
use crate::error::{Error, Result};

/// A file of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Kind of content; `None` for partial files of a killed process.
    pub kind: Option<Kind>,
    /// The source video; empty if the file does not state it.
    pub source: String,
    /// Settings, as text; the same for all videos of a data set. Empty if the file does not state them.
    pub settings: String,
    /// Why nothing will use it again; `None` if something may.
    pub stale: Option<String>,
}

/// The files of the cache in `dir`, sorted by kind, settings, source and path. Other files are ignored. Headers are
/// read and sources are checked; the data is not ([`verify`] does that).
///
/// # Errors
/// `Io` when the folder cannot be read.
pub fn list(dir: &Path) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut sources = HashMap::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let Some(kind) = kind_of(&path) else { continue };
        // Files appear and disappear while a cache is being built.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        let bytes = metadata.len();
        let mut entry = Entry { path, bytes, kind, source: String::new(), settings: String::new(), stale: None };
        match kind {
            None => entry.stale = Some("it was not finished".into()),
            Some(kind) => describe(&mut entry, kind, dir, &mut sources),
        }
        found.push(entry);
    }
    found.sort_by(|a, b| (a.kind, &a.settings, &a.source, &a.path).cmp(&(b.kind, &b.settings, &b.source, &b.path)));
    Ok(found)
}

/// The kind of file by its name: `Some(None)` for a partial file, `None` for files that do not belong to the cache.
fn kind_of(path: &Path) -> Option<Option<Kind>> {
    let name = path.file_name()?.to_str()?;
    let (hash, rest) = name.split_once('.')?;
    if hash.len() != 16 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match Kind::ALL.into_iter().find(|kind| kind.extension() == rest) {
        Some(kind) => Some(Some(kind)),
        None => rest.ends_with(".tmp").then_some(None),
    }
}

/// Fills in what the file itself states. `sources` remembers the result for each source.
fn describe(entry: &mut Entry, kind: Kind, dir: &Path, sources: &mut HashMap<String, Option<String>>) {
    let mapped = match Mapped::open(&entry.path, kind, false) {
        Ok(mapped) => mapped,
        Err(e) if e.is_of_the_machine() => return,
        Err(e) => {
            entry.stale = Some(e.to_string());
            return;
        }
    };
    let text = mapped.key();
    let flow = match kind {
        Kind::Frames => key::parse::<FramesKey>(text).map(|key| (key.to_string(), key, None)),
        Kind::Flow => key::parse::<FlowKey>(text).map(|key| (key.to_string(), key.frames.clone(), Some(key))),
        Kind::Maps => key::parse::<MapsKey>(text).map(|key| (key.to_string(), key.flow.frames.clone(), Some(key.flow))),
    };
    let Some((settings, frames, flow)) = flow else {
        entry.stale = Some("it does not say what it was made of".into());
        return;
    };
    let (source, of) = (frames.source.to_string(), |source: &SourceKey| source.stale());
    let whole = format!("{:?}", frames.source);
    let mut stale = sources.entry(whole).or_insert_with(|| of(&frames.source)).clone();
    stale = stale.or_else(|| flow.as_ref().and_then(|key| key.flow.stale()));
    // Flow cannot be used without its frames, nor maps without their flow.
    let of_frames = (Kind::Frames, key::named(&frames));
    let ancestors = match (kind, &flow) {
        (Kind::Flow, _) => vec![of_frames],
        (Kind::Maps, Some(flow)) => vec![(Kind::Flow, key::named(flow)), of_frames],
        _ => Vec::new(),
    };
    let mut made_of = mapped.head.made_of;
    for (kind, key) in ancestors {
        let Ok(Named { hash, .. }) = key else { continue };
        let is = match Mapped::open(&file_of(dir, kind, hash), kind, false) {
            Ok(of) if of.head.sum == made_of => {
                made_of = of.head.made_of;
                continue;
            }
            Ok(_) => "has changed",
            Err(e) if e.is_of_the_machine() => break,
            Err(_) => "cannot be read",
        };
        stale = stale.or_else(|| Some(format!("the file of {} it was made of {is}", kind.name())));
        break;
    }
    (entry.source, entry.settings, entry.stale) = (source, settings, stale);
}

/// Verifies all checksums of a file.
///
/// # Errors
/// `Format` naming the file and the problem, `Io` when it cannot be read.
pub fn verify(entry: &Entry) -> Result<()> {
    entry.kind.map_or(Ok(()), |kind| Mapped::open(&entry.path, kind, true).map(|_| ()))
}

/// Removes files of the cache in `dir` while no process builds in it. `waiting` is called periodically with the process
/// being waited for. Programs that have mapped a file keep it until they unmap it.
///
/// # Errors
/// `Locked` while a process trains on the cache; `Stopped` when `stop` was set while waiting for another process; `Io`
/// when a file cannot be removed.
pub fn remove(dir: &Path, entries: &[Entry], stop: &AtomicBool, waiting: impl FnMut(Holder)) -> Result<()> {
    let _lock = Lock::take(dir, stop, waiting)?;
    let _nobody = Use::of_nobody(dir)?;
    for entry in entries {
        match fs::remove_file(&entry.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &entry.path)(e)),
            _ => {}
        }
    }
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("sync", dir))
}
