//! Initialising a network of clips from the weights of an image network (`docs/papers/mcl.md` section 2.2).

use super::Source;
use super::load::{Loaded, Mapping, Matching, Names, Shapes};
use crate::error::{Error, Result};
use crate::nn::Params;
use std::path::Path;

/// What to do with a projection head in the file: MoCo's, `fc.0` and `fc.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageHead {
    /// Ignore it.
    Dropped,
    /// Copy it to the head that MCL contrasts with other videos ([`crate::nn::Codes::inter`]).
    Inter,
}

/// Initialises the trunk of a network with the names of [`crate::nn::nets::Naming::Image`] from an image network's
/// weights, so that on identical frames it computes what that network computes on one of them:
///
/// - filters are extended over time with zeros, except for the middle tap (of 4 taps: the second);
/// - the temporal kernels that follow them (`…_t.weight`) become the identity;
/// - normalisations are copied with their running statistics.
///
/// It reads files with torchvision's names (`conv1.weight`, `layer1.0.bn1.running_mean`, …), with or without MoCo's prefix
/// `module.encoder_q.`; a key encoder and a queue in the file are ignored. [`super::start_from`] finds the network whatever
/// stands before its names.
///
/// F32, F64, F16 and BF16 are accepted. Nothing is changed on error.
///
/// # Errors
/// `Io` when the file cannot be read; `Format` when it is truncated, damaged, of another network (names or shapes), or
/// holds a value that is not finite; `Param` when `params` has no parameters with such names, or lacks the head that is
/// requested.
pub fn inflate(path: &Path, params: &mut Params, head: ImageHead) -> Result<Loaded> {
    let mut source = Source::open(path)?;
    source.verify()?;
    let names = Names::stripped(&source, &Matching::PYTORCH)?;
    let mapping = mapping(&source, names, params, head)?;
    mapping.report.check(path)?;
    mapping.fill(&mut source, &mut [("", params)])?;
    Ok(mapping.report)
}

/// What becomes of the tensors `names` in a network with the names of an image network.
pub(super) fn mapping(source: &Source, names: Names, params: &Params, head: ImageHead) -> Result<Mapping> {
    let mapping = Mapping::new(source, names, &[("", params)], Shapes::Image, |name| name_in_file(name, head));
    if mapping.is_empty() {
        let rule = "only networks with the names of an image ResNet inflate (`conv1`, `layer1.0.bn1`): P3D-A";
        return Err(Error::param("inflate", "params", "no such parameter", rule));
    }
    if head == ImageHead::Inter && params.find(&format!("{INTER}0.weight")).is_none() {
        return Err(Error::param("inflate", "head", "inter", "the network has no such head"));
    }
    Ok(mapping)
}

/// Prefix of the names of MCL's inter head, followed by the index of a layer.
const INTER: &str = "nce_inter_head.head.";

/// The name in an image network's file that corresponds to the parameter `name`; `None` if there is none.
fn name_in_file(name: &str, head: ImageHead) -> Option<String> {
    let first = name.split('.').next()?;
    let numbered = first.strip_prefix("layer").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if numbered || first == "conv1" || first == "bn1" {
        return Some(name.to_owned());
    }
    match head {
        ImageHead::Dropped => None,
        ImageHead::Inter => Some(format!("fc.{}", name.strip_prefix(INTER)?)),
    }
}
