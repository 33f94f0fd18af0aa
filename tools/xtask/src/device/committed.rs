//! Checks of the committed PTX that need no compiler: whether it matches its sources, and whether it contains
//! instructions that no kernel should have.

use super::family::{Family, Manifest, families, family_of, manifest_path, ptx_path, read_manifest};
use super::tools::COMPILER;
use super::{listing, sha256};
use crate::source::entries;
use anyhow::Result;
use std::fs;
use std::path::Path;

/// The version that every committed file must have: an older driver refuses newer ones.
const VERSION: &str = ".version 8.4";

/// All problems in `ptx/`, one sentence each.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let names = families(root)?;
    let mut found = Vec::new();
    for name in &names {
        found.extend(family_problems(root, name)?);
    }
    for (file, _) in entries(root, "ptx")? {
        if !family_of(&file).is_some_and(|family| names.iter().any(|name| name == family)) {
            found.push(format!("ptx/{file} belongs to no source in cuda/: run `cargo xtask ptx`"));
        }
    }
    Ok(found)
}

fn family_problems(root: &Path, name: &str) -> Result<Vec<String>> {
    let path = ptx_path(name);
    let run = format!("run `cargo xtask ptx {name}`");
    let (Ok(ptx), true) = (fs::read_to_string(root.join(&path)), root.join(manifest_path(name)).is_file()) else {
        return Ok(vec![format!("the family {name} has not been compiled: {run}")]);
    };
    let manifest = read_manifest(root, name)?;
    let family = Family::read(root, name)?;
    let mut found = Vec::new();
    if manifest.sources != family.hashes() {
        let changed = changed(&manifest, &family).join(", ");
        found.push(format!("{path} is older than its sources ({changed} changed): {run}"));
    }
    if manifest.ptx != sha256(ptx.as_bytes()) {
        found.push(format!("{path} is not the file that {} speaks of: {run}", manifest_path(name)));
    }
    if manifest.compiler != COMPILER || manifest.options != family.target.options() {
        found.push(format!("{path} was made by another compiler or with other options: {run}"));
    }
    for line in [VERSION, &format!(".target {}", family.target.arch())] {
        if !ptx.lines().any(|l| l.trim() == line) {
            found.push(format!("{path} lacks the line {line}"));
        }
    }
    if ptx.lines().any(|l| l.split_whitespace().any(|word| word == ".func")) {
        found.push(format!("{path} defines a function (.func): let it be inlined"));
    }
    if !manifest.entries.iter().all(|entry| manifest.registers.contains_key(entry)) {
        found.push(format!("{} does not say how many registers each kernel has: {run}", manifest_path(name)));
    }
    let dynamic = listing::dynamic_shared(&ptx);
    for entry in listing::parse(&ptx) {
        if dynamic.iter().any(|array| entry.body.contains(array)) && !manifest.shared.contains_key(entry.name) {
            let (file, entry) = (&family.file, entry.name);
            found.push(format!(
                "cuda/{file} does not say how much shared memory {entry} is launched with: // shared: {entry} <bytes>"
            ));
        }
        let refused = entry.faults().into_iter().filter(|(what, _)| !manifest.allows(entry.name, what));
        found.extend(refused.map(|(_, sentence)| format!("{path}: {} {sentence}", entry.name)));
    }
    Ok(found)
}

/// The sources that differ from their hashes in the manifest, or that only one of the two has.
fn changed(manifest: &Manifest, family: &Family) -> Vec<String> {
    let now = family.hashes();
    let mut paths: Vec<String> = manifest.sources.keys().chain(now.keys()).cloned().collect();
    paths.sort();
    paths.dedup();
    paths.retain(|path| manifest.sources.get(path) != now.get(path));
    paths
}
