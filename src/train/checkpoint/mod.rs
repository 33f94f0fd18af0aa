//! Checkpoints: folders `step-N`, each with the weights (`weights.safetensors`, PyTorch's names and layout) and the rest
//! of a training run (`state.safetensors`).
//!
//! **What a kill at any moment leaves.** Both files are written and synced inside a folder whose name starts with
//! `writing-`; only then is it renamed to `step-N`, and the parent folder synced. So a folder called `step-N` is whole
//! by construction and its two files are of the same step; anything else is a leftover, removed by
//! [`Checkpoints::open`]. Where `step-N` already exists it is first renamed to `step-N.replaced`, which
//! [`Checkpoints::latest`] takes only while there is no `step-N`.
//!
//! One process at a time may use a folder; the run holds a lock on it.

mod file;
mod inflate;
mod start;
mod state;
mod weights;

pub use inflate::{ImageHead, Inflated, inflate};
pub use start::start_from;
pub use state::{FORMAT, State};
pub use weights::{Matching, from_pytorch, load_weights, save_weights, to_pytorch};

use crate::error::{Error, Result};
use crate::nn::Params;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A folder of checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

/// One whole checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The step after which it was saved.
    pub step: u64,
    /// Its folder.
    pub folder: PathBuf,
}

impl Checkpoint {
    /// The file of weights, for other programs and for [`load_weights`].
    pub fn weights(&self) -> PathBuf {
        self.folder.join("weights.safetensors")
    }

    /// The file with the rest of the run, for [`State::load`].
    pub fn state(&self) -> PathBuf {
        self.folder.join("state.safetensors")
    }

    /// Reads it back: the weights into `networks` (as named when saving) and the state. Nothing is changed on error.
    ///
    /// # Errors
    /// As [`State::load`] and [`load_weights`].
    pub fn load(&self, networks: &mut [(&str, &mut Params)]) -> Result<State> {
        let state = State::load(&self.state())?;
        load_weights(&self.weights(), networks, &Matching::EXACT)?;
        Ok(state)
    }
}

impl Checkpoints {
    /// Makes the folder where it is missing and removes what a killed process left half-written. The newest `keep`
    /// checkpoints (at least 1) are kept when another is saved.
    ///
    /// # Errors
    /// `Io` when the folder cannot be made, read or cleaned.
    pub fn open(folder: impl Into<PathBuf>, keep: usize) -> Result<Self> {
        let store = Checkpoints { folder: folder.into(), keep: keep.max(1) };
        fs::create_dir_all(&store.folder).map_err(Error::io("create", &store.folder))?;
        for (name, path) in entries(&store.folder)? {
            if name.starts_with(WRITING) || name.starts_with(REMOVING) {
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(store)
    }

    /// The newest whole checkpoint.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        Ok(self.list()?.pop())
    }

    /// Saves the state of a run after `step`: `networks` are prefixes and parameters, `("encoder_q.", &params)`. The
    /// checkpoint replaces an older one of the same step. On error the earlier checkpoints are as they were.
    ///
    /// # Errors
    /// `Data` when a value is not finite (nothing is written); `Param` when two tensors would have one name; `Io` when
    /// the disk is full or the folder read-only.
    pub fn save(&self, step: u64, networks: &[(&str, &Params)], state: &State) -> Result<Checkpoint> {
        let name = format!("step-{step:08}");
        let done = Checkpoint { step, folder: self.folder.join(&name) };
        let writing = Checkpoint { step, folder: self.folder.join(format!("{WRITING}{name}")) };
        let written = write(&writing, networks, state).and_then(|()| self.put(&writing.folder, &done.folder));
        if let Err(e) = written {
            // The reason of the failure is what matters; a leftover is removed at the next start.
            let _ = fs::remove_dir_all(&writing.folder);
            return Err(e);
        }
        self.prune()?;
        Ok(done)
    }

    /// Renames a finished folder to its name.
    fn put(&self, from: &Path, to: &Path) -> Result<()> {
        if to.exists() {
            let aside = to.with_extension(REPLACED);
            if aside.exists() {
                self.remove(&aside)?;
            }
            fs::rename(to, &aside).map_err(Error::io("rename", to))?;
        }
        fs::rename(from, to).map_err(Error::io("rename", from))?;
        sync_folder(&self.folder)
    }

    /// Removes all but the newest `keep`, and what was replaced.
    fn prune(&self) -> Result<()> {
        let mut list = self.list()?;
        list.truncate(list.len().saturating_sub(self.keep));
        let kept_out = list.into_iter().map(|c| c.folder);
        let replaced = entries(&self.folder)?.into_iter().map(|(_, path)| path);
        let replaced =
            replaced.filter(|p| p.extension().is_some_and(|e| e == REPLACED) && p.with_extension("").exists());
        for path in kept_out.chain(replaced) {
            if path.exists() {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes a folder in such a way that no moment shows half of one under its name.
    fn remove(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.folder.join(format!("{REMOVING}{name}"));
        fs::rename(path, &aside).map_err(Error::io("rename", path))?;
        fs::remove_dir_all(&aside).map_err(Error::io("remove", &aside))
    }

    /// All whole checkpoints, oldest first.
    fn list(&self) -> Result<Vec<Checkpoint>> {
        let mut found: Vec<Checkpoint> = Vec::new();
        for (name, folder) in entries(&self.folder)? {
            let number = name.strip_prefix("step-").map(|n| n.strip_suffix(".replaced").unwrap_or(n));
            let Some(step) = number.and_then(|n| n.parse().ok()) else { continue };
            found.push(Checkpoint { step, folder });
        }
        // Of the two folders of a step the replaced one has the longer name: it comes second and is dropped.
        found.sort_by(|a, b| (a.step, &a.folder).cmp(&(b.step, &b.folder)));
        found.dedup_by_key(|c| c.step);
        Ok(found)
    }
}

const WRITING: &str = "writing-";
const REMOVING: &str = "removing-";
const REPLACED: &str = "replaced";

/// Both files, synced, in a folder made anew.
fn write(to: &Checkpoint, networks: &[(&str, &Params)], state: &State) -> Result<()> {
    if to.folder.exists() {
        fs::remove_dir_all(&to.folder).map_err(Error::io("remove", &to.folder))?;
    }
    fs::create_dir(&to.folder).map_err(Error::io("create", &to.folder))?;
    save_weights(&to.weights(), networks)?;
    state.save(&to.state())
}

/// Names and paths of the folders in `folder`.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        if entry.path().is_dir() {
            out.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    Ok(out)
}

/// Makes renames in `folder` outlive a loss of power.
fn sync_folder(folder: &Path) -> Result<()> {
    let open = File::open(folder).map_err(Error::io("open", folder))?;
    open.sync_all().map_err(Error::io("sync", folder))
}
