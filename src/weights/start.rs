//! Initialising a network from a file of weights, of whatever program.

use super::heads::Head;
use super::inflate::{self, ImageHead};
use super::load::{Loaded, Mapping, Names, Shapes};
use super::names::{self, Place};
use super::{InputSpec, Source};
use crate::error::{Error, Result};
use crate::nn::nets::Naming;
use crate::nn::{Net, Params, Trunk};
use std::path::Path;

/// Initialises the trunk of a network, where `params` were built from the table `net`, from a file of weights of any
/// [format](super::Format): of this program, or one of those in [`names::PUBLISHED`]. The network in it may have the names of any
/// [`Naming`], and is found as [`names::choose`] says; an image network is inflated as [`inflate`](super::inflate) says.
///
/// Heads are unchanged, except for what `head` says of an image network's head. Nothing is changed on error.
///
/// # Errors
/// As [`Start::find`] and [`Start::fill`].
pub fn start_from(path: &Path, net: &Net, params: &mut Params, head: ImageHead) -> Result<Loaded> {
    Start::find(Source::open(path)?, net, params, head, None)?.fill(params)
}

/// What a file has for the trunk of a network, before any number is read.
pub struct Start {
    source: Source,
    place: Place,
    /// The trunk with the names of the file.
    trunk: Params,
    mapping: Mapping,
    /// The head that is taken, too.
    head: Option<Head>,
}

impl Start {
    /// Looks for the trunk of `net` in a file, below the names `at` if they are given. `params` begin with that trunk.
    ///
    /// # Errors
    /// `Format` when no network is found in the file, or several ([`names::choose`]), or one with other steps before its stages;
    /// `Param` when `params` are not those of `net`, or have no head for the one that is wanted.
    pub fn find(source: Source, net: &Net, params: &Params, head: ImageHead, at: Option<&str>) -> Result<Start> {
        let place = names::choose(&source, net.naming, at)?;
        let naming = if place.image { Naming::Image } else { place.naming };
        if net.stem.len() > 1 && !matches!(naming, Naming::Torchvision | Naming::Image) {
            let what = "these are the weights of another network: its stem is one convolution";
            return Err(Error::content(source.path(), what));
        }
        let names = Names::below(&source, &place.prefix);
        let whole = place.image && net.naming == Naming::Image;
        let trunk = if whole { params.clone() } else { Trunk::with_params(&Net { naming, ..net.clone() }, 0).1 };
        let mapping = if place.image {
            inflate::mapping(&source, names, &trunk, head)?
        } else if head != ImageHead::Dropped {
            return Err(Error::param("init", "head", "inter", "only an image network's file has such a head"));
        } else {
            Mapping::new(&source, names, &[("", &trunk)], Shapes::Same, |name| Some(name.to_owned()))
        };
        let same = params
            .iter()
            .zip(trunk.iter())
            .all(|((_, to), (_, from))| (to.role, to.value.shape()) == (from.role, from.value.shape()));
        if params.len() < trunk.len() || !same {
            let rule = "they must begin with the trunk of the network's table";
            return Err(Error::param("init", "params", params.len(), rule));
        }
        let mut start = Start { source, place, trunk, mapping, head: None };
        start.mapping.report.kept.extend(params.iter().skip(start.trunk.len()).map(|(_, p)| p.name.clone()));
        Ok(start)
    }

    /// Where the network lies in the file.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The clips that the network was trained with, if it is a published one of RGB.
    #[must_use]
    pub fn input(&self) -> Option<InputSpec> {
        self.place.input(self.source.tensors())
    }

    /// What was found, and what is missing.
    #[must_use]
    pub fn report(&self) -> &Loaded {
        &self.mapping.report
    }

    /// Takes the head of the network, too, if the file has one of a known form: MaCLR's projection or MoCo's, or a linear
    /// classifier. The parameters to be filled are then those of its [description](Head::describe) of `net`.
    pub fn take_head(&mut self, net: &Net) -> Option<&Head> {
        let head = Head::find(self.source.tensors(), &self.place, net)?;
        let left_over = std::mem::take(&mut self.mapping.report.left_over);
        let (taken, left) = left_over.into_iter().partition(|name| head.has(name));
        self.mapping.report.left_over = left;
        self.mapping.report.heads = taken;
        self.head = Some(head);
        self.head.as_ref()
    }

    /// Reads the values into `params`, those it was found for. Nothing is changed on error.
    ///
    /// # Errors
    /// `Format` when a parameter is missing or has another shape, the file is damaged, or a value is not finite; `Io`.
    pub fn fill(mut self, params: &mut Params) -> Result<Loaded> {
        self.mapping.report.check(self.source.path())?;
        self.source.verify()?;
        self.mapping.fill(&mut self.source, &mut [("", &mut self.trunk)])?;
        let (mut with_head, device) = (params.clone(), params.device());
        if let Some(head) = &self.head {
            head.fill(&mut self.source, &mut with_head)?;
        }
        for ((_, to), (_, from)) in params.iter_mut().zip(with_head.iter()).skip(self.trunk.len()) {
            to.value = from.value.to(&device)?;
        }
        for ((_, to), (_, from)) in params.iter_mut().zip(self.trunk.iter()) {
            to.value = from.value.to(&device)?;
        }
        Ok(self.mapping.report)
    }
}
