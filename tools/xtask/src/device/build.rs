//! `cargo xtask ptx`: compiles sources to PTX and manifests.

use super::assemble::{Assembler, most_registers};
use super::family::{Family, families, family_of, manifest_path, ptx_path};
use super::nvrtc::{Nvrtc, Unit};
use super::tools::{COMPILER, Tools};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// Compiles the named families, or all, and writes changed files. Returns one line per family.
pub fn build(root: &Path, names: &[String]) -> Result<Vec<String>> {
    let chosen = chosen(root, names)?;
    let tools = Tools::require(root)?;
    let (compiler, assemblers) = (Nvrtc::load(&tools.nvrtc()?)?, Assembler::all(&tools)?);
    fs::create_dir_all(root.join("ptx"))?;
    let mut said = Vec::new();
    for name in &chosen {
        let family = Family::read(root, name)?;
        let ptx = compile(&compiler, &family, &mut said)?;
        let written = write(root, &ptx_path(name), &ptx)?;
        let registers = most_registers(&assemblers, family.target, &root.join(ptx_path(name)))?;
        let manifest = family.manifest(COMPILER, &ptx, registers)?;
        let json = serde_json::to_string_pretty(&manifest)? + "\n";
        let changed = written | write(root, &manifest_path(name), &json)?;
        let state = if changed { "written" } else { "unchanged" };
        said.push(format!("{}: {} entries, {} bytes, {state}", ptx_path(name), manifest.entries.len(), ptx.len()));
    }
    if names.is_empty() {
        said.extend(remove_orphans(root, &chosen)?);
    }
    Ok(said)
}

/// The named families, or all.
pub fn chosen(root: &Path, names: &[String]) -> Result<Vec<String>> {
    let all = families(root)?;
    for name in names {
        ensure!(all.contains(name), "no source in cuda/ is of the family {name}");
    }
    Ok(if names.is_empty() { all } else { names.to_vec() })
}

/// The PTX of a family, compiled with the pinned compiler. Warnings are appended to `said`.
pub fn compile(compiler: &Nvrtc, family: &Family, said: &mut Vec<String>) -> Result<String> {
    let options = &family.target.options();
    let unit = Unit { name: &family.file, source: &family.source, headers: &family.headers, options };
    let compiled = compiler.compile(&unit)?;
    if !compiled.log.is_empty() {
        said.push(compiled.log);
    }
    Ok(compiled.ptx)
}

/// Writes a file if its contents differ, and returns whether they did.
fn write(root: &Path, path: &str, text: &str) -> Result<bool> {
    let full = root.join(path);
    if fs::read(&full).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    fs::write(&full, text).with_context(|| format!("cannot write {path}"))?;
    Ok(true)
}

/// Removes PTX files and manifests without a source.
fn remove_orphans(root: &Path, families: &[String]) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for (name, _) in crate::source::entries(root, "ptx")? {
        if family_of(&name).is_some_and(|family| !families.iter().any(|f| f == family)) {
            fs::remove_file(root.join("ptx").join(&name))?;
            said.push(format!("ptx/{name}: removed, its source is gone"));
        }
    }
    Ok(said)
}
