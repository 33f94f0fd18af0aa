//! Development commands for tubelet: `cargo xtask <command>`.

use anyhow::{Result, ensure};
use std::fs;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;
use xtask::device::{self, Formatted, INSTALL, Tools, kernels};
use xtask::{
    ablation, bundle, chaos, fuzz, maclr, model, mpi, pack_trial, profile, protocol, ranks, redraw, sanitize, tidy,
    transfer, versus,
};

const USAGE: &str = "usage: cargo xtask <command>
  tidy              checks names, layers, circles, cases and sizes
  ptx [FAMILY..]    compiles cuda/ into ptx/, with the pinned compiler
  ptx --check [FAMILY..]
                    compiles again and compares, then lets two releases of ptxas take the PTX for six architectures:
                    no spill, no stack frame, no advice; kernels for Hopper have HGMMA and UTMALDG. Without the tools it says so and compares hashes alone
  cubins DIR [ARCH..]
                    assembles the PTX for sm_80, sm_86, sm_89, sm_90a, sm_100 and sm_120, or for those named, into a folder that
                    the library loads modules from (`Gpu::with_cubins`)
  kernels [FAMILY..]
                    prints registers, occupancy, instructions and counters of every kernel, in Markdown
  ablation DIR [GESTURES]
                    runs every row of the table in docs/experiments.md, three seeds each (an hour or two on two cores), and
                    prints it; GESTURES is that data set's folder, without it procedural clips alone
  transfer DIR [OPTION..]
                    pre-trains with RGB only, MaCLR and MCL and evaluates each network: linear probe, retrieval, training with all
                    labels, a third and a tenth, beside a random network: prints a table, and draws a figure.
                    --data PATH (procedural clips), --groups FILE, --epochs N (30), --tune-epochs N (15), --seeds N (3),
                    --programs DIR (examples that are built), --json FILE, --svg FILE
  protocol DATA OUT [OPTION..]
                    what methods are worth on a set with actors, by docs/protocol.md: each training actor is left out in turn, then
                    the test actors are scored, once per recipe; writes protocol.json and protocol.svg into OUT; what is done
                    there is not done again: --folds N (all actors; 0: none), --seeds N (5), --methods A,B.. (maclr,mcl,rgb,
                    random,supervised), --with METHOD=OPTIONS (repeatable: more options of its training), --folds-only (the test
                    set is left alone), --once (with it, to screen recipes: the networks of all folds are one, pre-trained without
                    labels on all training actors), --fold-seeds N (1), --again (score a recipe on the test set once more), --programs DIR (examples that are
                    built), --record FILE (benches/record/protocol-scorings.json)
  redraw DATA OUT [--seed N]
                    a second draw of a set with actors: every video mirrored, at a speed that varies, in other colours and framed
                    otherwise, by ffmpeg; the lists stay
  versus [OPTION..] our operations and PyTorch's on the same cases by turns: a table with the ratios
                    --only TEXT (repeatable: cases with every TEXT in their names), --all (f32 by one means, too),
                    --rounds N (4), --seconds S of a turn (0.03), --threads N (2; on one PyTorch takes slower f32
                    convolutions than oneDNN's), --drift PERCENT (10: a case is repeated if the machine's probed rates moved by
                    more during it), --tries N (3: after so many it has no ratio), --processor-time (for a busy machine),
                    --python PATH (python3), --before BINARY (another commit's `versus` bench instead of PyTorch),
                    --scirs2 (TV-L1 of the crate scirs2-vision instead, which is built first), --json FILE, --record FILE
  profile NET [OPTION..]
                    where a training step of r2plus1d_18, slow_r50, cvrl_r3d50, p3d_a50 or r3d_18 on the CPU spends its time: what
                    each kind of pass multiplies, reads and writes (counted), its time, and the bytes by degree of fusion
                    --precision P (f32, fma, bf16x3, bf16x6, bf16), --clips N (2), --steps N (5, the fastest counts),
                    --threads N (2), --json FILE
  versus-maclr DATA DIR [OPTION..]
                    MaCLR's training on DATA (gestures) and PyTorch's of the same recipe by turns, from empty caches in DIR:
                    --precision P (f32; repeatable: fma, bf16x3, bf16x6, bf16), --epochs N (4), --rounds N (3), --threads N (2),
                    --python PATH (python3), --json FILE
  model [OPTION..]  predicts training steps on a GPU, without one: launches, time, what bounds it, floors, the peer
                    --net TEXT (repeatable: steps with one TEXT in their names), --launches (the dearest ones),
                    --json ({step: {ms, floor_epi_ms, floor_full_ms, peer_ms, ..}}), --device h200|h100|a100 (h200),
                    --known (the model's predictions beside what others measured), --calibration FILE (measured rates),
                    --kernels (InfoNCE, TV-L1 and augmentation alone)
  model --calibrate RECORD OUT
                    writes the rates in a record of the `gpu` bench as a calibration file
  scaling [OPTION..]
                    predicts the steps of MaCLR and MCL on 8, 64 and 512 GPUs: exchanges, what of them is hidden, what breaks
                    first: --json, --device h200|h100|a100 (h200), --calibration FILE
  fuzz [TARGET..] [OPTION..]
                    reads made-up files with every reader of files from outside, until one crashes or the time is over:
                    --seconds N for each target (60), --jobs N targets at a time (1), --json FILE for the figures
  chaos [OPTION..]  kills, pauses, starves and doubles pre-training runs at random moments and compares what they come to, bit
                    for bit, with runs left alone: --kills N (100), --seed N (0), --programs DIR (examples that are built),
                    --json FILE for the figures
  ranks [OPTION..]  runs on two ranks under torchrun and mpirun, where they are: a rank is killed in the middle, and the bits must
                    be those of --accumulate 2: --programs DIR (examples that are built), --torchrun PATH, --mpirun PATH;
                    --hosts: on two hosts instead, which are network namespaces, 5 ms apart, whose cable is cut at last;
                    --kills N: on four ranks without a launcher instead, N of which are killed at random moments of
                    --seed N (0), --json FILE for the figures
  pack-trial DIR [OPTION..]
                    packs thousands of short videos in DIR with the example `pack`, by shards that are killed at random
                    moments, and compares the bytes with those of one process: --videos N (2000), --shards N (8),
                    --kills N of each shard (4), --seed N (0), --programs DIR (examples that are built), --json FILE
  sanitize [miri|address] [TEST..]
                    the library's unit tests under Miri, and the tests of the CPU's kernels under the address sanitizer; it
                    needs a nightly compiler, with its parts miri and rust-src for Miri
  mpi [MPIRUN]      builds with the feature mpi, and runs ranks under mpirun: what they exchange is compared with threads,
                    a run of pretrain_maclr with --accumulate 2, and
                    a rank fails, panics, is killed, hangs: all must end within ten seconds
  bundle DIR        programs, scripts and run.sh for a machine with a GPU and a driver
  rehearse DIR [SECONDS]
                    run.sh of the bundle in DIR, for SECONDS (540), on a driver that logs every call and executes none; tests
                    that compare results fail there, and the figures mean nothing
  --help            this page; so does any command with --help";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    // No command takes these as a value.
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let done = match args.split_first().map(|(command, rest)| (command.as_str(), rest)) {
        Some(("tidy", [])) => run_tidy(root),
        Some(("ptx", [flag, families @ ..])) if flag == "--check" => check(root, families),
        Some(("ptx", families)) if !families.iter().any(|f| f.starts_with('-')) => ptx(root, families),
        Some(("kernels", families)) if !families.iter().any(|f| f.starts_with('-')) => kernels(root, families),
        Some(("cubins", [folder, archs @ ..])) if !folder.starts_with('-') => cubins(root, folder.as_ref(), archs),
        Some(("mpi", [])) => said(mpi::run(root, "mpirun")),
        Some(("mpi", [mpirun])) if !mpirun.starts_with('-') => said(mpi::run(root, mpirun)),
        Some(("bundle", [folder])) if !folder.starts_with('-') => write_bundle(root, folder.as_ref()),
        Some(("rehearse", [folder])) if !folder.starts_with('-') => rehearse(root, folder.as_ref(), 540),
        Some(("rehearse", [folder, seconds])) if !folder.starts_with('-') => match seconds.parse() {
            Ok(seconds) => rehearse(root, folder.as_ref(), seconds),
            Err(_) => return refused(&format!("rehearse takes a number of seconds, not {seconds}")),
        },
        Some(("versus", options)) => match versus::Options::parse(options) {
            Ok(options) => versus::run(root, &options).map(|()| ExitCode::SUCCESS),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("profile", args)) => match profile::Options::parse(args) {
            Ok(options) => profile::run(root, &options).map(|()| ExitCode::SUCCESS),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("versus-maclr", args)) => match maclr::Options::parse(args) {
            Ok(options) => maclr::run(root, &options).map(|()| ExitCode::SUCCESS),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("model", options)) => match model::Options::parse(options) {
            Ok(options) => model::run(root, &options),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("scaling", args)) => match model::Options::of_ranks(args) {
            Ok(options) => model::run(root, &options),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("transfer", args)) => match transfer::Options::parse(args) {
            Ok(options) => transfer::run(root, &options).map(|()| ExitCode::SUCCESS),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("protocol", args)) => match protocol::Options::parse(args) {
            Ok(options) => protocol::run(root, &options).map(|()| ExitCode::SUCCESS),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("redraw", args)) => match redraw::Options::parse(args) {
            Ok(options) => redraw::run(&options).map(|()| ExitCode::SUCCESS),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("fuzz", options)) => match fuzz::Options::parse(options) {
            Ok(options) => fuzz::run(root, &options).map(passed),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("pack-trial", args)) => match pack_trial::Options::parse(args) {
            Ok(options) => pack_trial::run(root, &options).map(|()| ExitCode::SUCCESS),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("sanitize", options)) => match sanitize::Options::parse(options) {
            Ok(options) => sanitize::run(root, &options).map(passed),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("chaos", options)) => match chaos::Options::parse(options) {
            Ok(options) => chaos::run(root, &options).map(passed),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("ranks", options)) => match ranks::Options::parse(options) {
            Ok(options) => ranks::run(root, &options).map(|()| ExitCode::SUCCESS),
            Err(error) => return refused(&error.to_string()),
        },
        Some(("ablation", [folder, data @ ..])) if !folder.starts_with('-') && data.len() < 2 => {
            ablate(root, folder.as_ref(), data.first().map(Path::new))
        }
        _ if args.is_empty() => return refused("a command is missing"),
        _ => return refused(&format!("`{}` is no command, or has arguments it does not take", args.join(" "))),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what is wrong with the arguments, and the usage.
fn refused(why: &str) -> ExitCode {
    eprintln!("error: {why}\n{USAGE}");
    ExitCode::from(2)
}

fn run_tidy(root: &Path) -> Result<ExitCode> {
    let mut problems = tidy::problems(root)?;
    problems.extend(device::problems(root)?);
    match device::formatted(root)? {
        Formatted::Compared(found) => problems.extend(found),
        Formatted::Skipped(why) => println!("{why}"),
    }
    report(&problems, "tidy")
}

fn ptx(root: &Path, families: &[String]) -> Result<ExitCode> {
    for line in device::build(root, families)? {
        println!("{line}");
    }
    report(&device::problems(root)?, "")
}

/// Prints the problems, or `fine` if there are none, and returns the exit code.
fn report(problems: &[String], fine: &str) -> Result<ExitCode> {
    if problems.is_empty() {
        if !fine.is_empty() {
            println!("{fine}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    for problem in problems {
        eprintln!("{problem}");
    }
    eprintln!("{} problems", problems.len());
    Ok(ExitCode::FAILURE)
}

fn check(root: &Path, families: &[String]) -> Result<ExitCode> {
    device::chosen(root, families)?;
    let mut problems = device::problems(root)?;
    let Some(tools) = Tools::find(root) else {
        println!("the pinned CUDA tools are absent, so hashes alone were compared; to install them: {INSTALL}");
        return report(&problems, "");
    };
    let checked = device::check(root, &tools, families)?;
    problems.extend(checked.problems);
    report(&problems, &checked.said)
}

fn kernels(root: &Path, families: &[String]) -> Result<ExitCode> {
    stdout().write_all(kernels::report(root, families)?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn cubins(root: &Path, folder: &Path, archs: &[String]) -> Result<ExitCode> {
    for line in device::cubins(root, folder, archs)? {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

fn ablate(root: &Path, folder: &Path, gestures: Option<&Path>) -> Result<ExitCode> {
    if let Some(data) = gestures {
        ensure!(data.exists(), "there is no {}", data.display());
    }
    fs::create_dir_all(folder)?;
    println!("{}", ablation::run(root, &folder.canonicalize()?, gestures)?);
    Ok(ExitCode::SUCCESS)
}

/// Prints what a command says.
fn said(text: Result<String>) -> Result<ExitCode> {
    println!("{}", text?);
    Ok(ExitCode::SUCCESS)
}

/// The exit code for success or failure.
fn passed(well: bool) -> ExitCode {
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn rehearse(root: &Path, folder: &Path, seconds: u32) -> Result<ExitCode> {
    println!("{}", bundle::rehearse(root, folder, seconds)?);
    Ok(ExitCode::SUCCESS)
}

fn write_bundle(root: &Path, folder: &Path) -> Result<ExitCode> {
    for line in bundle::write(root, folder)? {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}
