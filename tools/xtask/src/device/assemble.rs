//! Assembling PTX with NVIDIA's `ptxas`, of two releases, for its diagnostics.

use super::family::Target;
use super::tools::Tools;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// One release of the assembler, for one architecture.
pub struct Assembler {
    program: PathBuf,
    pub release: &'static str,
    pub arch: &'static str,
}

/// The release that represents the oldest supported driver, and the one whose analysis is used.
const OLDEST: (&str, &str) = ("12.4", "cuda_nvcc/bin/ptxas");
const LATEST: (&str, &str) = ("13.0", "cu13/bin/ptxas");

/// Architectures that cubins are made for, and the release that makes them. A driver takes cubins of its own major release of CUDA
/// and of earlier ones, so those of 12.4 are taken by every driver that takes our PTX. Blackwell is newer than 12.4, and its cubins
/// need a driver of CUDA 13 (580).
pub const CUBINS: [(&str, (&str, &str)); 6] = [
    ("sm_80", OLDEST),
    ("sm_86", OLDEST),
    ("sm_89", OLDEST),
    ("sm_90a", OLDEST),
    ("sm_100", LATEST),
    ("sm_120", LATEST),
];

/// Resources of an entry, as reported by the assembler.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub name: String,
    pub registers: u32,
    /// Bytes of static shared memory per block.
    pub shared: u32,
    /// Bytes of stack per thread.
    pub stack: u32,
    /// Bytes of register spills, stored and loaded.
    pub spills: (u32, u32),
    /// Its warnings and performance advice.
    pub advice: Vec<String>,
}

impl Assembler {
    /// Both releases: the oldest for sm_80 and sm_90a, the latest for every architecture that is reported on.
    pub fn all(tools: &Tools) -> Result<Vec<Assembler>> {
        let latest = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];
        let oldest = ["sm_80", "sm_90a"].map(|arch| (OLDEST, arch));
        let wanted = oldest.into_iter().chain(latest.map(|arch| (LATEST, arch)));
        wanted.map(|((release, path), arch)| Ok(Assembler { program: tools.program(path)?, release, arch })).collect()
    }

    /// One for each architecture that cubins are made for.
    pub fn of_cubins(tools: &Tools) -> Result<Vec<Assembler>> {
        let wanted = CUBINS.into_iter();
        wanted.map(|(arch, (release, path))| Ok(Assembler { program: tools.program(path)?, release, arch })).collect()
    }

    /// Whether it is given families of a target: those for Hopper are of no other architecture.
    pub fn takes(&self, target: Target) -> bool {
        match target {
            Target::Portable => self.is_latest() || self.arch == "sm_80",
            Target::Hopper => self.arch == "sm_90a",
        }
    }

    /// Whether this is the release whose analysis is used.
    pub fn is_latest(&self) -> bool {
        self.release == LATEST.0
    }

    /// The prefix of its problems.
    pub fn name(&self) -> String {
        format!("ptxas {} for {}", self.release, self.arch)
    }

    /// Assembles a file into `cubin`. If the assembler fails, the error contains its output.
    pub fn run(&self, ptx: &Path, cubin: &Path) -> Result<Vec<Resources>> {
        let mut command = Command::new(&self.program);
        command.arg("-v").arg(format!("-arch={}", self.arch)).arg(ptx).arg("-o").arg(cubin);
        let output = command.output().with_context(|| format!("cannot run {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} refuses {}: {}", self.name(), ptx.display(), said.trim());
        Ok(parse(&said))
    }
}

/// Registers of a thread of each entry of a file: the most that any of the assemblers gives it.
pub fn most_registers(assemblers: &[Assembler], target: Target, ptx: &Path) -> Result<BTreeMap<String, u32>> {
    let mut most = BTreeMap::new();
    let assemblers: Vec<&Assembler> = assemblers.iter().filter(|a| a.takes(target)).collect();
    for entries in on_all_cores(&assemblers, |assembler| assembler.run(ptx, Path::new("/dev/null"))) {
        for entry in entries? {
            let registers = most.entry(entry.name).or_default();
            *registers = entry.registers.max(*registers);
        }
    }
    Ok(most)
}

/// Parses the report of `ptxas -v`.
fn parse(report: &str) -> Vec<Resources> {
    let mut found: Vec<Resources> = Vec::new();
    for line in report.lines() {
        let quoted = line.split('\'').nth(1);
        if line.contains("Compiling entry function") {
            found.push(Resources { name: quoted.unwrap_or("").to_owned(), ..Resources::default() });
            continue;
        }
        let before = |unit: &str| number_before(line, unit);
        // Advice may be printed before the report of the entry that it refers to.
        if line.contains("(C7") || line.contains("warning") {
            let named = quoted.unwrap_or("").to_owned();
            match found.iter_mut().find(|r| line.contains(&format!("'{}'", r.name))) {
                Some(entry) => entry.advice.push(line.trim().to_owned()),
                None => {
                    found.push(Resources { name: named, advice: vec![line.trim().to_owned()], ..Default::default() })
                }
            }
        } else if let Some(entry) = found.last_mut() {
            if line.contains("bytes stack frame") {
                entry.stack = before(" bytes stack frame");
                entry.spills = (before(" bytes spill stores"), before(" bytes spill loads"));
            } else if line.contains("Used ") {
                entry.registers = before(" registers");
                entry.shared = before(" bytes smem");
            }
        }
    }
    merge(found)
}

/// One record per entry: advice that was printed first is merged with the report that followed.
fn merge(records: Vec<Resources>) -> Vec<Resources> {
    let mut merged: Vec<Resources> = Vec::new();
    for record in records {
        match merged.iter_mut().find(|r| r.name == record.name) {
            Some(first) => {
                let advice = std::mem::take(&mut first.advice);
                *first = Resources { advice: [advice, record.advice.clone()].concat(), ..record };
            }
            None => merged.push(record),
        }
    }
    merged
}

/// The number before `unit` in a line, or zero.
fn number_before(line: &str, unit: &str) -> u32 {
    let Some(at) = line.find(unit) else { return 0 };
    line[..at].rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Applies `work` to each item, on all cores; results are in the order of the items.
pub fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let cores = thread::available_parallelism().map_or(1, NonZero::get).min(items.len());
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((item, place)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    items.get(i).zip(results.get(i))
                } {
                    *place.lock().expect("no worker panics while it holds a result") = Some(work(item));
                }
            });
        }
    });
    let done = results.into_iter().map(|r| r.into_inner().expect("as above"));
    done.map(|r| r.expect("the workers took every item")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
ptxas info    : (C7510) Potential Performance Loss: wgmma is serialized in the function 'second'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for first
    496 bytes stack frame, 888 bytes spill stores, 928 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 496 bytes cumulative stack size, 256 bytes smem
ptxas info    : Compile time = 44.371 ms
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, 376 bytes cmem[0]
";

    #[test]
    fn a_report_is_read() {
        let mut read = parse(REPORT);
        read.sort_by(|a, b| a.name.cmp(&b.name));
        let first = Resources {
            name: "first".into(),
            registers: 64,
            shared: 256,
            stack: 496,
            spills: (888, 928),
            advice: Vec::new(),
        };
        assert_eq!(read[0], first);
        assert_eq!((read[1].registers, read[1].shared, read[1].stack), (18, 0, 0));
        assert!(read[1].advice[0].contains("C7510"), "{:?}", read[1]);
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn results_keep_the_order_of_their_items() {
        let items: Vec<u64> = (0..100).collect();
        assert_eq!(on_all_cores(&items, |n| n * n), items.iter().map(|n| n * n).collect::<Vec<_>>());
        assert!(on_all_cores(&[0_u8; 0], |n| *n).is_empty());
    }
}
