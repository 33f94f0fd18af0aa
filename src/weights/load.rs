//! Which tensor of a file becomes which parameter of a network.

use super::Source;
use super::layout::{batches_name, identity, image_shape, inflated, pytorch_shape};
use crate::error::{Error, Result};
use crate::nn::{ParamId, Params, Role};
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

    fn name<'n>(&self, mut name: &'n str) -> &'n str {
        while let Some(rest) = self.strip.iter().find_map(|p| name.strip_prefix(p)) {
            name = rest;
        }
        name
    }
}

/// What was found for a network in a file, by name: parameters by theirs, tensors by the file's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Parameters whose values are in the file.
    pub copied: Vec<String>,
    /// Temporal kernels, which an image network does not have, that begin as the identity for each frame.
    pub made: Vec<String>,
    /// Tensors of the file that are of the head that is taken.
    pub heads: Vec<String>,
    /// Parameters that keep their values: heads.
    pub kept: Vec<String>,
    /// Parameters that should be in the file and are not.
    pub missing: Vec<String>,
    /// How the shape of a tensor differs, as phrases that begin with its name.
    pub other_shape: Vec<String>,
    /// Tensors of the file that are not used, apart from batch counts.
    pub left_over: Vec<String>,
}

impl Loaded {
    /// Refuses a file that lacks a parameter or has it in another shape.
    ///
    /// # Errors
    /// `Format` with the number of both and the first of each.
    pub fn check(&self, path: &Path) -> Result<()> {
        self.check_with(path, &[])
    }

    /// The same, where the tensors `extra` should not be there either.
    fn check_with(&self, path: &Path, extra: &[String]) -> Result<()> {
        let mut parts = Vec::new();
        for (names, what) in [(&self.missing[..], "missing"), (extra, "too many")] {
            parts.extend(names.first().map(|first| format!("{} {what} (first `{first}`)", names.len())));
        }
        let first = self.other_shape.first();
        parts.extend(first.map(|first| format!("{} of another shape (first {first})", self.other_shape.len())));
        if parts.is_empty() {
            return Ok(());
        }
        Err(Error::content(path, format!("these are the weights of another network: {}", parts.join(", "))))
    }
}

/// The shapes that parameters have in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shapes {
    /// Those of PyTorch's network of the same name.
    Same,
    /// Those of the image network that it extends over time.
    Image,
}

/// The tensors of a file by the names a network has for them, each with its name in the file.
pub(super) struct Names {
    known: BTreeMap<String, String>,
    others: Vec<String>,
}

impl Names {
    /// All tensors, by their names without the prefixes of `matching`.
    pub(super) fn stripped(source: &Source, matching: &Matching) -> Result<Names> {
        let mut known = BTreeMap::new();
        for full in source.tensors().keys() {
            if let Some(other) = known.insert(matching.name(full).to_owned(), full.clone()) {
                let what = format!("`{full}` and `{other}` are one name without their prefixes");
                return Err(Error::content(source.path(), what));
            }
        }
        Ok(Names { known, others: Vec::new() })
    }

    /// The tensors whose names begin with `prefix`, by the rest of it.
    pub(super) fn below(source: &Source, prefix: &str) -> Names {
        let (mut known, mut others) = (BTreeMap::new(), Vec::new());
        for full in source.tensors().keys() {
            match full.strip_prefix(prefix) {
                Some(name) => drop(known.insert(name.to_owned(), full.clone())),
                None => others.push(full.clone()),
            }
        }
        Names { known, others }
    }
}

/// Which tensor of a file becomes which parameter of several networks.
pub(super) struct Mapping {
    /// The network, the parameter and its tensor; without one it becomes the identity over time.
    steps: Vec<(usize, ParamId, Option<String>)>,
    /// The network and its count of batches.
    counts: Vec<(usize, String)>,
    shapes: Shapes,
    /// Names in the file's terms that nothing asked for.
    unused: Vec<String>,
    pub(super) report: Loaded,
}

impl Mapping {
    /// Looks for each parameter by the name that `wanted` gives it in the file; one without a name keeps its value.
    pub(super) fn new(
        source: &Source,
        mut names: Names,
        networks: &[(&str, &Params)],
        shapes: Shapes,
        wanted: impl Fn(&str) -> Option<String>,
    ) -> Mapping {
        let (mut report, mut steps, mut counts) = (Loaded::default(), Vec::new(), Vec::new());
        for (n, (prefix, params)) in networks.iter().enumerate() {
            for (id, p) in params.iter() {
                let Some(name) = wanted(&format!("{prefix}{}", p.name)) else {
                    report.kept.push(p.name.clone());
                    continue;
                };
                let count = (p.role == Role::RunningVar).then(|| names.known.remove(&batches_name(&name))).flatten();
                counts.extend(count.map(|full| (n, full)));
                let want = match shapes {
                    Shapes::Same => pytorch_shape(p.role, &p.value),
                    Shapes::Image => image_shape(p),
                };
                match names.known.remove(&name) {
                    None if shapes == Shapes::Image && p.name.ends_with("_t.weight") => {
                        report.made.push(p.name.clone());
                        steps.push((n, id, None));
                    }
                    None => report.missing.push(name),
                    Some(full) if source.tensors()[&full].shape != want => {
                        let shape = &source.tensors()[&full].shape;
                        report.other_shape.push(format!("`{name}` is {shape:?} instead of {want:?}"));
                    }
                    Some(full) => {
                        report.copied.push(p.name.clone());
                        steps.push((n, id, Some(full)));
                    }
                }
            }
        }
        let unused = names.known.keys().cloned().collect();
        let left = names.known.into_values().chain(names.others);
        report.left_over = left.filter(|name| !name.ends_with(".num_batches_tracked")).collect();
        report.left_over.sort();
        Mapping { steps, counts, shapes, unused, report }
    }

    /// Whether the file has nothing to do with the networks.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.report.missing.is_empty() && self.report.other_shape.is_empty()
    }

    /// Reads the values and puts them into the networks, all or none.
    pub(super) fn fill(&self, source: &mut Source, networks: &mut [(&str, &mut Params)]) -> Result<()> {
        let mut values = Vec::new();
        for (n, id, name) in &self.steps {
            let p = &networks[*n].1[*id];
            values.push(match (name, self.shapes) {
                (None, _) => identity(p)?,
                (Some(name), Shapes::Same) => source.parameter(name, p.role, p.value.shape())?,
                (Some(name), Shapes::Image) => inflated(p, &source.values(name, p.role)?)?,
            });
        }
        let mut batches = vec![None; networks.len()];
        for (n, name) in self.counts.iter().filter(|_| self.shapes == Shapes::Same) {
            batches[*n] = batches[*n].max(Some(source.i64(name)?.max(0) as u64));
        }
        for ((n, id, _), value) in self.steps.iter().zip(values) {
            let param = &mut networks[*n].1[*id];
            param.value = value.to(&param.value.device())?;
        }
        for ((_, params), count) in networks.iter_mut().zip(batches) {
            params.batches = count.unwrap_or(params.batches);
        }
        Ok(())
    }
}

/// Loads weights into `networks`, each with the prefix its names have in the file (after `matching` has stripped them), from a
/// file of any [format](super::Format). F32, F64, F16 and BF16 are accepted; batch counts may be missing. Nothing is changed on
/// error.
///
/// # Errors
/// As [`Source::open`]; `Format` when the file does not match its checksum (files of other programs may have none), is of another
/// network (names or shapes), or holds a value that is not finite.
pub fn load_weights(path: &Path, networks: &mut [(&str, &mut Params)], matching: &Matching) -> Result<()> {
    let mut source = Source::open(path)?;
    source.verify()?;
    fill(&mut source, networks, matching)
}

/// As [`load_weights`], for a file that is open and has been compared with its checksum.
pub(crate) fn fill(source: &mut Source, networks: &mut [(&str, &mut Params)], matching: &Matching) -> Result<()> {
    let names = Names::stripped(source, matching)?;
    let views: Vec<(&str, &Params)> = networks.iter().map(|(prefix, params)| (*prefix, &**params)).collect();
    let mapping = Mapping::new(source, names, &views, Shapes::Same, |name| Some(name.to_owned()));
    mapping.report.check_with(source.path(), if matching.allow_extra { &[] } else { &mapping.unused })?;
    mapping.fill(source, networks)
}
