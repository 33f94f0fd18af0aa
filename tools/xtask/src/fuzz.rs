//! `cargo xtask fuzz`: runs the targets of `tools/fuzz` under libFuzzer and prints a table of the results.
//!
//! Inputs found by libFuzzer are written to `target/fuzz/found/<target>` and crashes to `target/fuzz/crashes/<target>`;
//! the committed corpus is only read.

use crate::nightly;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::time::Instant;

/// Command-line options.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// Targets by name; if empty, all.
    pub targets: Vec<String>,
    /// Seconds per target.
    pub seconds: u64,
    /// Number of concurrent targets.
    pub jobs: usize,
    /// Where to write the results as JSON.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Parses `[TARGET..] [--seconds N] [--jobs N] [--json FILE]`.
    ///
    /// # Errors
    /// One sentence for an option that is unknown or lacks its value.
    pub fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options { targets: Vec::new(), seconds: 60, jobs: 1, json: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            let number = |text: &String| match text.parse() {
                Ok(n) if n > 0 => Ok(n),
                _ => bail!("{arg} is a whole number from 1 on, not {text}"),
            };
            match arg.as_str() {
                "--seconds" => options.seconds = number(value()?)?,
                "--jobs" => options.jobs = number(value()?)? as usize,
                "--json" => options.json = Some(value()?.into()),
                _ if arg.starts_with('-') => bail!("fuzz has no option {arg}"),
                target => options.targets.push(target.to_owned()),
            }
        }
        Ok(options)
    }
}

/// The result of fuzzing a target.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    executions: u64,
    /// Edges of the program covered, and features (edges with execution counts).
    cov: u64,
    ft: u64,
    /// Number of inputs in the corpus.
    corpus: u64,
}

/// Dictionaries for targets.
const DICTIONARIES: [(&str, &str); 6] = [
    ("config", "config"),
    ("checkpoint", "safetensors"),
    ("state", "safetensors"),
    ("lists", "lists"),
    ("ptx", "ptx"),
    ("torch", "torch"),
];

/// Builds and runs the targets; returns whether there was no crash.
///
/// # Errors
/// One sentence if a tool is missing; a target that does not build or start.
pub fn run(root: &Path, options: &Options) -> Result<bool> {
    let all = targets(root)?;
    for target in &options.targets {
        ensure!(all.contains(target), "there is no target {target}: the targets are {}", all.join(", "));
    }
    let chosen = if options.targets.is_empty() { all } else { options.targets.clone() };
    require_tools()?;
    let (home, crate_folder) = (root.join("target/fuzz"), root.join("tools/fuzz"));
    for target in &chosen {
        let mut build = nightly::cargo(&["fuzz", "build", "--fuzz-dir"]);
        build.arg(&crate_folder).arg("--target-dir").arg(&home).arg(target).current_dir(&crate_folder);
        ensure!(build.status()?.success(), "the fuzzing target {target} does not build");
    }
    // Thousands of files are written and read per second, so they are kept in memory.
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let scratch = parent.join(format!("tubelet-fuzz-{}", std::process::id()));
    let queue = Mutex::new(chosen.iter());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.min(chosen.len()) {
            scope.spawn(|| {
                while let Some(target) = { queue.lock().unwrap_or_else(|e| e.into_inner()).next() } {
                    let outcome = fuzz(&home, &crate_folder, &scratch, target, options.seconds);
                    done.lock().unwrap_or_else(|e| e.into_inner()).push((target, outcome));
                }
            });
        }
    });
    let _ = fs::remove_dir_all(&scratch); // in memory, and not needed any more
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(target, _)| *target);
    let (mut fine, mut record) = (true, Vec::new());
    println!("| target | executions | CPU s | cov | ft | corpus | crashes |\n|---|---|---|---|---|---|---|");
    for (target, outcome) in done {
        let (figures, cpu, crashes) = outcome?;
        fine &= crashes.is_empty();
        let Figures { executions, cov, ft, corpus } = figures;
        println!("| {target} | {executions} | {cpu:.0} | {cov} | {ft} | {corpus} | {} |", crashes.len());
        crashes.iter().for_each(|file| eprintln!("{target} ends with {}", file.display()));
        record.push(json!({
            "target": target, "executions": executions, "cpu_seconds": cpu.round(), "cov": cov, "ft": ft,
            "corpus": corpus, "crashes": crashes.len(),
        }));
    }
    if let Some(file) = &options.json {
        fs::write(file, format!("{:#}\n", Value::from(record)))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(fine)
}

/// The targets' names, sorted.
fn targets(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join("tools/fuzz/fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn require_tools() -> Result<()> {
    nightly::require("fuzzing")?;
    ensure!(
        nightly::has(&["fuzz", "--version"]),
        "fuzzing needs cargo-fuzz, and it is not there: `cargo install --locked cargo-fuzz` gets it"
    );
    Ok(())
}

/// Runs a target for some seconds, or to its first crash: its results, processor time, and the crashing input.
fn fuzz(
    home: &Path,
    crate_folder: &Path,
    scratch: &Path,
    target: &str,
    seconds: u64,
) -> Result<(Figures, f64, Vec<PathBuf>)> {
    let temporary = scratch.join(target);
    let (found, crashes) = (home.join("found").join(target), home.join("crashes").join(target));
    for folder in [&temporary, &found, &crashes] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let log = home.join(format!("{target}.log"));
    let program = home.join(format!("{}-unknown-linux-gnu/release/{target}", std::env::consts::ARCH));
    let mut command = Command::new(&program);
    command.args([&found, &crate_folder.join("corpus").join(target)]);
    command.arg(format!("-max_total_time={seconds}"));
    command.args(["-rss_limit_mb=2048", "-timeout=20", "-max_len=65536", "-print_final_stats=1"]);
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    if let Some((_, words)) = DICTIONARIES.iter().find(|(name, _)| *name == target) {
        command.arg(format!("-dict={}", crate_folder.join(format!("dictionaries/{words}.dict")).display()));
    }
    command.env("TMPDIR", &temporary).env("ASAN_OPTIONS", "detect_odr_violation=0").stdout(File::create(&log)?);
    command.stderr(File::options().append(true).open(&log)?);
    println!("{target}: {seconds} s, {}", log.display());
    let (before, began) = (files(&crashes)?, Instant::now());
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let (status, cpu) = wait(child)?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let new: Vec<PathBuf> = files(&crashes)?.into_iter().filter(|file| !before.contains(file)).collect();
    ensure!(
        status.success() || !new.is_empty(),
        "{target} ended with {status} after {:.0} s; {} says why",
        began.elapsed().as_secs_f64(),
        log.display()
    );
    Ok((figures(&text), cpu, new))
}

/// What libFuzzer left in a folder of crashes. Inputs that were only slow, as they all are on a busy machine, are none.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| !file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("slow-unit-")));
    files.sort();
    Ok(files)
}

/// Waits for a process; returns its exit status and the processor time it took.
fn wait(child: Child) -> Result<(ExitStatus, f64)> {
    let mut status = 0;
    // SAFETY: all-zero bytes are a valid `rusage`, which is numbers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to local variables, and the process is a child that nothing else waits for.
    while unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage) } < 0 {
        let error = std::io::Error::last_os_error();
        ensure!(error.kind() == std::io::ErrorKind::Interrupted, "cannot wait for a process: {error}");
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    Ok((ExitStatus::from_raw(status), seconds(usage.ru_utime) + seconds(usage.ru_stime)))
}

/// Parses libFuzzer's output: `#8192 pulse cov: 61 ft: 102 corp: 11/1kb …`, and its final statistics.
fn figures(log: &str) -> Figures {
    let after = |line: &str, word: &str| -> Option<u64> {
        let rest = line.split(word).nth(1)?.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let mut figures = Figures::default();
    for line in log.lines() {
        if let (Some(cov), Some(ft)) = (after(line, "cov: "), after(line, "ft: ")) {
            (figures.cov, figures.ft) = (cov, ft);
            figures.corpus = after(line, "corp: ").unwrap_or(figures.corpus);
            figures.executions = after(line, "#").unwrap_or(0).max(figures.executions);
        }
        figures.executions = after(line, "stat::number_of_executed_units:").unwrap_or(figures.executions);
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options> {
        Options::parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_mistakes_named() {
        let all = parse(&["flo", "--seconds", "5", "--jobs", "2", "ptx"]).unwrap();
        assert_eq!((all.targets, all.seconds, all.jobs), (vec!["flo".to_owned(), "ptx".to_owned()], 5, 2));
        for (args, words) in [
            (&["--seconds"][..], "needs a value"),
            (&["--jobs", "0"], "from 1 on, not 0"),
            (&["--all"], "no option --all"),
        ] {
            let error = parse(args).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn figures_are_those_of_the_last_line_and_the_statistics() {
        let log = "#2\tINITED cov: 3 ft: 4 corp: 1/1b exec/s: 0 rss: 27Mb\n\
                   #8192\tpulse  cov: 61 ft: 102 corp: 11/1024b lim: 80 exec/s: 4096 rss: 30Mb\n\
                   stat::number_of_executed_units: 9000\n";
        assert_eq!(figures(log), Figures { executions: 9000, cov: 61, ft: 102, corpus: 11 });
        assert_eq!(figures(&log[..log.len() - 40]).executions, 8192, "without statistics, as after a crash");
    }

    #[test]
    fn every_target_has_a_corpus() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        for target in targets(root).unwrap() {
            assert!(root.join("tools/fuzz/corpus").join(&target).is_dir(), "{target}");
        }
    }
}
