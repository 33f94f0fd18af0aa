//! Checkpoints: folders `step-N`, each with the weights (`weights.safetensors`, PyTorch's names and layout) and the rest
//! of a training run (`state.safetensors`).
//!
//! **What a kill at any moment leaves.** Both files are written and synced inside a folder whose name starts with
//! `writing-`; only then is it renamed to `step-N`, and the parent folder synced. So a folder called `step-N` is whole
//! by construction and its two files are of the same step; anything else is a leftover, removed by
//! [`Checkpoints::open`]. Where `step-N` already exists it is first renamed to `step-N.replaced`, which
//! [`Checkpoints::latest`] takes only while there is no `step-N`.
//!
//! **What damage leaves.** Both files have checksums, and the state holds the step and the checksum of the weights it was saved
//! with: a flipped bit, a cut file, files of two steps and a renamed folder are all noticed, and [`Checkpoints::resume`] goes
//! back to the newest checkpoint that is whole. From there the run comes to the same bits.
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

use crate::error::{Error, ErrorKind, Result};
use crate::nn::Params;
use file::Reader;
use state::Place;
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
    /// As [`State::load`] and [`load_weights`]; `Format` when the folder has the name of another step than the one saved, or
    /// its two files were not saved together.
    pub fn load(&self, networks: &mut [(&str, &mut Params)]) -> Result<State> {
        let (state, weights) = (self.state(), self.weights());
        let (loaded, place) = State::read(&state)?;
        let Some(place) = place else {
            return Err(Error::format(&state, 8, "this state was not saved in a checkpoint: it does not say its step"));
        };
        if place.step != self.step {
            let what =
                format!("this state was saved after step {}, not {}: the folder was renamed", place.step, self.step);
            return Err(Error::format(&state, 8, what));
        }
        let mut file = Reader::open(&weights)?;
        if file.verify()?.as_ref() != Some(&place.weights) {
            return Err(Error::format(
                &weights,
                8,
                "these are not the weights that were saved with the state beside them",
            ));
        }
        weights::fill(file, &weights, networks, &Matching::EXACT)?;
        Ok(loaded)
    }
}

/// What a run goes on from.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The newest whole checkpoint.
    pub checkpoint: Checkpoint,
    /// Its state.
    pub state: State,
    /// What was wrong with newer ones, one sentence each. Their folders are now called `damaged-step-N`.
    pub damaged: Vec<String>,
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

    /// Reads the newest checkpoint that is whole into `networks`; `None` where there is no checkpoint at all. Newer ones that are
    /// damaged are set aside under other names, and told of in the result: they must not be taken for later steps of the run
    /// that goes on before them.
    ///
    /// # Errors
    /// As [`Checkpoint::load`] when no checkpoint is whole, of the newest (nothing is renamed then); `Io`.
    pub fn resume(&self, networks: &mut [(&str, &mut Params)]) -> Result<Option<Resumed>> {
        let mut damaged: Vec<(Checkpoint, Error)> = Vec::new();
        for checkpoint in self.list()?.into_iter().rev() {
            match checkpoint.load(networks) {
                Ok(state) => {
                    let mut told = Vec::new();
                    for (checkpoint, e) in damaged {
                        let aside = self.folder.join(format!("{DAMAGED}step-{:08}", checkpoint.step));
                        if aside.exists() {
                            self.remove(&aside)?;
                        }
                        fs::rename(&checkpoint.folder, &aside).map_err(Error::io("rename", &checkpoint.folder))?;
                        told.push(format!("{e}; its folder is now {}", aside.display()));
                    }
                    // A process that was killed behind its last checkpoint did not come to it.
                    self.prune()?;
                    return Ok(Some(Resumed { checkpoint, state, damaged: told }));
                }
                Err(e) if is_damage(&e) => damaged.push((checkpoint, e)),
                Err(e) => return Err(e),
            }
        }
        let Some((_, newest)) = damaged.into_iter().next() else { return Ok(None) };
        let advice = "no earlier checkpoint can be used: put a good copy in its place, or begin anew in another folder";
        Err(match newest.kind() {
            ErrorKind::Format { path, offset, what } => Error::format(path, *offset, format!("{what}; {advice}")),
            _ => Error::data(&self.folder, format!("{newest}; {advice}")),
        })
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
const DAMAGED: &str = "damaged-";

/// Whether a checkpoint's files are at fault, not the way to them.
fn is_damage(e: &Error) -> bool {
    match e.kind() {
        ErrorKind::Format { .. } => true,
        ErrorKind::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Both files, synced, in a folder made anew.
fn write(to: &Checkpoint, networks: &[(&str, &Params)], state: &State) -> Result<()> {
    if to.folder.exists() {
        fs::remove_dir_all(&to.folder).map_err(Error::io("remove", &to.folder))?;
    }
    fs::create_dir(&to.folder).map_err(Error::io("create", &to.folder))?;
    let weights = weights::write_weights(&to.weights(), networks)?;
    state.write(&to.state(), Some(Place { step: to.step, weights }))
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
