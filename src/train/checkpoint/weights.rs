//! Weights with PyTorch's names and layout.

use super::file::{self, Data, Entry, Reader};
use crate::error::{Error, Result};
use crate::nn::{Params, Role};
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};
use safetensors::tensor::TensorInfo;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// How names in a file are matched with those of a network.
#[derive(Clone, Copy, Debug)]
pub struct Matching<'a> {
    /// Prefixes removed from the file's names, repeatedly while one matches.
    pub strip: &'a [&'a str],
    /// Whether tensors that the network does not have are ignored (a key encoder, a queue, another head).
    pub allow_extra: bool,
}

impl Matching<'_> {
    /// Exactly the same names.
    pub const EXACT: Matching<'static> = Matching { strip: &[], allow_extra: false };

    /// A trunk from a PyTorch checkpoint: without `module.` (DataParallel), `encoder_q.` (MoCo) and `backbone.`.
    pub const PYTORCH: Matching<'static> =
        Matching { strip: &["module.", "encoder_q.", "backbone."], allow_extra: true };

    pub(super) fn name<'n>(&self, mut name: &'n str) -> &'n str {
        while let Some(rest) = self.strip.iter().find_map(|p| name.strip_prefix(p)) {
            name = rest;
        }
        name
    }
}

/// A parameter as PyTorch stores it, extents and values: filters `k kt kh kw c` become `k c kt kh kw`.
///
/// # Errors
/// `DType` when it is not f32; `Shape` when a filter does not have five extents; as [`Tensor::load`].
pub fn to_pytorch(role: Role, value: &Tensor) -> Result<(Vec<usize>, Cow<'_, [f32]>)> {
    value.expect("weights", "value", DType::F32)?;
    let data = value.load()?;
    if role != Role::ConvWeight {
        return Ok((value.dims().to_vec(), data));
    }
    let [k, kt, kh, kw, c] = filter(value.shape())?;
    let taps = kt * kh * kw;
    let out = (0..data.len()).map(|i| {
        let (filter, channel, tap) = (i / (c * taps), i / taps % c, i % taps);
        data[(filter * taps + tap) * c + channel]
    });
    Ok((vec![k, c, kt, kh, kw], Cow::Owned(out.collect())))
}

/// The inverse of [`to_pytorch`]: PyTorch's values as a parameter of `shape` (this crate's).
///
/// # Errors
/// `Shape` when the number of elements differs, or a filter does not have five extents.
pub fn from_pytorch(role: Role, shape: Shape, data: &[f32]) -> Result<Tensor> {
    if role != Role::ConvWeight || shape.len() != data.len() {
        return Tensor::from_f32(shape, data);
    }
    let [_, kt, kh, kw, c] = filter(shape)?;
    let taps = kt * kh * kw;
    Tensor::build(shape, |out| {
        for (i, o) in out.iter_mut().enumerate() {
            let (filter, tap, channel) = (i / (c * taps), i / c % taps, i % c);
            *o = data[(filter * c + channel) * taps + tap];
        }
    })
}

fn filter(shape: Shape) -> Result<[usize; 5]> {
    shape.dims().try_into().map_err(|_| Error::shape("weights", "value", "k kt kh kw c", shape))
}

/// The shape of a parameter in PyTorch.
fn pytorch_shape(role: Role, value: &Tensor) -> Vec<usize> {
    match *value.dims() {
        [k, kt, kh, kw, c] if role == Role::ConvWeight => vec![k, c, kt, kh, kw],
        ref d => d.to_vec(),
    }
}

/// The name of the batch count that PyTorch stores with each normalisation's statistics.
fn batches_name(variance: &str) -> String {
    format!("{}num_batches_tracked", variance.strip_suffix("running_var").unwrap_or(variance))
}

/// Refuses to write values that could not be read back.
pub(super) fn check_finite(path: &Path, name: &str, data: &[f32]) -> Result<()> {
    match data.iter().find(|v| !v.is_finite()) {
        None => Ok(()),
        Some(v) => Err(Error::data(path, format!("`{name}` holds {v}; nothing was written"))),
    }
}

/// Writes `networks`, each with a prefix for its names, to `path` by way of a temporary file in the same folder.
/// PyTorch reads it with `safetensors.torch.load_file` and `load_state_dict`.
///
/// # Errors
/// `Data` when a value is not finite; `Param` when two tensors would have the same name; `Io` when it cannot be
/// written.
pub fn save_weights(path: &Path, networks: &[(&str, &Params)]) -> Result<()> {
    write_weights(path, networks).map(|_| ())
}

/// As [`save_weights`]; returns the file's checksum.
pub(super) fn write_weights(path: &Path, networks: &[(&str, &Params)]) -> Result<String> {
    let mut entries = BTreeMap::new();
    let mut put = |name: String, entry| {
        let rule = "two networks need different prefixes";
        match entries.insert(name.clone(), entry) {
            None => Ok(()),
            Some(_) => Err(Error::param("save_weights", "name", name, rule)),
        }
    };
    for (prefix, params) in networks {
        for (_, p) in params.iter() {
            let name = format!("{prefix}{}", p.name);
            let (shape, data) = to_pytorch(p.role, &p.value)?;
            check_finite(path, &name, &data)?;
            if p.role == Role::RunningVar {
                let data = Data::I64(params.batches as i64);
                put(batches_name(&name), Entry { shape: Vec::new(), data })?;
            }
            put(name, Entry { shape, data: Data::F32(data) })?;
        }
    }
    file::write(path, &entries, ("format", "pt"))
}

/// Loads weights into `networks`, each with the prefix its names have in the file (after `matching` has stripped them).
/// F32, F64, F16 and BF16 are accepted; batch counts may be missing. Nothing is changed on error.
///
/// # Errors
/// `Io` when the file cannot be read; `Format` when it is truncated, does not match its checksum (files of other
/// programs have none), is of another network (names or shapes), or holds a value that is not finite.
pub fn load_weights(path: &Path, networks: &mut [(&str, &mut Params)], matching: &Matching) -> Result<()> {
    let mut file = Reader::open(path)?;
    file.verify()?;
    fill(file, path, networks, matching)
}

/// As [`load_weights`], for a file that is open and has been compared with its checksum.
pub(super) fn fill(
    mut file: Reader,
    path: &Path,
    networks: &mut [(&str, &mut Params)],
    matching: &Matching,
) -> Result<()> {
    let mut unused: BTreeMap<String, (String, TensorInfo)> = BTreeMap::new();
    for (full, info) in file.infos() {
        let name = matching.name(&full).to_owned();
        if let Some((other, _)) = unused.insert(name, (full.clone(), info)) {
            let what = format!("`{full}` and `{other}` are one name without their prefixes");
            return Err(Error::format(path, 8, what));
        }
    }

    let mut differences = Differences::default();
    let mut plan = Vec::new();
    for (n, (prefix, params)) in networks.iter().enumerate() {
        for (id, p) in params.iter() {
            let name = format!("{prefix}{}", p.name);
            let tracked = (p.role == Role::RunningVar).then(|| unused.remove(&batches_name(&name))).flatten();
            plan.extend(tracked.map(|(full, info)| (n, None, full, info)));
            let want = pytorch_shape(p.role, &p.value);
            match unused.remove(&name) {
                None => differences.missing.push(name),
                Some((_, info)) if info.shape != want => {
                    differences.shapes.push(format!("`{name}` is {:?} instead of {want:?}", info.shape));
                }
                Some((full, info)) => plan.push((n, Some(id), full, info)),
            }
        }
    }
    if !matching.allow_extra {
        differences.extra = unused.into_keys().collect();
    }
    differences.check(path)?;

    let mut values = Vec::new();
    let mut batches = vec![None; networks.len()];
    for (n, id, name, info) in plan {
        let Some(id) = id else {
            let count = file.i64(&name, &info)?;
            batches[n] = batches[n].max(Some(count.max(0) as u64));
            continue;
        };
        let param = &networks[n].1[id];
        values.push((n, id, from_pytorch(param.role, param.value.shape(), &file.f32(&name, &info)?)?));
    }
    for (n, id, value) in values {
        let param = &mut networks[n].1[id];
        param.value = value.to(&param.value.device())?;
    }
    for ((_, params), count) in networks.iter_mut().zip(batches) {
        params.batches = count.unwrap_or(params.batches);
    }
    Ok(())
}

/// How a file differs from the networks to be loaded.
#[derive(Default)]
pub(super) struct Differences {
    /// Names of tensors that are missing in the file.
    pub missing: Vec<String>,
    extra: Vec<String>,
    /// How the shape of a tensor differs, as a phrase that begins with its name.
    pub shapes: Vec<String>,
}

impl Differences {
    pub fn is_none(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.shapes.is_empty()
    }

    pub fn check(&self, path: &Path) -> Result<()> {
        let mut parts = Vec::new();
        for (names, what) in [(&self.missing, "missing"), (&self.extra, "too many")] {
            parts.extend(names.first().map(|first| format!("{} {what} (first `{first}`)", names.len())));
        }
        let first = self.shapes.first();
        parts.extend(first.map(|first| format!("{} of another shape (first {first})", self.shapes.len())));
        if parts.is_empty() {
            return Ok(());
        }
        Err(Error::format(path, 8, format!("these are the weights of another network: {}", parts.join(", "))))
    }
}
