//! `cargo xtask ptx --check`: checks of the committed PTX that need the compiler and the assemblers.

use super::assemble::{Assembler, Resources, on_all_cores};
use super::build::{chosen, compile};
use super::family::{Family, Manifest, Target, ptx_path, read_manifest};
use super::nvrtc::Nvrtc;
use super::tools::Tools;
use anyhow::Result;
use std::fs;
use std::path::Path;

/// The result of a check.
pub struct Checked {
    pub said: String,
    pub problems: Vec<String>,
}

/// Rebuilds the named families (or all) in memory and compares the bytes, then assembles each with all assemblers.
pub fn check(root: &Path, tools: &Tools, names: &[String]) -> Result<Checked> {
    let names = chosen(root, names)?;
    let mut problems = rebuilt(root, tools, &names)?;
    let assemblers = Assembler::all(tools)?;
    let jobs: Vec<(&String, &Assembler)> =
        names.iter().flat_map(|n| assemblers.iter().filter(|a| a.takes(Target::of(n))).map(move |a| (n, a))).collect();
    let results = on_all_cores(&jobs, |(name, assembler)| assembled(root, name, assembler));
    for result in results {
        problems.extend(result?);
    }
    let said = format!("{} families rebuilt alike, and assembled {} times", names.len(), jobs.len());
    Ok(Checked { said, problems })
}

/// The families whose committed PTX differs from what the compiler produces from their sources.
fn rebuilt(root: &Path, tools: &Tools, names: &[String]) -> Result<Vec<String>> {
    let compiler = Nvrtc::load(&tools.nvrtc()?)?;
    let mut found = Vec::new();
    for name in names {
        let made = compile(&compiler, &Family::read(root, name)?, &mut Vec::new())?;
        let committed = fs::read_to_string(root.join(ptx_path(name))).unwrap_or_default();
        if made != committed {
            let line = made.lines().zip(committed.lines()).take_while(|(a, b)| a == b).count() + 1;
            let path = ptx_path(name);
            found.push(format!(
                "{path} differs from what its sources give, first in line {line}: run `cargo xtask ptx`"
            ));
        }
    }
    Ok(found)
}

/// Problems that one assembler reports for one family.
fn assembled(root: &Path, name: &str, assembler: &Assembler) -> Result<Vec<String>> {
    let manifest = read_manifest(root, name)?;
    let path = ptx_path(name);
    Ok(match assembler.run(&root.join(&path), Path::new("/dev/null")) {
        Err(refusal) => vec![format!("{refusal:#}")],
        Ok(entries) => {
            let complaints = entries.iter().flat_map(|entry| complaints(entry, &manifest));
            complaints.map(|c| format!("{path}: {}: {c}", assembler.name())).collect()
        }
    })
}

/// Problems of an entry that its source does not allow.
fn complaints(entry: &Resources, manifest: &Manifest) -> Vec<String> {
    let name = &entry.name;
    let mut found = Vec::new();
    let mut refuse = |what: &str, sentence: String| {
        if !manifest.allows(name, what) {
            found.push(sentence);
        }
    };
    if entry.spills != (0, 0) {
        let (stores, loads) = entry.spills;
        refuse("spill", format!("{name} spills: {stores} bytes stored, {loads} loaded"));
    }
    // Spilled registers are stored on the stack: one complaint is enough.
    if entry.stack != 0 && entry.spills == (0, 0) {
        refuse("stack", format!("{name} has a stack frame of {} bytes", entry.stack));
    }
    for advice in &entry.advice {
        refuse("advice", format!("{name}: {advice}"));
    }
    let stated = manifest.registers.get(name).copied().unwrap_or(0);
    if entry.registers > stated {
        let found = entry.registers;
        refuse(
            "registers",
            format!("{name} has {found} registers where its manifest says {stated}: run `cargo xtask ptx`"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::family::Allowed;

    fn manifest(what: &str) -> Manifest {
        let allowed = Allowed { entry: "k".into(), what: what.into(), reason: "shown elsewhere".into() };
        Manifest {
            compiler: String::new(),
            options: Vec::new(),
            sources: Default::default(),
            ptx: String::new(),
            entries: vec!["k".into()],
            shared: Default::default(),
            registers: [("k".to_owned(), 40)].into(),
            allowed: vec![allowed],
        }
    }

    #[test]
    fn only_what_is_named_is_allowed() {
        let spilling = Resources { name: "k".into(), stack: 8, spills: (8, 8), ..Resources::default() };
        let advised = Resources { name: "k".into(), advice: vec!["(C7508) x".into()], ..Resources::default() };
        assert!(complaints(&spilling, &manifest("spill")).is_empty());
        assert_eq!(complaints(&spilling, &manifest("stack")).len(), 1);
        assert_eq!(complaints(&advised, &manifest("spill")).len(), 1);
        assert!(complaints(&advised, &manifest("advice")).is_empty());
        assert!(complaints(&Resources { name: "k".into(), ..Resources::default() }, &manifest("stack")).is_empty());
        let with = |registers| Resources { name: "k".into(), registers, ..Resources::default() };
        assert!(complaints(&with(40), &manifest("stack")).is_empty());
        assert_eq!(complaints(&with(41), &manifest("stack")).len(), 1);
    }
}
