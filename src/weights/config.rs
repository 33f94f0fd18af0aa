//! `config.json`: what a network is, in words that programs read.

use super::input::InputSpec;
use crate::error::{Error, Result};
use crate::files;
use crate::nn::{
    Arch, Classifier, Encoder, HeadSpec, Layers, MOST_PARAMETERS, MclEncoder, Net, Norm, Params, ProjectionHead, Trunk,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The version of the description, in its field `format`.
const FORMAT: &str = "tubelet-network-1";
/// The largest `config.json` that is read: the deepest network has 200 layers of 300 bytes.
const MOST: u64 = 1 << 24;

/// A network with its heads, and what it expects as input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    format: String,
    /// The architecture's name (`--arch`), if it is one of the published ones.
    pub arch: Option<String>,
    /// What trained the network, in a few words.
    pub origin: String,
    /// The trunk as a table.
    pub network: Net,
    /// The same, every layer spelled out.
    layers: Layers,
    /// Length of a feature vector.
    features: usize,
    /// Batch norm's constants.
    norm: Constants,
    /// Projection heads by name.
    pub heads: BTreeMap<String, HeadSpec>,
    /// The linear classifier.
    pub classifier: Option<Linear>,
    /// The names of its classes, in the order of its outputs, if they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// Linear layers of the training objective.
    pub other_linears: Vec<Linear>,
    /// Clips as the network was trained with them.
    pub input: Option<InputSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Constants {
    eps: f32,
    momentum: f32,
}

/// A linear layer with a bias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    /// Its name; its parameters are `name.weight` and `name.bias`.
    pub name: String,
    /// Inputs.
    pub from: usize,
    /// Outputs.
    pub to: usize,
}

impl Config {
    /// The description of a trunk without heads.
    #[must_use]
    pub fn new(network: &Net, origin: impl Into<String>) -> Config {
        Config {
            format: FORMAT.to_owned(),
            arch: Arch::of(network).map(|arch| arch.name.to_owned()),
            origin: origin.into(),
            layers: network.layers(),
            features: network.features(),
            norm: Constants { eps: Norm::EPS, momentum: Norm::MOMENTUM },
            network: network.clone(),
            heads: BTreeMap::new(),
            classifier: None,
            classes: None,
            other_linears: Vec::new(),
            input: None,
        }
    }

    /// With the clips that it was trained with.
    #[must_use]
    pub fn input(self, input: InputSpec) -> Config {
        Config { input: Some(input), ..self }
    }

    /// With MaCLR's projection head.
    #[must_use]
    pub fn maclr(mut self, head: HeadSpec) -> Config {
        self.heads.insert(ProjectionHead::NAME.to_owned(), head);
        self
    }

    /// With a head for time steps beside it ([`Encoder::with_heads`]).
    #[must_use]
    pub fn steps(mut self, head: HeadSpec) -> Config {
        self.heads.insert(Encoder::STEPS.to_owned(), head);
        self
    }

    /// With MCL's three heads and its classifier of the order of clips.
    #[must_use]
    pub fn mcl(mut self, head: HeadSpec) -> Config {
        self.heads.extend(MclEncoder::HEADS.map(|name| (name.to_owned(), head)));
        let (name, to) = MclEncoder::ORDER;
        self.other_linears.push(Linear { name: name.to_owned(), from: 3 * head.code, to });
        self
    }

    /// With a linear classifier.
    #[must_use]
    pub fn classifier(mut self, classes: usize) -> Config {
        let name = self.network.naming.classifier().to_owned();
        self.classifier = Some(Linear { name, from: self.features, to: classes });
        self
    }

    /// With a linear classifier of the classes `names`.
    #[must_use]
    pub fn classes(self, names: &[String]) -> Config {
        Config { classes: Some(names.to_vec()), ..self.classifier(names.len()) }
    }

    /// The network's parameters, with initial values, in the order in which [`crate::nn`] creates them.
    ///
    /// # Errors
    /// `Param` when no network has these heads.
    pub fn params(&self) -> Result<Params> {
        let heads: Vec<(&str, HeadSpec)> = self.heads.iter().map(|(name, head)| (name.as_str(), *head)).collect();
        let is_mcl = |heads: &[(&str, HeadSpec)]| {
            let named = MclEncoder::HEADS.iter().all(|name| heads.iter().any(|(other, _)| other == name));
            named && heads.len() == MclEncoder::HEADS.len() && heads.iter().all(|(_, head)| *head == heads[0].1)
        };
        match (&heads[..], &self.classifier) {
            ([], None) => Ok(Trunk::with_params(&self.network, 0).1),
            ([], Some(linear)) => Ok(Classifier::new(&self.network, linear.to, 0)?.1),
            (&[(ProjectionHead::NAME, head)], None) => Ok(Encoder::with_heads(&self.network, head, None, 0)?.1),
            (&[(ProjectionHead::NAME, head), (Encoder::STEPS, steps)], None) => {
                Ok(Encoder::with_heads(&self.network, head, Some(steps), 0)?.1)
            }
            (heads, None) if is_mcl(heads) => Ok(MclEncoder::new(&self.network, heads[0].1, 0)?.1),
            _ => {
                let names: Vec<&str> = heads.iter().map(|(name, _)| *name).collect();
                let rule = "they are not MaCLR's head, MCL's three heads or a classifier";
                Err(Error::param("network", "heads", names.join(", "), rule))
            }
        }
    }

    /// Reads and checks `path`.
    ///
    /// # Errors
    /// `Io` when it cannot be read; `Data` when it is not such a description, or its layers are not those of its table.
    pub fn load(path: &Path) -> Result<Config> {
        let config: Config = read(path)?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<()> {
        if self.format != FORMAT {
            return Err(Error::data(path, format!("its format is `{}`, and `{FORMAT}` is read", self.format)));
        }
        self.network.check().map_err(|e| Error::data(path, e))?;
        if self.layers != self.network.layers() || self.features != self.network.features() {
            return Err(Error::data(path, "its `layers` or `features` are not those of its `network`"));
        }
        if self.norm != (Constants { eps: Norm::EPS, momentum: Norm::MOMENTUM }) {
            let what = format!("its batch norm is not that of eps {} and momentum {}", Norm::EPS, Norm::MOMENTUM);
            return Err(Error::data(path, what));
        }
        let ours = |l: &Linear| (l.from, &*l.name) == (self.features, self.network.naming.classifier()) && l.to > 0;
        if !self.classifier.iter().all(ours) {
            return Err(Error::data(path, "its `classifier` is not one of the `features` of its `network`"));
        }
        let (outputs, names) = (self.classifier.as_ref().map_or(0, |l| l.to), self.classes.as_ref().map(Vec::len));
        if let Some(names) = names.filter(|names| *names != outputs) {
            let what = format!("its `classes` are {names} names, and its `classifier` has {outputs} outputs");
            return Err(Error::data(path, what));
        }
        let input = self.input.as_ref().map_or(Ok(()), |input| input.check(self.network.in_channels));
        input.map_err(|what| Error::data(path, what))?;
        let head = |h: &HeadSpec| (self.features as u128 + h.code as u128).saturating_mul(h.hidden as u128);
        let linear = |l: &Linear| (l.from as u128).saturating_mul(l.to as u128);
        let linears = self.classifier.iter().chain(&self.other_linears).map(linear);
        let numbers = self.heads.values().map(head).chain(linears).fold(0u128, u128::saturating_add);
        if numbers > MOST_PARAMETERS {
            let what = format!("its heads have {numbers} parameters, and at most {MOST_PARAMETERS} are allowed");
            return Err(Error::data(path, what));
        }
        Ok(())
    }
}

/// The networks of a run by the prefixes of their names in its weights, in the file `networks.json` of its folder.
pub type Networks = BTreeMap<String, Config>;

/// The file in a run's folder that describes its networks.
pub const NETWORKS: &str = "networks.json";

/// Reads and checks the `networks.json` at `path`.
///
/// # Errors
/// As [`Config::load`].
pub fn read_networks(path: &Path) -> Result<Networks> {
    let networks: Networks = read(path)?;
    networks.values().try_for_each(|config| config.check(path))?;
    Ok(networks)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = files::read_bounded(path, MOST, "the description of a network")?;
    serde_json::from_slice(&bytes).map_err(|e| Error::data(path, format!("this does not describe a network: {e}")))
}
