//! The head of a network in a file: a projection to codes, as contrastive learning has it, or a linear classifier.

use super::Info;
use super::Source;
use super::config::Config;
use super::layout::pytorch_shape;
use super::names::Place;
use crate::error::{Error, Result};
use crate::nn::nets::Naming;
use crate::nn::{HeadSpec, Net, Params, ProjectionHead};
use std::collections::BTreeMap;

/// The names of projections: a linear layer, batch norm if there is any, and a linear layer. MaCLR's release, this
/// program, MoCo v2.
const PROJECTIONS: [[&str; 3]; 3] = [
    ["head.pathway0_projection_0", "", "head.pathway0_projection_1"],
    ["head.projection.0", "head.projection.1", "head.projection.2"],
    ["fc.0", "", "fc.2"],
];

/// The names of linear classifiers.
const CLASSIFIERS: [Naming; 3] = [Naming::Image, Naming::PytorchVideo, Naming::SlowFast { pathway: 0 }];

/// A head that a file has for a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The beginnings of our names and of those in the file.
    names: Vec<(String, String)>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Projection(HeadSpec),
    Classifier { classes: usize },
}

impl Head {
    /// The head behind the network at `place` whose features are those of `net`. The network of a second pathway has none: the
    /// names of its head are not known.
    pub(super) fn find(tensors: &BTreeMap<String, Info>, place: &Place, net: &Net) -> Option<Head> {
        if place.naming == (Naming::SlowFast { pathway: 1 }) {
            return None;
        }
        let full = |name: &str| format!("{}{name}.", place.prefix);
        let shape = |name: &str| tensors.get(name).map(|info| &info.shape[..]);
        let linear = |name: &str, inputs: usize| match shape(&(full(name) + "weight")) {
            Some(&[outputs, from]) if from == inputs && shape(&(full(name) + "bias")) == Some(&[outputs]) => {
                Some(outputs)
            }
            _ => None,
        };
        let projection = |[first, norm, second]: [&str; 3]| {
            let hidden = linear(first, net.features())?;
            let code = linear(second, hidden)?;
            let normalised = shape(&(full(norm) + "running_var")) == Some(&[hidden]);
            let ours = |layer: usize| format!("{}.{layer}.", ProjectionHead::NAME);
            let all = [(ours(0), full(first)), (ours(1), full(norm)), (ours(2), full(second))];
            let names = all.into_iter().enumerate().filter(|(layer, _)| normalised || *layer != 1);
            let names = names.map(|(_, pair)| pair).collect();
            Some(Head { names, kind: Kind::Projection(HeadSpec { hidden, code, normalised }) })
        };
        let classifier = |naming: Naming| {
            let classes = linear(naming.classifier(), net.features())?;
            let names = vec![(format!("{}.", net.naming.classifier()), full(naming.classifier()))];
            Some(Head { names, kind: Kind::Classifier { classes } })
        };
        PROJECTIONS.into_iter().find_map(projection).or_else(|| CLASSIFIERS.into_iter().find_map(classifier))
    }

    /// The description of a network with this head.
    #[must_use]
    pub fn describe(&self, config: Config) -> Config {
        match self.kind {
            Kind::Projection(spec) => config.maclr(spec),
            Kind::Classifier { classes } => config.classifier(classes),
        }
    }

    /// Whether a tensor of the file belongs to it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|(_, theirs)| name.starts_with(theirs))
    }

    /// Reads the values into those of `params` that are this head's.
    pub(super) fn fill(&self, source: &mut Source, params: &mut Params) -> Result<()> {
        for (_, p) in params.iter_mut() {
            let own = |(ours, theirs): &(String, String)| Some(theirs.clone() + p.name.strip_prefix(&**ours)?);
            let Some(name) = self.names.iter().find_map(own) else { continue };
            let want = pytorch_shape(p.role, &p.value);
            if source.tensors().get(&name).is_none_or(|info| info.shape != want) {
                let what = format!("`{name}` of its head is missing or has another shape than {want:?}");
                return Err(Error::content(source.path(), what));
            }
            p.value = source.parameter(&name, p.role, p.value.shape())?;
        }
        Ok(())
    }
}
