//! Initialising a network of clips from the weights of an image network (`docs/papers/mcl.md` section 2.2).

use super::file::Reader;
use super::weights::{Differences, Matching};
use crate::error::{Error, Result};
use crate::nn::{Param, ParamId, Params, Role};
use crate::tensor::Tensor;
use safetensors::tensor::TensorInfo;
use std::collections::BTreeMap;
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

/// What [`inflate`] did, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inflated {
    /// Parameters copied from the file.
    pub copied: Vec<String>,
    /// Temporal kernels, which the file does not have, set to the identity for each frame.
    pub made: Vec<String>,
    /// Parameters left unchanged: heads.
    pub kept: Vec<String>,
    /// Tensors of the file that were not used, apart from batch counts.
    pub left_over: Vec<String>,
}

/// Initialises the trunk of a network with the names of [`crate::nn::nets::Naming::Image`] from an image network's
/// weights, so that on identical frames it computes what that network computes on one of them:
///
/// - filters are extended over time with zeros, except for the middle tap (of 4 taps: the second);
/// - the temporal kernels that follow them (`…_t.weight`) become the identity;
/// - normalisations are copied with their running statistics.
///
/// It reads safetensors files with torchvision's names (`conv1.weight`, `layer1.0.bn1.running_mean`, …), with or
/// without MoCo's prefix `module.encoder_q.`; a key encoder and a queue in the file are ignored. To convert a PyTorch
/// file:
///
/// ```python
/// import torch, safetensors.torch as st
/// state = torch.load("moco_v2_200ep_pretrain.pth.tar", map_location="cpu")["state_dict"]  # torchvision: without the key
/// st.save_file({k: v.contiguous() for k, v in state.items()}, "moco.safetensors")
/// ```
///
/// F32, F64, F16 and BF16 are accepted. Nothing is changed on error.
///
/// # Errors
/// `Io` when the file cannot be read; `Format` when it is truncated, damaged, of another network (names or shapes), or
/// holds a value that is not finite; `Param` when `params` has no parameters with such names, or lacks the head that is
/// requested.
pub fn inflate(path: &Path, params: &mut Params, head: ImageHead) -> Result<Inflated> {
    let mut file = Reader::open(path)?;
    file.verify()?;
    let mut unused: BTreeMap<String, (String, TensorInfo)> = BTreeMap::new();
    for (full, info) in file.infos() {
        let name = Matching::PYTORCH.name(&full).to_owned();
        if let Some((other, _)) = unused.insert(name, (full.clone(), info)) {
            let what = format!("`{full}` and `{other}` are one name without their prefixes");
            return Err(Error::format(path, 8, what));
        }
    }
    let mut done = Inflated::default();
    let mut differences = Differences::default();
    let mut plan: Vec<(ParamId, Source)> = Vec::new();
    for (id, p) in params.iter() {
        let Some(name) = name_in_file(&p.name, head) else {
            done.kept.push(p.name.clone());
            continue;
        };
        match unused.remove(&name) {
            Some((full, info)) if info.shape == image_shape(p) => {
                done.copied.push(p.name.clone());
                plan.push((id, Source::File(full, info)));
            }
            Some((_, info)) => {
                differences.shapes.push(format!("`{name}` is {:?} instead of {:?}", info.shape, image_shape(p)));
            }
            None if p.name.ends_with("_t.weight") => {
                done.made.push(p.name.clone());
                plan.push((id, Source::Identity));
            }
            None => differences.missing.push(name),
        }
    }
    if plan.is_empty() && differences.is_none() {
        let rule = "only networks with the names of an image ResNet inflate (`conv1`, `layer1.0.bn1`): P3D-A";
        return Err(Error::param("inflate", "params", "no such parameter", rule));
    }
    if head == ImageHead::Inter && params.find(&format!("{INTER}0.weight")).is_none() {
        return Err(Error::param("inflate", "head", "inter", "the network has no such head"));
    }
    differences.check(path)?;
    let tracked = |name: &String| name.ends_with(".num_batches_tracked");
    done.left_over = unused.into_iter().filter(|(name, _)| !tracked(name)).map(|(_, (full, _))| full).collect();

    let mut values = Vec::new();
    for (id, source) in plan {
        let p = &params[id];
        values.push((
            id,
            match source {
                Source::File(name, info) => inflated(p, &file.f32(&name, &info)?)?,
                Source::Identity => identity(p)?,
            },
        ));
    }
    for (id, value) in values {
        params[id].value = value.to(&params[id].value.device())?;
    }
    Ok(done)
}

/// Where a parameter's values come from.
enum Source {
    File(String, TensorInfo),
    Identity,
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

/// The shape of a parameter in PyTorch's image network.
fn image_shape(p: &Param) -> Vec<usize> {
    match *p.value.dims() {
        [k, _, kh, kw, c] if p.role == Role::ConvWeight => vec![k, c, kh, kw],
        ref d => d.to_vec(),
    }
}

/// The temporal tap of `kt` that is the current frame: the middle one, or of an even number the earlier of the two.
fn middle(kt: usize) -> usize {
    (kt.max(1) - 1) / 2
}

/// An image network's values in the shape of a parameter.
fn inflated(p: &Param, data: &[f32]) -> Result<Tensor> {
    let shape = p.value.shape();
    let &[_, kt, kh, kw, c] = shape.dims() else { return Tensor::from_f32(shape, data) };
    let mut out = vec![0.0; shape.len()];
    for (i, v) in data.iter().enumerate() {
        let (k, from, tap) = (i / (c * kh * kw), i / (kh * kw) % c, i % (kh * kw));
        out[((k * kt + middle(kt)) * kh * kw + tap) * c + from] = *v;
    }
    Tensor::from_f32(shape, &out)
}

/// A kernel that copies each channel of the middle frame.
fn identity(p: &Param) -> Result<Tensor> {
    let shape = p.value.shape();
    let [k, kt, kh, kw, c] = shape.nthwc("inflate", "kernel over time")?;
    if k != c || [kh, kw] != [1, 1] {
        return Err(Error::shape("inflate", "kernel over time", "k kt 1 1 k", shape));
    }
    let mut out = vec![0.0; shape.len()];
    for i in 0..k {
        out[(i * kt + middle(kt)) * c + i] = 1.0;
    }
    Tensor::from_f32(shape, &out)
}
