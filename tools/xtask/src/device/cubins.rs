//! `cargo xtask cubins DIR`: assembles the committed PTX into a folder that `Gpu::with_cubins` of the library takes.

use super::assemble::{Assembler, CUBINS, on_all_cores};
use super::family::{Target, families, ptx_path};
use super::tools::Tools;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The architectures that cubins are made for.
pub fn architectures() -> Vec<&'static str> {
    CUBINS.iter().map(|(arch, _)| *arch).collect()
}

/// What was made for an architecture.
#[derive(Default)]
struct Sum {
    cubins: usize,
    bytes: usize,
    took: Duration,
}

/// Assembles every family for the named architectures, or all, and writes a list for each. Returns a line for each.
pub fn cubins(root: &Path, folder: &Path, names: &[String]) -> Result<Vec<String>> {
    for name in names {
        let known = architectures();
        ensure!(known.contains(&name.as_str()), "there are cubins for {}, and not for {name}", known.join(", "));
    }
    let mut assemblers = Assembler::of_cubins(&Tools::require(root)?)?;
    assemblers.retain(|a| names.is_empty() || names.iter().any(|name| name == a.arch));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let families = families(root)?;
    let jobs: Vec<(&Assembler, &String)> = (assemblers.iter())
        .flat_map(|a| families.iter().filter(|name| fits(a, name)).map(move |name| (a, name)))
        .collect();
    let (mut lists, mut sums) = (BTreeMap::<&str, String>::new(), BTreeMap::<&str, Sum>::new());
    for (made, (assembler, _)) in
        on_all_cores(&jobs, |(a, name)| assembled(root, folder, a, name)).into_iter().zip(&jobs)
    {
        let (line, bytes, took) = made?;
        let header = || format!("# by ptxas {}: module, bytes, hash of the file, hash of its PTX\n", assembler.release);
        lists.entry(assembler.arch).or_insert_with(header).push_str(&line);
        let sum = sums.entry(assembler.arch).or_default();
        (sum.cubins, sum.bytes, sum.took) = (sum.cubins + 1, sum.bytes + bytes, sum.took + took);
    }
    for (arch, list) in &lists {
        let path = folder.join(format!("{arch}.txt"));
        fs::write(&path, list).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let said = assemblers.iter().filter_map(|Assembler { arch, release, .. }| {
        let Sum { cubins, bytes, took } = sums.get(arch)?;
        let (megabytes, seconds) = (*bytes as f64 * 1e-6, took.as_secs_f64());
        Some(format!("{arch}: {cubins} cubins, {megabytes:.1} MB, {seconds:.1} s of ptxas {release}"))
    });
    Ok(said.collect())
}

/// Whether a family is assembled for an architecture: every one is for the devices of its target.
fn fits(assembler: &Assembler, family: &str) -> bool {
    Target::of(family) == Target::Portable || assembler.arch == Target::Hopper.arch()
}

/// Assembles a family: its line of the list, the bytes of the cubin, and how long it took.
fn assembled(root: &Path, folder: &Path, assembler: &Assembler, name: &str) -> Result<(String, usize, Duration)> {
    let (ptx, cubin) = (root.join(ptx_path(name)), folder.join(format!("{name}.{}.cubin", assembler.arch)));
    let start = Instant::now();
    assembler.run(&ptx, &cubin)?;
    let took = start.elapsed();
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (ptx, cubin) = (read(&ptx)?, read(&cubin)?);
    Ok((line(name, &cubin, &ptx), cubin.len(), took))
}

/// The line of a list for a module: the hashes are 64-bit FNV-1a, by which the library recognises its own PTX.
pub fn line(module: &str, cubin: &[u8], ptx: &[u8]) -> String {
    let hash = |bytes: &[u8]| {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    };
    format!("{module} {} {:016x} {:016x}\n", cubin.len(), hash(cubin), hash(ptx))
}
