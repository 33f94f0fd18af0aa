//! `cargo xtask ptx --check`: checks of the committed PTX that need the compiler and the assemblers.

use super::assemble::{Assembler, Resources, on_all_cores};
use super::build::{chosen, compile};
use super::family::{Family, Manifest, Target, ptx_path, read_manifest};
use super::nvrtc::Nvrtc;
use super::sass::{self, Mix};
use super::tools::Tools;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Where the machine code that is disassembled is written.
pub const SCRATCH: &str = "target/xtask";

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
    let nvdisasm = tools.program("cu13/bin/nvdisasm")?;
    fs::create_dir_all(root.join(SCRATCH)).with_context(|| format!("cannot create {SCRATCH}"))?;
    let results = on_all_cores(&jobs, |(name, assembler)| assembled(root, name, assembler, &nvdisasm));
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

/// Problems that one assembler reports for one family, and of the machine code it makes of one for Hopper.
fn assembled(root: &Path, name: &str, assembler: &Assembler, nvdisasm: &Path) -> Result<Vec<String>> {
    let manifest = read_manifest(root, name)?;
    let path = ptx_path(name);
    let hopper = Target::of(name) == Target::Hopper;
    let cubin =
        if hopper { root.join(format!("{SCRATCH}/{name}.{}.cubin", assembler.release)) } else { "/dev/null".into() };
    let entries = match assembler.run(&root.join(&path), &cubin) {
        Err(refusal) => return Ok(vec![format!("{refusal:#}")]),
        Ok(entries) => entries,
    };
    let mut found: Vec<String> = entries.iter().flat_map(|entry| complaints(entry, &manifest)).collect();
    if hopper {
        let code = sass::disassemble(nvdisasm, &cubin)?;
        found.extend(manifest.entries.iter().flat_map(|entry| {
            let mix = code.get(entry).map(|code| &code.mix);
            mix.map_or_else(|| vec![format!("{entry} is not in the machine code")], |mix| lacks(entry, mix, &manifest))
        }));
    }
    Ok(found.into_iter().map(|sentence| format!("{path}: {}: {sentence}", assembler.name())).collect())
}

/// What a kernel for Hopper exists for and is not in its machine code, and local memory, unless its source allows it.
fn lacks(entry: &str, mix: &Mix, manifest: &Manifest) -> Vec<String> {
    let wanted = [("HGMMA", "hgmma", "products of a warpgroup"), ("UTMALDG", "utmaldg", "copies of tensors by TMA")];
    let lacking = wanted.into_iter().filter(|(class, what, _)| mix.count(class) == 0 && !manifest.allows(entry, what));
    let mut found: Vec<String> = lacking.map(|(class, _, what)| format!("{entry} has no {what} ({class})")).collect();
    if mix.count("LDL/STL") > 0 && !manifest.allows(entry, "local") {
        found.push(format!("{entry} accesses local memory {} times (LDL, STL)", mix.count("LDL/STL")));
    }
    found
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
    fn a_kernel_for_hopper_has_its_instructions() {
        let mix = |classes: &[&str]| Mix::with(classes);
        let all = ["HGMMA", "UTMALDG"];
        assert!(lacks("k", &mix(&all), &manifest("spill")).is_empty());
        let said = lacks("k", &mix(&["HMMA"]), &manifest("hgmma"));
        assert_eq!(said, ["k has no copies of tensors by TMA (UTMALDG)"]);
        assert_eq!(lacks("k", &mix(&["UTMALDG"]), &manifest("utmaldg")).len(), 1);
        let local = lacks("k", &mix(&["HGMMA", "UTMALDG", "LDL/STL"]), &manifest("stack"));
        assert_eq!(local, ["k accesses local memory 1 times (LDL, STL)"]);
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
