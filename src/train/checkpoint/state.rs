//! The rest of the state of a training run: momenta, key encoders, queues, counters.

use crate::error::{Error, Result};
use crate::nn::Params;
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};
use crate::weights::{self, Data, Entry, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Version of the state file. Other versions are refused: the first had no checksums.
pub const FORMAT: u64 = 2;

/// The metadata entry that holds [`Notes`].
const KEY: &str = "tubelet_state";

/// Everything besides the weights that a run needs to continue with the same bits.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Named f32 tensors, in this crate's layout.
    pub tensors: BTreeMap<String, Tensor>,
    /// Named integers: step, epoch, position in a queue.
    pub counters: BTreeMap<String, u64>,
    /// Named real numbers, stored exactly.
    pub reals: BTreeMap<String, f64>,
    /// Named strings, such as the options of the run, which must be the same on resuming.
    pub texts: BTreeMap<String, String>,
}

/// The checkpoint that a state belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The step after which it was saved.
    pub step: u64,
    /// Checksum of the weights file in the same checkpoint.
    pub weights: String,
}

/// The file's metadata, as JSON. Reals are strings because JSON readers may round numbers.
#[derive(Serialize, Deserialize)]
struct Notes {
    format: u64,
    #[serde(default)]
    place: Option<Place>,
    #[serde(default)]
    counters: BTreeMap<String, u64>,
    #[serde(default)]
    reals: BTreeMap<String, String>,
    #[serde(default)]
    texts: BTreeMap<String, String>,
}

/// Only the version, which can be read whatever else a newer format contains.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

impl State {
    /// Adds all entries of `params`, including running statistics and batch count, under `prefix`: a key encoder.
    pub fn put_params(&mut self, prefix: &str, params: &Params) {
        for (_, p) in params.iter() {
            self.tensors.insert(format!("{prefix}{}", p.name), p.value.clone());
        }
        self.counters.insert(format!("{prefix}batches"), params.batches);
    }

    /// Sets all entries of `params` to what [`State::put_params`] added under `prefix`.
    ///
    /// # Errors
    /// As [`State::tensor`] and [`State::counter`]; nothing is changed then.
    pub fn get_params(&self, prefix: &str, params: &mut Params) -> Result<()> {
        let mut new = params.clone();
        for (_, p) in new.iter_mut() {
            p.value = self.tensor(&format!("{prefix}{}", p.name), p.value.shape())?.to(&p.value.device())?;
        }
        new.batches = self.counter(&format!("{prefix}batches"))?;
        *params = new;
        Ok(())
    }

    /// The tensor called `name`, which must have `shape`.
    ///
    /// # Errors
    /// `Data` when there is none or it has another shape, because the state is of another run.
    pub fn tensor(&self, name: &str, shape: impl Into<Shape>) -> Result<&Tensor> {
        let shape = shape.into();
        match self.tensors.get(name) {
            Some(t) if t.shape() == shape => Ok(t),
            Some(t) => Err(other_run(format!("`{name}` is {} instead of {shape}", t.shape()))),
            None => Err(other_run(format!("the tensor `{name}` is missing"))),
        }
    }

    /// The integer called `name`.
    ///
    /// # Errors
    /// `Data` when there is none.
    pub fn counter(&self, name: &str) -> Result<u64> {
        self.counters.get(name).copied().ok_or_else(|| other_run(format!("the counter `{name}` is missing")))
    }

    /// The real number called `name`.
    ///
    /// # Errors
    /// `Data` when there is none.
    pub fn real(&self, name: &str) -> Result<f64> {
        self.reals.get(name).copied().ok_or_else(|| other_run(format!("the number `{name}` is missing")))
    }

    /// Writes the state to `path` by way of a temporary file in the same folder.
    ///
    /// # Errors
    /// `Data` when a value is not finite; `DType` when a tensor is not f32; `Io` when it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.write(path, None)
    }

    /// As [`State::save`], for a state that belongs to a checkpoint.
    pub(super) fn write(&self, path: &Path, place: Option<Place>) -> Result<()> {
        if let Some((name, v)) = self.reals.iter().find(|(_, v)| !v.is_finite()) {
            return Err(Error::data(path, format!("`{name}` is {v}; nothing was written")));
        }
        let mut entries = BTreeMap::new();
        for (name, t) in &self.tensors {
            t.expect("state", "tensor", DType::F32)?;
            let data = t.load()?;
            weights::check_finite(path, name, &data)?;
            entries.insert(name.clone(), Entry { shape: t.dims().to_vec(), data: Data::F32(data) });
        }
        let notes = Notes {
            format: FORMAT,
            place,
            counters: self.counters.clone(),
            reals: self.reals.iter().map(|(k, v)| (k.clone(), format!("{v:?}"))).collect(),
            texts: self.texts.clone(),
        };
        let notes = serde_json::to_string(&notes).map_err(|e| Error::data(path, e))?;
        weights::write(path, &entries, (KEY, &notes)).map(|_| ())
    }

    /// Reads a state written by [`State::save`].
    ///
    /// # Errors
    /// `Io` when it cannot be read; `Format` when it is truncated, damaged, not a state, of another format, or not
    /// finite.
    pub fn load(path: &Path) -> Result<State> {
        State::read(path).map(|(state, _)| state)
    }

    /// As [`State::load`], with the checkpoint it belongs to.
    pub(super) fn read(path: &Path) -> Result<(State, Option<Place>)> {
        let mut file = Source::open(path)?;
        let damaged =
            |e: &dyn std::fmt::Display| Error::content(path, format!("the metadata of the state is invalid: {e}"));
        let Some(text) = file.note(KEY).map(str::to_owned) else {
            return Err(Error::content(path, "this is not the state of a training run (it may be weights)"));
        };
        let Version { format } = serde_json::from_str(&text).map_err(|e| damaged(&e))?;
        if format != FORMAT {
            let age = if format > FORMAT { "a newer" } else { "an older" };
            let what =
                format!("the state has format {format}, and this program reads {FORMAT}: it is of {age} version");
            return Err(Error::content(path, what));
        }
        if file.verify()?.is_none() {
            return Err(Error::content(path, "the state has lost its checksum: the file is damaged"));
        }
        let notes: Notes = serde_json::from_str(&text).map_err(|e| damaged(&e))?;
        let mut reals = BTreeMap::new();
        for (name, text) in notes.reals {
            let value = text.parse::<f64>().ok().filter(|v| v.is_finite());
            let value = value.ok_or_else(|| damaged(&format!("`{name}` is {text:?}")))?;
            reals.insert(name, value);
        }
        let mut tensors = BTreeMap::new();
        for (name, info) in file.tensors().clone() {
            if info.shape.len() > 5 {
                return Err(Error::content(
                    path,
                    format!("`{name}` has {} extents; at most 5 are known", info.shape.len()),
                ));
            }
            let data = file.f32(&name)?;
            tensors.insert(name, Tensor::from_f32(Shape::new(&info.shape), &data)?);
        }
        Ok((State { tensors, counters: notes.counters, reals, texts: notes.texts }, notes.place))
    }
}

fn other_run(what: String) -> Error {
    Error::data("state.safetensors", format!("{what}; the state is of another run"))
}
