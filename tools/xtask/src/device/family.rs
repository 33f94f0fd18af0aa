//! A family: one source under `cuda/`, the headers it includes, its PTX, and the manifest with the hashes of all.

use super::{listing, sha256};
use crate::source::entries;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What a family is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `compute_80`: all devices of compute capability 8.0 and newer.
    Portable,
    /// `compute_90a`: Hopper alone, with TMA and wgmma. Families whose name ends in `_sm90`.
    Hopper,
}

impl Target {
    /// That of a family.
    pub fn of(family: &str) -> Target {
        if family.ends_with("_sm90") { Target::Hopper } else { Target::Portable }
    }

    /// The architecture in the names of its files, and in the PTX.
    pub fn arch(self) -> &'static str {
        match self {
            Target::Portable => "sm_80",
            Target::Hopper => "sm_90a",
        }
    }

    /// The compiler's options.
    pub fn options(self) -> [&'static str; 3] {
        let architecture = match self {
            Target::Portable => "--gpu-architecture=compute_80",
            Target::Hopper => "--gpu-architecture=compute_90a",
        };
        [architecture, "--std=c++17", "--fmad=true"]
    }
}

/// The sources of a family.
pub struct Family {
    /// What it is compiled for.
    pub target: Target,
    /// The path of its source from `cuda/`.
    pub file: String,
    pub source: String,
    /// Headers that the source includes, directly or indirectly: paths from `cuda/` and texts, sorted by path. An include
    /// always names the path from `cuda/`.
    pub headers: Vec<(String, String)>,
}

/// `ptx/<name>.<arch>.json`: the inputs, the compiler and the output of compiling a family.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub struct Manifest {
    pub compiler: String,
    pub options: Vec<String>,
    /// The sha256 of the source and of each header, by path.
    pub sources: BTreeMap<String, String>,
    /// The sha256 of the PTX.
    pub ptx: String,
    pub entries: Vec<String>,
    /// Bytes of dynamic shared memory that an entry is launched with, from `// shared: <entry> <bytes>` in the source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shared: BTreeMap<String, u32>,
    /// Registers of a thread of each entry: the most among the assemblers of `cargo xtask ptx --check`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registers: BTreeMap<String, u32>,
    /// Problems that the source allows, from `// allow: <entry> <what>: <reason>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<Allowed>,
}

/// One exception.
#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
pub struct Allowed {
    pub entry: String,
    pub what: String,
    pub reason: String,
}

/// The files under `cuda/`, by their paths from there, in order.
pub fn files(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for (name, is_folder) in entries(root, &format!("cuda/{folder}"))? {
            if is_folder {
                folders.push(format!("{folder}{name}/"));
            } else {
                found.push(format!("{folder}{name}"));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The sources by family: `relu.cu` is the family `relu`, `conv3d/fprop.cu` the family `conv3d_fprop`.
fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    let files = files(root)?.into_iter();
    Ok(files.filter_map(|file| Some((file.strip_suffix(".cu")?.replace('/', "_"), file))).collect())
}

/// The names of all families, in order.
pub fn families(root: &Path) -> Result<Vec<String>> {
    Ok(sources(root)?.into_keys().collect())
}

impl Manifest {
    /// Whether the source allows the problem `what` of an entry.
    pub fn allows(&self, entry: &str, what: &str) -> bool {
        self.allowed.iter().any(|a| a.entry == entry && a.what == what)
    }
}

impl Family {
    /// Reads the source of `name` and all headers it includes.
    pub fn read(root: &Path, name: &str) -> Result<Family> {
        let file = |file: &str| {
            fs::read_to_string(root.join("cuda").join(file)).with_context(|| format!("cannot read cuda/{file}"))
        };
        let path =
            sources(root)?.remove(name).with_context(|| format!("no source in cuda/ is of the family {name}"))?;
        let source = file(&path)?;
        let mut headers = BTreeMap::new();
        let mut wanted: Vec<(String, String)> = included(&source).map(|h| (h, path.clone())).collect();
        while let Some((header, by)) = wanted.pop() {
            if headers.contains_key(&header) {
                continue;
            }
            let text = file(&header).with_context(|| format!("cuda/{by} includes \"{header}\""))?;
            wanted.extend(included(&text).map(|h| (h, header.clone())));
            headers.insert(header, text);
        }
        Ok(Family { target: Target::of(name), file: path, source, headers: headers.into_iter().collect() })
    }

    /// The sha256 of each of its files, by path.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        let headers = self.headers.iter().map(|(name, text)| (format!("cuda/{name}"), sha256(text.as_bytes())));
        headers.chain([(format!("cuda/{}", self.file), sha256(self.source.as_bytes()))]).collect()
    }

    /// The manifest for this source, its compiled `ptx` and the registers that the assemblers give it.
    pub fn manifest(&self, compiler: &str, ptx: &str, registers: BTreeMap<String, u32>) -> Result<Manifest> {
        let listing = listing::parse(ptx);
        let manifest = Manifest {
            compiler: compiler.to_owned(),
            options: self.target.options().map(str::to_owned).to_vec(),
            sources: self.hashes(),
            ptx: sha256(ptx.as_bytes()),
            entries: listing.iter().map(|e| e.name.to_owned()).collect(),
            shared: self.shared()?,
            registers,
            allowed: self.allowed()?,
        };
        let named = manifest.shared.keys().chain(manifest.allowed.iter().map(|a| &a.entry));
        for name in named {
            if !manifest.entries.contains(name) {
                bail!("cuda/{} says something of the kernel {name}, which it does not define", self.file);
            }
        }
        Ok(manifest)
    }

    /// `// shared: <entry> <bytes>`
    fn shared(&self) -> Result<BTreeMap<String, u32>> {
        let mut found = BTreeMap::new();
        for (number, rest) in self.directives("// shared:") {
            let pair = rest.split_once(' ').and_then(|(entry, bytes)| Some((entry, bytes.trim().parse().ok()?)));
            let Some((entry, bytes)) = pair else {
                bail!("cuda/{}:{number}: expected // shared: <entry> <bytes>", self.file);
            };
            found.insert(entry.to_owned(), bytes);
        }
        Ok(found)
    }

    /// `// allow: <entry> <what>: <reason>`
    fn allowed(&self) -> Result<Vec<Allowed>> {
        let mut found = Vec::new();
        for (number, rest) in self.directives("// allow:") {
            let parts = rest.split_once(": ").and_then(|(head, reason)| Some((head.split_once(' ')?, reason)));
            let Some(((entry, what), reason)) = parts.filter(|((_, what), _)| EXCEPTIONS.contains(&what.trim())) else {
                let what = EXCEPTIONS.join("|");
                bail!("cuda/{}:{number}: expected // allow: <entry> {what}: <reason>", self.file);
            };
            let [entry, what, reason] = [entry, what, reason].map(|s| s.trim().to_owned());
            found.push(Allowed { entry, what, reason });
        }
        Ok(found)
    }

    /// What follows `mark` at the start of lines, with line numbers.
    fn directives<'a>(&'a self, mark: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        let lines = self.source.lines().enumerate();
        lines.filter_map(move |(i, l)| Some((i + 1, l.trim_start().strip_prefix(mark)?.trim())))
    }
}

/// Problems that `// allow:` can allow; `hgmma` and `utmaldg` are the lack of these instructions in a kernel for Hopper.
pub const EXCEPTIONS: [&str; 7] = ["local", "div64", "spill", "stack", "advice", "hgmma", "utmaldg"];

/// The names in `#include "name"` directives.
fn included(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
        Some(rest.strip_prefix('"')?.split('"').next()?.to_owned())
    })
}

/// The path of a family's PTX, relative to the root.
pub fn ptx_path(name: &str) -> String {
    format!("ptx/{name}.{}.ptx", Target::of(name).arch())
}

/// The path of a family's manifest, relative to the root.
pub fn manifest_path(name: &str) -> String {
    format!("ptx/{name}.{}.json", Target::of(name).arch())
}

/// The family of a file's name in `ptx/`, if it is that of a PTX file or a manifest.
pub fn family_of(file: &str) -> Option<&str> {
    let (name, arch) = file.strip_suffix(".ptx").or_else(|| file.strip_suffix(".json"))?.split_once('.')?;
    (arch == Target::of(name).arch()).then_some(name)
}

/// The committed manifest of a family.
pub fn read_manifest(root: &Path, name: &str) -> Result<Manifest> {
    let path = manifest_path(name);
    let text = fs::read_to_string(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
    serde_json::from_str(&text).with_context(|| format!("{path} is not a manifest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(source: &str) -> Family {
        Family { target: Target::Portable, file: "toy.cu".into(), source: source.into(), headers: Vec::new() }
    }

    const PTX: &str = ".visible .entry k(\n)\n{\nret;\n}\n";

    #[test]
    fn includes_are_found_however_they_are_spaced() {
        let found: Vec<String> =
            included("#include \"a.cuh\"\n  # include \"b/c.cuh\" // why\n#include <d>\n// x").collect();
        assert_eq!(found, ["a.cuh", "b/c.cuh"]);
    }

    #[test]
    fn files_belong_to_families() {
        assert_eq!(ptx_path("relu"), "ptx/relu.sm_80.ptx");
        assert_eq!(manifest_path("gemm_sm90"), "ptx/gemm_sm90.sm_90a.json");
        assert_eq!(family_of("gemm_sm90.sm_90a.ptx"), Some("gemm_sm90"));
        assert_eq!(family_of("relu.sm_80.json"), Some("relu"));
        for file in ["relu.sm_90a.ptx", "gemm_sm90.sm_80.ptx", "relu.ptx", "relu.sm_80.txt"] {
            assert_eq!(family_of(file), None, "{file}");
        }
    }

    #[test]
    fn the_source_states_its_exceptions() {
        let toy = family("// shared: k 98304\n// allow: k local: an array is indexed by a register\n");
        let manifest = toy.manifest("c", PTX, BTreeMap::new()).unwrap();
        assert_eq!(manifest.shared["k"], 98304);
        assert_eq!(manifest.allowed[0].reason, "an array is indexed by a register");
    }

    #[test]
    fn a_misspelt_exception_is_an_error() {
        for source in ["// shared: k much\n", "// shared: j 4\n", "// allow: k haste: none\n", "// allow: k local\n"] {
            assert!(family(source).manifest("c", PTX, BTreeMap::new()).is_err(), "{source}");
        }
    }
}
