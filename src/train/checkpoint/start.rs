//! Initialising a network from a file of weights, of either of two kinds.

use super::file::Reader;
use super::inflate::{ImageHead, Inflated, inflate};
use super::weights::{Matching, load_weights};
use crate::error::{Error, Result};
use crate::nn::nets::Naming;
use crate::nn::{Builder, Net, Params, Trunk};
use std::collections::BTreeSet;
use std::path::Path;

/// Initialises the trunk of a network, where `params` were built from the table `net`, from a file of weights:
///
/// - weights of an image network, whose `conv1.weight` has four extents, are inflated ([`inflate`]), whatever names `net` itself
///   has;
/// - other weights must have the trunk's own names and shapes, with or without the prefixes of [`Matching::PYTORCH`]: a
///   released video network, or `weights.safetensors` of an earlier run.
///
/// Heads are unchanged, except for what `head` says of an image network's head. Nothing is changed on error.
///
/// # Errors
/// As [`inflate`] and [`load_weights`]; `Param` when `params` are not those of `net`.
pub fn start_from(path: &Path, net: &Net, params: &mut Params, head: ImageHead) -> Result<Inflated> {
    let file = Reader::open(path)?;
    let stem = |name: &str| Matching::PYTORCH.name(name) == "conv1.weight";
    let image = file.infos().into_iter().any(|(name, info)| stem(&name) && info.shape.len() == 4);
    if image && net.naming == Naming::Image {
        return inflate(path, params, head);
    }
    // A separate trunk with the names that the file uses.
    let naming = if image { Naming::Image } else { net.naming };
    let mut builder = Builder::new(0);
    Trunk::new(&Net { naming, ..net.clone() }, &mut builder);
    let mut trunk = builder.finish();
    let done = if image {
        inflate(path, &mut trunk, head)?
    } else {
        if head != ImageHead::Dropped {
            return Err(Error::param("init", "head", "inter", "only an image network's file has such a head"));
        }
        load_weights(path, &mut [("", &mut trunk)], &Matching::PYTORCH)?;
        let copied: BTreeSet<String> = trunk.iter().map(|(_, p)| p.name.clone()).collect();
        let unused = |name: &String| {
            let name = Matching::PYTORCH.name(name);
            !copied.contains(name) && !name.ends_with(".num_batches_tracked")
        };
        let left_over = file.infos().into_keys().filter(unused).collect();
        Inflated { copied: copied.iter().cloned().collect(), left_over, ..Inflated::default() }
    };
    fill(params, &trunk)?;
    let kept = params.iter().skip(trunk.len()).map(|(_, p)| p.name.clone()).collect();
    Ok(Inflated { kept, ..done })
}

/// Copies the values of `trunk` into `params`, which begin with those of the same trunk under other names.
fn fill(params: &mut Params, trunk: &Params) -> Result<()> {
    let device = params.device();
    let same = params
        .iter()
        .zip(trunk.iter())
        .all(|((_, to), (_, from))| (to.role, to.value.shape()) == (from.role, from.value.shape()));
    if params.len() < trunk.len() || !same {
        return Err(Error::param(
            "init",
            "params",
            params.len(),
            "they must begin with the trunk of the network's table",
        ));
    }
    for ((_, to), (_, from)) in params.iter_mut().zip(trunk.iter()) {
        to.value = from.value.to(&device)?;
    }
    Ok(())
}
