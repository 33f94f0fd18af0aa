//! Where a run goes on: its newest checkpoint, which all ranks read.

use super::checkpoint::{self, CHECKPOINTS, Checkpoint, Checkpoints, Resumed, State};
use super::limits;
use super::method::Method;
use super::settings::Settings;
use crate::dist::{Collective, together};
use crate::error::{Error, Result};
use std::path::Path;

/// Loads the newest intact checkpoint in the run's folder `home`. The first rank alone changes the folder, and has its
/// checkpoints; the others read the one that it has found.
pub(super) fn resume<M: Method>(
    method: &mut M,
    home: &Path,
    per_epoch: u64,
    ranks: &dyn Collective,
) -> Result<(Option<Checkpoints>, Option<Resumed>)> {
    let home = home.join(CHECKPOINTS);
    let first = ranks.rank() == 0;
    let mut find = || -> Result<_> {
        // The second newest is kept to go back to, in case the newest is damaged.
        let checkpoints = Checkpoints::open(&home, 2)?.every(per_epoch);
        let resumed = checkpoints.resume(&mut method.networks_mut())?;
        Ok((Some(checkpoints), resumed))
    };
    let found = together(ranks, || if first { find() } else { Ok((None, None)) }, |_| ())?;
    if ranks.size() == 1 {
        return Ok(found);
    }
    let step = found.1.as_ref().map(|resumed| resumed.checkpoint.step);
    let notes = ranks.share(&step.map_or(Vec::new(), |step| step.to_le_bytes().to_vec()))?;
    let step = notes.first().and_then(|note| <[u8; 8]>::try_from(&note[..]).ok()).map(u64::from_le_bytes);
    let mut read = |step: u64| -> Result<_> {
        let checkpoint = checkpoint::of_step(&home, step)?;
        let state = checkpoint.load(&mut method.networks_mut())?;
        Ok(Resumed { checkpoint, state, damaged: Vec::new() })
    };
    let theirs = together(ranks, || step.filter(|_| !first).map(&mut read).transpose(), |_| ())?;
    Ok((found.0, found.1.or(theirs)))
}

/// What ranks must agree on before they go on with the run in `folder`: its newest checkpoint.
///
/// # Errors
/// `Io` when it cannot be read.
pub fn found(folder: &Path) -> Result<String> {
    let newest = checkpoint::newest_state(&folder.join(CHECKPOINTS))?;
    newest.map_or(Ok("none".to_owned()), |(checkpoint, _)| checkpoint.identity())
}

/// Refuses the folder of another run than that of `settings`, by its newest checkpoint that can be read. Nothing is changed:
/// call it before the folder is bound to the run.
///
/// # Errors
/// `Data` naming the checkpoint; `Io` when the folder cannot be read.
pub fn check_run(folder: &Path, settings: &Settings) -> Result<()> {
    match checkpoint::newest_state(&folder.join(CHECKPOINTS))? {
        Some((checkpoint, state)) => same_run(&state, &checkpoint, None, settings),
        None => Ok(()),
    }
}

/// The steps that the run in `folder` has done, by its newest checkpoint that can be read; 0 without one.
///
/// # Errors
/// `Io` when the folder cannot be read.
pub fn steps_done(folder: &Path) -> Result<u64> {
    Ok(checkpoint::newest_state(&folder.join(CHECKPOINTS))?.map_or(0, |(checkpoint, _)| checkpoint.step))
}

/// The error for a run whose `steps` of `epochs` are fewer than the steps that are `done`.
pub fn fewer_than_done(epochs: u64, steps: u64, done: u64) -> Error {
    let rule = format!(
        "they have {steps} steps, and this run has done {done}: a run can be made longer, and not shorter than it is; choose \
         more epochs or another --out"
    );
    Error::param("settings", limits::EPOCHS.option, epochs, rule)
}

/// Refuses the state of a run of another method, or with other settings or videos.
pub(super) fn same_run(
    state: &State,
    checkpoint: &Checkpoint,
    method: Option<&str>,
    settings: &Settings,
) -> Result<()> {
    let saved = |name: &str| state.texts.get(name).map_or("", String::as_str);
    if method.is_none_or(|method| saved("method") == method) && saved("run") == settings.hash_at(checkpoint.step) {
        return Ok(());
    }
    let what = "this checkpoint is of another run, with another method or other settings or videos: put the run's own \
                checkpoint in its place, or begin anew in another folder";
    Err(Error::data(&checkpoint.folder, what))
}
