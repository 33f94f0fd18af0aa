//! Checkpoints: folders `step-N`, each with the weights (`weights.safetensors`, with PyTorch's names and layout) and
//! the rest of the state of a training run (`state.safetensors`).
//!
//! **Interruption.** Both files are written and synced inside a folder whose name starts with `writing-`; only then is
//! it renamed to `step-N`, and the parent folder synced. So a folder called `step-N` is complete by construction, and
//! its two files are of the same step; anything else is a leftover, removed by [`Checkpoints::open`]. If `step-N`
//! already exists, it is first renamed to `step-N.replaced`, which [`Checkpoints::latest`] uses only while there is no
//! `step-N`.
//!
//! **Damage.** Both files have checksums, and the state holds the step and the checksum of the weights it was saved
//! with: a flipped bit, a truncated file, files of two steps and a renamed folder are all detected, and
//! [`Checkpoints::resume`] goes back to the newest intact checkpoint. From there the run reaches the same bits.
//!
//! Only one process at a time may use a folder; the run holds a lock on it.

mod state;

pub use state::{FORMAT, State};

use super::folder::checksum;
use crate::error::{Error, ErrorKind, Result};
use crate::files::sync_folder;
use crate::nn::Params;
use crate::weights::{self, Matching, Source};
use state::Place;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder of checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
    every: u64,
}

/// One complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The step after which it was saved.
    pub step: u64,
    /// Its folder.
    pub folder: PathBuf,
}

impl Checkpoint {
    /// The file with the weights, for other programs and for [`weights::load_weights`].
    #[must_use]
    pub fn weights(&self) -> PathBuf {
        self.folder.join("weights.safetensors")
    }

    /// The file with the rest of the state, for [`State::load`].
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state.safetensors")
    }

    /// Loads it: the weights into `networks` (with the names used when saving) and the state. Nothing is changed on
    /// error.
    ///
    /// # Errors
    /// As [`State::load`] and [`weights::load_weights`]; `Format` when the folder's name has another step than the
    /// state, or its two files were not saved together.
    pub fn load(&self, networks: &mut [(&str, &mut Params)]) -> Result<State> {
        let (loaded, mut file) = self.open()?;
        weights::fill(&mut file, networks, &Matching::EXACT)?;
        Ok(loaded)
    }

    /// A text that differs for checkpoints of other steps or content.
    ///
    /// # Errors
    /// `Io`.
    pub fn identity(&self) -> Result<String> {
        // The state has the checksum of the weights.
        Ok(format!("step {}, checksum {:08x}", self.step, checksum(&self.state())?))
    }

    /// Its state and its file of weights, both compared with their checksums.
    fn open(&self) -> Result<(State, Source)> {
        let (state, weights_file) = (self.state(), self.weights());
        let (loaded, place) = State::read(&state)?;
        let Some(place) = place else {
            return Err(Error::content(&state, "this state was not saved in a checkpoint: it does not say its step"));
        };
        if place.step != self.step {
            let what =
                format!("this state was saved after step {}, not {}: the folder was renamed", place.step, self.step);
            return Err(Error::content(&state, what));
        }
        let mut file = Source::open(&weights_file)?;
        if file.verify()?.as_ref() != Some(&place.weights) {
            return Err(Error::content(
                &weights_file,
                "these are not the weights that were saved with the state beside them",
            ));
        }
        Ok((loaded, file))
    }
}

/// What a run resumes from.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The newest intact checkpoint.
    pub checkpoint: Checkpoint,
    /// Its state.
    pub state: State,
    /// What is wrong with newer ones, one sentence each. Their folders are now called `damaged-step-N`.
    pub damaged: Vec<String>,
}

impl Checkpoints {
    /// Creates the folder if it is missing and removes what a killed process left incomplete. When a checkpoint is
    /// saved, the newest `keep` (at least 1) are kept.
    ///
    /// # Errors
    /// `Io` when the folder cannot be created, read or cleaned.
    pub fn open(folder: impl Into<PathBuf>, keep: usize) -> Result<Self> {
        let store = Checkpoints { folder: folder.into(), keep: keep.max(1), every: 1 };
        fs::create_dir_all(&store.folder).map_err(Error::io("create", &store.folder))?;
        for (name, path) in entries(&store.folder)? {
            if name.starts_with(WRITING) || name.starts_with(REMOVING) {
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(store)
    }

    /// The same for a run that saves every `steps` steps (at least 1). A checkpoint of any other step was saved because
    /// the run was stopped: it is kept beside the others, and removed with the next one. So what is kept in the end
    /// does not depend on where a run was stopped.
    #[must_use]
    pub fn every(self, steps: u64) -> Self {
        Checkpoints { every: steps.max(1), ..self }
    }

    /// The newest complete checkpoint.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        Ok(self.list()?.pop())
    }

    /// Loads the newest intact checkpoint into `networks`; `None` if there is no checkpoint at all. Newer ones that are
    /// damaged are renamed and reported in the result: they must not be taken for later steps of the run that resumes
    /// before them.
    /// # Errors
    /// As [`Checkpoint::load`] for the newest checkpoint when none is intact (nothing is renamed then); `Io`.
    pub fn resume(&self, networks: &mut [(&str, &mut Params)]) -> Result<Option<Resumed>> {
        let mut damaged: Vec<(Checkpoint, Error)> = Vec::new();
        for checkpoint in self.list()?.into_iter().rev() {
            match checkpoint.load(networks) {
                Ok(state) => {
                    let mut reports = Vec::new();
                    for (checkpoint, e) in damaged {
                        let aside = self.folder.join(format!("{DAMAGED}step-{:08}", checkpoint.step));
                        if aside.exists() {
                            self.remove(&aside)?;
                        }
                        fs::rename(&checkpoint.folder, &aside).map_err(Error::io("rename", &checkpoint.folder))?;
                        reports.push(format!("{e}; its folder is now {}", aside.display()));
                    }
                    // A process that was killed directly after its last checkpoint has not pruned.
                    self.prune()?;
                    return Ok(Some(Resumed { checkpoint, state, damaged: reports }));
                }
                Err(e) if is_damage(&e) => damaged.push((checkpoint, e)),
                Err(e) => return Err(e),
            }
        }
        let Some((_, newest)) = damaged.into_iter().next() else { return Ok(None) };
        let advice = "no earlier checkpoint can be used: put a good copy in its place, or begin anew in another folder";
        Err(match newest.kind() {
            ErrorKind::Format { path, offset, what } => {
                let (path, offset, what) = (path.clone(), *offset, format!("{what}; {advice}"));
                ErrorKind::Format { path, offset, what }.into()
            }
            _ => Error::data(&self.folder, format!("{newest}; {advice}")),
        })
    }

    /// Saves the state of a run after `step`: `networks` are prefixes and parameters, `("encoder_q.", &params)`. The
    /// checkpoint replaces an existing one of the same step. On error, existing checkpoints are unchanged.
    ///
    /// # Errors
    /// `Data` when a value is not finite (nothing is written); `Param` when two tensors would have the same name; `Io`
    /// when the disk is full or the folder read-only.
    pub fn save(&self, step: u64, networks: &[(&str, &Params)], state: &State) -> Result<Checkpoint> {
        let name = format!("step-{step:08}");
        let done = Checkpoint { step, folder: self.folder.join(&name) };
        let writing = Checkpoint { step, folder: self.folder.join(format!("{WRITING}{name}")) };
        let written = write(&writing, networks, state).and_then(|()| self.put(&writing.folder, &done.folder));
        if let Err(e) = written {
            // Return the reason of the failure; a leftover is removed at the next start.
            let _ = fs::remove_dir_all(&writing.folder);
            return Err(e);
        }
        self.prune()?;
        Ok(done)
    }

    /// Renames a completed folder to its final name.
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

    /// Removes all but the newest `keep` of those that were due, those of stops before them, and replaced ones.
    fn prune(&self) -> Result<()> {
        let (mut due, mut stops): (Vec<_>, Vec<_>) =
            self.list()?.into_iter().partition(|c| c.step.is_multiple_of(self.every));
        let newest = due.last().map_or(0, |c| c.step);
        let _kept = stops.pop_if(|c| c.step > newest);
        due.truncate(due.len().saturating_sub(self.keep));
        let kept_out = due.into_iter().chain(stops).map(|c| c.folder);
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

    /// Removes a folder so that at no time an incomplete one has its name.
    fn remove(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.folder.join(format!("{REMOVING}{name}"));
        fs::rename(path, &aside).map_err(Error::io("rename", path))?;
        fs::remove_dir_all(&aside).map_err(Error::io("remove", &aside))
    }

    /// All complete checkpoints, oldest first.
    fn list(&self) -> Result<Vec<Checkpoint>> {
        let mut found: Vec<Checkpoint> = Vec::new();
        for (name, folder) in entries(&self.folder)? {
            let number = name.strip_prefix("step-").map(|n| n.strip_suffix(".replaced").unwrap_or(n));
            let Some(step) = number.and_then(|n| n.parse().ok()) else { continue };
            found.push(Checkpoint { step, folder });
        }
        // Of two folders for one step, the replaced one has the longer name: it comes second and is removed from the
        // list.
        found.sort_by(|a, b| (a.step, &a.folder).cmp(&(b.step, &b.folder)));
        found.dedup_by_key(|c| c.step);
        Ok(found)
    }
}

/// The newest intact checkpoint in `folder`, for those who read the weights of a run; `None` if there is no checkpoint
/// at all. Nothing is changed, unlike by [`Checkpoints::resume`]. What is wrong with newer ones, one sentence each, is
/// in the second result.
///
/// # Errors
/// As [`Checkpoint::load`] for the newest checkpoint when none is intact; `Io` when the folder cannot be read.
pub fn newest_intact(folder: &Path) -> Result<Option<(Checkpoint, Vec<String>)>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let store = Checkpoints { folder: folder.to_owned(), keep: 1, every: 1 };
    let mut damaged: Vec<Error> = Vec::new();
    for checkpoint in store.list()?.into_iter().rev() {
        match checkpoint.open() {
            Ok(_) => return Ok(Some((checkpoint, damaged.iter().map(Error::to_string).collect()))),
            Err(e) if is_damage(&e) => damaged.push(e),
            Err(e) => return Err(e),
        }
    }
    damaged.into_iter().next().map_or(Ok(None), Err)
}

/// The checkpoint of `step` in `folder`. Nothing is changed.
///
/// # Errors
/// `Data` when there is none; `Io` when the folder cannot be read.
pub fn of_step(folder: &Path, step: u64) -> Result<Checkpoint> {
    let store = Checkpoints { folder: folder.to_owned(), keep: 1, every: 1 };
    let found = store.list()?.into_iter().find(|checkpoint| checkpoint.step == step);
    found.ok_or_else(|| Error::data(folder, format!("there is no checkpoint of step {step}")))
}

/// The newest checkpoint below `folder` whose state can be read, and that state. Nothing is changed;
/// the weights are not read.
///
/// # Errors
/// `Io` when the folder cannot be read.
pub fn newest_state(folder: &Path) -> Result<Option<(Checkpoint, State)>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let store = Checkpoints { folder: folder.to_owned(), keep: 1, every: 1 };
    let newest_first = store.list()?.into_iter().rev();
    Ok(newest_first.into_iter().find_map(|c| State::load(&c.state()).ok().map(|state| (c, state))))
}

/// The file of weights that `path` stands for, where a network is to be initialised: a file itself, the one in the folder
/// of an exported network or of a checkpoint, or that of the newest intact checkpoint of a run's folder. Nothing is
/// changed.
///
/// # Errors
/// `Data` when a folder is neither, or the run has no intact checkpoint; `Io` when it cannot be read.
pub fn weights_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let files = ["model.safetensors", "weights.safetensors"].map(|name| path.join(name));
    if let Some(file) = files.into_iter().find(|file| file.is_file()) {
        return Ok(file);
    }
    let folder = path.join(CHECKPOINTS);
    if !folder.is_dir() {
        let what = "this is neither a run's folder, with `checkpoints`, nor a network's, with `model.safetensors`";
        return Err(Error::data(path, what));
    }
    let newest = newest_intact(&folder)?.map(|(checkpoint, _)| checkpoint.weights());
    newest.ok_or_else(|| Error::data(path, "this run has no checkpoint yet"))
}

/// The folder of a run's checkpoints, in its own.
pub const CHECKPOINTS: &str = "checkpoints";
const WRITING: &str = "writing-";
const REMOVING: &str = "removing-";
const REPLACED: &str = "replaced";
const DAMAGED: &str = "damaged-";

/// Whether the error is due to the contents of a checkpoint's files, not to accessing them.
fn is_damage(e: &Error) -> bool {
    match e.kind() {
        ErrorKind::Format { .. } => true,
        ErrorKind::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Writes both files, synced, into a newly created folder.
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
