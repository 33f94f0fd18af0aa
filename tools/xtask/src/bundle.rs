//! `cargo xtask bundle DIR`: a folder for testing and benchmarking on a machine with a GPU. It holds stripped programs,
//! the scripts of the peers and `run.sh`, and requires nothing there but the driver.

use crate::device::{self, INSTALL, Tools};
use crate::source;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Maximum size of a bundle in bytes.
const HEAVIEST: u64 = 64 << 20;

/// The script that the bundle runs.
const RUN: &str = include_str!("run.sh");

/// What cargo builds: the tests, the one bench that needs a GPU, and the examples that `run.sh` runs.
const BUILDS: [&[&str]; 3] = [
    &["test", "--package", "tubelet-tests", "--release", "--no-run", "--test", "it"],
    &["bench", "--package", "tubelet-benches", "--no-run", "--bench", "gpu"],
    &["build", "--package", "tubelet", "--release", "--example", "pretrain_maclr", "--example", "embed_kernel"],
];

/// Builds and writes the bundle; returns a list of its contents.
pub fn write(root: &Path, folder: &Path) -> Result<Vec<String>> {
    let mut programs = BTreeMap::new();
    for build in BUILDS {
        programs.extend(built(root, build)?);
    }
    for needed in ["it", "gpu", "pretrain_maclr", "embed_kernel"] {
        ensure!(programs.contains_key(needed), "cargo built no program {needed}, which run.sh needs");
    }
    let bin = folder.join("bin");
    let peers = folder.join("peers");
    if bin.exists() {
        fs::remove_dir_all(&bin).with_context(|| format!("cannot remove {}", bin.display()))?;
    }
    for path in [&bin, &peers] {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let mut said = Vec::new();
    let mut total = 0;
    for (name, program) in &programs {
        strip(program, &bin.join(name))?;
        let bytes = pack(&bin.join(name))?;
        total += bytes;
        said.push(format!("bin/{name}, compressed: {:.1} MiB", bytes as f64 / f64::from(1 << 20)));
    }
    for entry in fs::read_dir(root.join("benches/peers"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "py") {
            total += fs::copy(&path, peers.join(path.file_name().unwrap_or_default()))?;
        }
    }
    total += write_cubins(root, &folder.join("cubins"), &mut said)?;
    write_run(folder, &modules(root)?)?;
    said.push(format!("{} in all: {:.1} MiB", folder.display(), total as f64 / f64::from(1 << 20)));
    ensure!(total <= HEAVIEST, "the bundle weighs {total} bytes, more than {HEAVIEST}:\n{}", said.join("\n"));
    Ok(said)
}

/// Writes cubins for every architecture, compressed, and the lists of them. Returns their bytes: none without ptxas.
fn write_cubins(root: &Path, folder: &Path, said: &mut Vec<String>) -> Result<u64> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    if Tools::find(root).is_none() {
        said.push(format!(
            "no cubins, since there is no ptxas: the driver will compile all modules; to install: {INSTALL}"
        ));
        return Ok(0);
    }
    said.extend(device::cubins(root, folder, &[])?);
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "cubin") {
            bytes += pack(&path)?;
        } else {
            bytes += fs::metadata(path)?.len();
        }
    }
    said.push(format!("cubins, compressed: {:.1} MiB", bytes as f64 / f64::from(1 << 20)));
    Ok(bytes)
}

/// Replaces a file by its compressed form, `.gz`. Returns the bytes of that.
fn pack(path: &Path) -> Result<u64> {
    // Without a time, so that the same file gives the same bytes.
    let packed = Command::new("gzip").args(["-9", "-n", "-f"]).arg(path).status().context("cannot run gzip")?;
    ensure!(packed.success(), "gzip cannot compress {}", path.display());
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    Ok(fs::metadata(name)?.len())
}

/// Runs `run.sh` of the bundle in `folder` on `tools/simcuda`, which logs calls and executes nothing, as a Hopper unless
/// `SIMCUDA_CAPABILITY` says otherwise; the results are in `folder/rehearsal`. Returns how it ended.
///
/// # Errors
/// When there is no bundle, or the driver cannot be built.
pub fn rehearse(root: &Path, folder: &Path, seconds: u32) -> Result<String> {
    let folder = folder.canonicalize().with_context(|| format!("there is no {}", folder.display()))?;
    ensure!(
        folder.join("run.sh").is_file(),
        "there is no run.sh in {}; `cargo xtask bundle` writes it",
        folder.display()
    );
    let driver = folder.join("rehearsal/driver");
    fs::create_dir_all(&driver)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).current_dir(root).args(["build", "--release", "--package", "simcuda"]).status()?;
    ensure!(built.success(), "simcuda cannot be built");
    fs::copy(root.join("target/release/libsimcuda.so"), driver.join("libcuda.so"))?;
    let ended = Command::new(folder.join("run.sh"))
        .args(["--budget", &seconds.to_string(), "rehearsal"])
        .env("LD_LIBRARY_PATH", &driver)
        // Cargo's, by which benches find this repository; no such folder is where a bundle runs.
        .env_remove("CARGO_MANIFEST_DIR")
        .env("SIMCUDA_EXECUTE", "0")
        .env("SIMCUDA_CAPABILITY", std::env::var_os("SIMCUDA_CAPABILITY").unwrap_or_else(|| "9.0".into()))
        .env("SIMCUDA_PTX", root.canonicalize()?.join("ptx"))
        .status()
        .context("cannot run run.sh")?;
    Ok(format!("the rehearsal {ended}; {}", folder.join("rehearsal/table.txt").display()))
}

/// The test modules that use a GPU if there is one, as filters.
fn modules(root: &Path) -> Result<String> {
    let files = source::read(root, &["tests/it"])?;
    let marks = ["on_gpu(", "on_tensor_cores(", "on_hopper(", "Kernels::Hopper"];
    let uses = |f: &&source::Source| marks.iter().any(|mark| f.mentions(mark));
    let stems = files.iter().filter(|f| uses(f) && !f.under("tests/it/support"));
    let stems: Vec<String> = stems
        .map(|f| format!("{}::", f.path["tests/it/".len()..].trim_end_matches(".rs").replace('/', "::")))
        .collect();
    ensure!(!stems.is_empty(), "no test in tests/it runs on a GPU");
    Ok(stems.join(" "))
}

/// Writes `run.sh`, and a file that lists the test modules it runs.
fn write_run(folder: &Path, modules: &str) -> Result<()> {
    fs::write(folder.join("modules"), modules.to_owned() + "\n")?;
    let run = folder.join("run.sh");
    fs::write(&run, RUN).with_context(|| format!("cannot write {}", run.display()))?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Runs cargo and collects the programs that it reports, by target.
fn built(root: &Path, command: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let (verb, rest) = command.split_first().context("a build has a verb")?;
    let mut cargo = Command::new(cargo);
    cargo.current_dir(root).arg(verb).args(rest);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed", command.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(program).collect())
}

/// The program reported in a line of cargo's messages.
fn program(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let kind = message["target"]["kind"][0].as_str()?;
    let wanted = matches!(kind, "test" | "bench" | "example");
    let name = message["target"]["name"].as_str()?.to_owned();
    wanted.then_some((name, PathBuf::from(message["executable"].as_str()?)))
}

/// Copies a program without its symbols, or with them if `strip` is not available.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let stripped = Command::new("strip").arg("-o").arg(to).arg(from).status();
    if !stripped.is_ok_and(|s| s.success()) {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"gpu"},"executable":"/t/gpu-1"}"#;
        assert_eq!(program(line), Some(("gpu".into(), "/t/gpu-1".into())));
        for other in ["{}", "text", &line.replace("bench", "lib"), &line.replace("\"/t/gpu-1\"", "null")] {
            assert_eq!(program(other), None, "{other}");
        }
    }

    /// A folder with `run.sh` and programs that are one-line scripts.
    fn folder(name: &str, programs: &[(&str, &str)]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tubelet-bundle-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("bin")).unwrap();
        write_run(&folder, "device::conv3d:: device::tensors::").unwrap();
        for (program, line) in programs {
            let path = folder.join("bin").join(program);
            fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        folder
    }

    fn run(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(folder.join("run.sh")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    }

    /// `gpu` as a script: its report counts the figures in the record.
    const GPU: &str = "case $1 in --report) wc -l < $2/ours.json; date > $2/record.json;; \
                       --assumptions|--modules|--peaks|--launches|--timed) echo $1 >> $2;; esac";

    #[test]
    fn without_a_gpu_it_says_so_and_ends_with_3() {
        let folder = folder("none", &[("gpu", "echo no driver >&2; exit 3")]);
        assert_eq!(run(&folder, &[]), (Some(3), "there is no GPU to run on: no driver\n".to_owned()));
        for (args, words) in [(&["--budget", "soon"][..], "not 'soon'"), (&["--fast"], "no option --fast")] {
            let (code, said) = run(&folder, args);
            assert!(code == Some(2) && said.contains(words), "{said}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_failure_is_noted_the_rest_still_runs_and_the_next_run_goes_on() {
        let it = "echo $* >> calls; echo test result: ok. 3 passed; [ -e mended ] || [ $1 = device::instructions:: ]";
        let programs = [("gpu", GPU), ("it", it), ("pretrain_maclr", "echo '{}'"), ("embed_kernel", "")];
        let folder = folder("some", &programs);
        let (code, said) = run(&folder, &[]);
        assert_eq!((code, said.matches("NOT PASSED").count()), (Some(1), 2), "{said}");
        assert!(said.contains("== tests.device_conv3d: at most 81 s\n   NOT PASSED (status 1)"), "{said}");
        // Assumptions, modules, peaks, layers, steps, kernels, cases, each once.
        let ours = fs::read_to_string(folder.join("results/ours.json")).unwrap();
        assert_eq!((ours.lines().count(), ours.lines().next()), (7, Some("--assumptions")), "{said}");
        assert_eq!(said.lines().last(), Some("7"), "the table comes last: {said}");
        fs::write(folder.join("mended"), "").unwrap();
        let (code, said) = run(&folder, &["--budget", "600"]);
        assert_eq!((code, said.matches("passed before").count()), (Some(0), 10), "{said}");
        assert_eq!(
            fs::read_to_string(folder.join("calls")).unwrap().lines().count(),
            5,
            "classes once, tests of two subjects twice"
        );
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn cubins_of_the_gpu_are_unpacked_for_the_programs() {
        let gpu = "case $1 in --architecture) echo sm_90a;; --report) date > $2/record.json;; esac";
        let it = "cat $TUBELET_TEST_CUBINS/relu.sm_90a.cubin >> seen; echo test result: ok. 3 passed";
        let programs = [("gpu", gpu), ("it", it), ("pretrain_maclr", "echo '{}'"), ("embed_kernel", "")];
        let folder = folder("cubins", &programs);
        let (_, said) = run(&folder, &["none"]);
        assert!(said.lines().next().is_some_and(|line| line.contains("no cubins for it")), "{said}");
        let cubins = folder.join("cubins");
        fs::create_dir_all(&cubins).unwrap();
        fs::write(cubins.join("sm_90a.txt"), "list").unwrap();
        let packed = cubins.join("relu.sm_90a.cubin.gz");
        fs::write(&packed, "no gzip").unwrap();
        let (_, said) = run(&folder, &["broken"]);
        assert!(said.lines().next().is_some_and(|line| line.contains("cannot be unpacked")), "{said}");
        fs::remove_file(&packed).unwrap();
        fs::write(cubins.join("relu.sm_90a.cubin"), "code").unwrap();
        assert!(Command::new("gzip").arg(cubins.join("relu.sm_90a.cubin")).status().unwrap().success());
        let (code, said) = run(&folder, &["out"]);
        assert!(code == Some(0) && said.lines().next().is_some_and(|line| line.contains("cubins of sm_90a")), "{said}");
        assert_eq!(fs::read_to_string(folder.join("out/cubins/sm_90a.txt")).unwrap(), "list");
        assert_eq!(fs::read_to_string(folder.join("seen")).unwrap(), "codecodecode", "in each part of tests");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_rehearsal_needs_a_bundle() {
        let empty = folder("empty", &[]);
        fs::remove_file(empty.join("run.sh")).unwrap();
        for (folder, words) in [(empty.clone(), "there is no run.sh in"), (empty.join("none"), "there is no ")] {
            let error = rehearse(Path::new("."), &folder, 60).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        fs::remove_dir_all(empty).unwrap();
    }

    #[test]
    fn a_part_that_takes_too_long_is_ended_and_the_record_is_there() {
        let it = "echo test result: ok. 1 passed; [ $1 != device::instructions:: ] || sleep 60";
        let programs = [("gpu", GPU), ("it", it), ("pretrain_maclr", "echo '{}'"), ("embed_kernel", "")];
        let folder = folder("slow", &programs);
        let start = std::time::Instant::now();
        let (code, said) = run(&folder, &["--budget", "60", "out"]);
        assert!(start.elapsed().as_secs() < 50, "the sleep is ended");
        assert!(code == Some(1) && said.contains("NOT PASSED (its time was over)"), "{said}");
        assert!(said.contains("== peaks: no time is left"), "three seconds are too few: {said}");
        assert!(
            folder.join("out/record.json").exists() && folder.join("out/tests.device_tensors.passed").exists(),
            "{said}"
        );
        fs::remove_dir_all(folder).unwrap();
    }
}
