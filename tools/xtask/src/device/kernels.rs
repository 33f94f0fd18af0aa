//! `cargo xtask kernels`: a report of the cost of every kernel, from the assembler and the disassembler.

use super::assemble::{Assembler, Resources, on_all_cores};
use super::build::chosen;
use super::check::SCRATCH;
use super::family::{Manifest, Target, ptx_path, read_manifest};
use super::listing;
use super::occupancy::occupancy;
use super::sass::{self, Code, Loop};
use super::tools::Tools;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The simulator's counters, which `tests/it/device/counters.rs` writes: a line for each kernel in a case.
const COUNTERS: &str = "tests/fixtures/counters.csv";

/// A family that only tests launch, whose cost is not of interest unless it is named.
const NOT_SHOWN: &str = "classes";

/// Architectures whose machine code is disassembled.
const DISASSEMBLED: [&str; 2] = ["sm_80", "sm_90a"];

const HEAD: &str = "\
# Kernels: what each costs

Printed by `cargo xtask kernels` from the committed PTX, with ptxas 13.0 and nvdisasm 13.2; no GPU is involved, so nothing here is a
time. `cargo xtask ptx --check` fails on any spill and on any stack frame that its source does not allow by name.

*Resources*: **thr** threads of a block (`__launch_bounds__`); **shared** bytes of shared memory, static + dynamic as launched. Then for each
architecture registers of a thread, blocks that a multiprocessor holds at once, and its resident warps as a share of the most, with
what hinders more (`reg` registers, `smem` shared memory, `warp` and `blk` the hardware's counts). *too big*: one block does not fit, and
the kernel is not launched there.

*Instructions*: **all** is the length of the machine code and the instructions in it by class (address arithmetic and control are not
listed): `HMMA` a warp's tensor product, `HGMMA` a warpgroup's, `UTMALDG` a copy of a tensor by TMA, `LDGSTS` an asynchronous copy from
global to shared memory, `LDSM` a load of matrix fragments, `.128` sixteen bytes a thread. **main loop** is the innermost loop with most of
the arithmetic: its length, the cycles below which a warp cannot issue one pass (the sum of the stalls in the encoding; waiting for memory
comes on top), and the bytes that a thread loads from global memory in a pass, as issued.

*Counters*, where a table has them, are the simulator's for a real layer at its table's batch (`tests/fixtures/counters.csv`; they may not grow): warp
instructions and products of tensor cores in millions; bytes of global memory asked for, counted each time; **sectors** of 32 bytes touched, as
a multiple of the fewest that hold each request (1: nothing is fetched in vain); **conflicts** cycles lost to bank conflicts for each access of
shared memory.
";

/// One family, assembled and disassembled.
struct Report {
    name: String,
    manifest: Manifest,
    bytes: usize,
    /// Threads per block, by entry.
    threads: BTreeMap<String, u32>,
    /// By architecture.
    resources: Vec<(&'static str, Vec<Resources>)>,
    code: Vec<(&'static str, BTreeMap<String, Code>)>,
}

/// The report of the named families, or all, in Markdown.
pub fn report(root: &Path, named: &[String]) -> Result<String> {
    let mut names = chosen(root, named)?;
    names.retain(|name| !named.is_empty() || name != NOT_SHOWN);
    let tools = &Tools::require(root)?;
    let all_counters = fs::read_to_string(root.join(COUNTERS)).with_context(|| format!("cannot read {COUNTERS}"))?;
    let scratch = root.join(SCRATCH);
    fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let assemblers: Vec<Assembler> = Assembler::all(tools)?.into_iter().filter(Assembler::is_latest).collect();
    let nvdisasm = tools.program("cu13/bin/nvdisasm")?;
    let jobs: Vec<(&String, &Assembler)> =
        names.iter().flat_map(|n| assemblers.iter().filter(|a| a.takes(Target::of(n))).map(move |a| (n, a))).collect();
    let mut done = on_all_cores(&jobs, |(name, assembler)| {
        let cubin = scratch.join(format!("{name}.{}.cubin", assembler.arch));
        let resources = assembler.run(&root.join(ptx_path(name)), &cubin)?;
        let looked_into = DISASSEMBLED.contains(&assembler.arch);
        let code = looked_into.then(|| sass::disassemble(&nvdisasm, &cubin)).transpose()?;
        Ok((assembler.arch, resources, code))
    })
    .into_iter()
    .collect::<Result<Vec<_>>>()?
    .into_iter();
    let mut text = HEAD.to_owned();
    for name in names {
        let of = assemblers.iter().filter(|a| a.takes(Target::of(&name))).count();
        let mut report = Report::read(root, name)?;
        for (arch, resources, code) in done.by_ref().take(of) {
            report.resources.push((arch, resources));
            report.code.extend(code.map(|code| (arch, code)));
        }
        report.write(&mut text)?;
        counters(&all_counters, &report.manifest.entries, &mut text)?;
    }
    Ok(text)
}

impl Report {
    fn read(root: &Path, name: String) -> Result<Report> {
        let path = ptx_path(&name);
        let ptx = fs::read_to_string(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
        let entries = listing::parse(&ptx);
        Ok(Report {
            manifest: read_manifest(root, &name)?,
            bytes: ptx.len(),
            threads: entries.iter().map(|e| (e.name.to_owned(), e.threads().unwrap_or(1024))).collect(),
            name,
            resources: Vec::new(),
            code: Vec::new(),
        })
    }

    fn write(&self, text: &mut String) -> Result<()> {
        let count = self.manifest.entries.len();
        write!(text, "\n## {}\n\n{count} kernels, {} KB of PTX.\n\n", self.name, self.bytes.div_ceil(1000))?;
        write!(text, "| kernel | thr | shared |")?;
        self.resources.iter().try_for_each(|(arch, _)| write!(text, " {arch} |"))?;
        write!(text, " spills |\n|---|---:|---:|{}---|\n", "---|".repeat(self.resources.len()))?;
        for entry in &self.manifest.entries {
            self.resources_of(entry, text)?;
        }
        writeln!(text, "\n| kernel | arch | all | main loop |\n|---|---|---|---|")?;
        for entry in &self.manifest.entries {
            for (arch, code) in &self.code {
                let Some(code) = code.get(entry) else { continue };
                write!(text, "| `{entry}` | {arch} | {}: {} | ", code.instructions, code.mix)?;
                match &code.main_loop {
                    Some(l) => {
                        let Loop { instructions, mix, cycles, loaded } = l;
                        writeln!(text, "{instructions} in >= {cycles} cycles, {loaded} B: {mix} |")?;
                    }
                    None => writeln!(text, "none |")?,
                }
            }
        }
        if !self.manifest.allowed.is_empty() {
            writeln!(text)?;
        }
        for exception in &self.manifest.allowed {
            writeln!(
                text,
                "Allowed: {} in `{}`: {}.",
                exception.what,
                exception.entry,
                exception.reason.trim_end_matches('.')
            )?;
        }
        Ok(())
    }

    /// The row of an entry in the table of resources.
    fn resources_of(&self, entry: &str, text: &mut String) -> Result<()> {
        let threads = self.threads.get(entry).copied().unwrap_or(1024);
        let dynamic = self.manifest.shared.get(entry).copied().unwrap_or(0);
        let of = |all: &[Resources]| all.iter().find(|r| r.name == entry).cloned().unwrap_or_default();
        let fixed = self.resources.first().map_or(0, |(_, all)| of(all).shared);
        write!(text, "| `{entry}` | {threads} | {fixed} + {dynamic} |")?;
        let mut spills = Vec::new();
        for (arch, all) in &self.resources {
            let r = of(all);
            match occupancy(arch, r.registers, r.shared + dynamic, threads) {
                Some(o) => write!(text, " {}, {} blk, {}% {} |", r.registers, o.blocks, o.percent, o.limit)?,
                None => write!(text, " {}, too big |", r.registers)?,
            }
            if r.spills != (0, 0) {
                spills.push(format!("{arch} {}/{} B", r.spills.0, r.spills.1));
            }
        }
        let spills = if spills.is_empty() { "0".to_owned() } else { spills.join(", ") };
        Ok(writeln!(text, " {spills} |")?)
    }
}

/// The table of the simulator's counters of some kernels, if there are any.
fn counters(all: &str, entries: &[String], text: &mut String) -> Result<()> {
    let mut head =
        "\n| kernel | in | warp instr. | tensor | asked | sectors | conflicts |\n|---|---|---:|---:|---:|---:|---:|\n";
    for line in all.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [kernel, case, ref counts @ ..] = cells[..] else { bail!("{COUNTERS}: {line} is no line of counters") };
        if !entries.iter().any(|entry| entry == kernel) {
            continue;
        }
        let counts = counts.iter().map(|n| n.parse()).collect::<Result<Vec<u64>, _>>()?;
        let [warp, tensor, sectors, ideal, bytes, shared, conflicts] = counts[..] else {
            bail!("{COUNTERS}: {line} has not seven counters");
        };
        let mega = |n: u64| format!("{:.3}", n as f64 * 1e-6);
        let part = |n: u64, of: u64| if of == 0 { "-".to_owned() } else { format!("{:.2}", n as f64 / of as f64) };
        let (warp, tensor, bytes) = (mega(warp), mega(tensor), mega(bytes));
        let (sectors, conflicts) = (part(sectors, ideal), part(conflicts, shared));
        write!(text, "{}", std::mem::take(&mut head))?;
        writeln!(text, "| `{kernel}` | {case} | {warp} M | {tensor} M | {bytes} MB | {sectors} | {conflicts} |")?;
    }
    Ok(())
}
