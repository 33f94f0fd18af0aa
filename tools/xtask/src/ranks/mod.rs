//! `cargo xtask ranks`: runs of two ranks under real launchers, torchrun and mpirun. One rank is killed in the middle, the run is
//! started again (torchrun does so by itself), and its bits must be those of one process that accumulates two micro-batches.
//! `--kills N` does it many times to four ranks without a launcher.

mod hosts;
mod kills;

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Command-line options.
#[derive(Debug, Default, PartialEq)]
pub struct Options {
    /// Folder of the compiled examples; they are built if it is not given.
    pub programs: Option<PathBuf>,
    /// The launchers, where they are not in `PATH`.
    pub torchrun: Option<PathBuf>,
    pub mpirun: Option<PathBuf>,
    /// Whether ranks on two hosts are tried, which needs root, instead of launchers.
    pub hosts: bool,
    /// How many ranks are killed, one after another, instead; 0 for none.
    pub kills: usize,
    /// Seed of the moments.
    pub seed: u64,
    /// Where to write the kills as JSON.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Parses `[--programs DIR] [--torchrun PATH] [--mpirun PATH] [--hosts] [--kills N] [--seed N] [--json FILE]`.
    ///
    /// # Errors
    /// One sentence for an option that is unknown or lacks its value.
    pub fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = || args.clone().next().map(PathBuf::from).with_context(|| format!("{arg} needs a value"));
            let number = || -> Result<u64> {
                let value = value()?;
                let number = value.to_str().and_then(|text| text.parse().ok());
                number.with_context(|| format!("{arg} is a whole number, not {}", value.display()))
            };
            match arg.as_str() {
                "--programs" => options.programs = Some(value()?),
                "--torchrun" => options.torchrun = Some(value()?),
                "--mpirun" => options.mpirun = Some(value()?),
                "--kills" => options.kills = number()? as usize,
                "--seed" => options.seed = number()?,
                "--json" => options.json = Some(value()?),
                "--hosts" => {
                    options.hosts = true;
                    continue;
                }
                _ => bail!("ranks has no option {arg}"),
            }
            args.next();
        }
        Ok(options)
    }
}

/// A method with the options that make a step of it take some milliseconds.
const METHODS: [(&str, &str); 3] = [
    ("pretrain_maclr", "--batch 24 --frames 4 --motion-frames 4 --side 16 --epochs 12 --threads 1"),
    ("pretrain_mcl", "--batch 24 --frames 4 --side 16 --epochs 12 --threads 1 --precision bf16"),
    ("finetune", "--batch 24 --frames 4 --side 16 --epochs 12 --threads 1 --clips 1 --precise-bn 4 --wire bf16"),
];

/// Steps in an epoch of 192 procedural clips; the last one.
const PER_EPOCH: u64 = 8;
const LAST: u64 = 96;

/// Longer than any of these runs takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a launcher is called.
struct Launcher {
    name: &'static str,
    /// How to get it.
    install: &'static str,
    program: PathBuf,
    before: Vec<&'static str>,
    /// The variable in a rank's environment that says which it is.
    rank: &'static str,
    /// Whether it starts all ranks again when one has failed.
    restarts: bool,
}

fn launchers(options: &Options) -> [Launcher; 2] {
    let given = |path: &Option<PathBuf>, name: &str| path.clone().unwrap_or_else(|| name.into());
    [
        Launcher {
            name: "torchrun",
            install: "pip install torch, and give --torchrun PATH",
            program: given(&options.torchrun, "torchrun"),
            before: vec!["--no-python", "--nproc-per-node", "2", "--max-restarts", "1", "--master-port", "29711"],
            rank: "RANK=1",
            restarts: true,
        },
        Launcher {
            name: "mpirun",
            install: "apt-get install openmpi-bin",
            program: given(&options.mpirun, "mpirun"),
            before: vec!["--oversubscribe", "--allow-run-as-root", "-n", "2"],
            rank: "OMPI_COMM_WORLD_RANK=1",
            restarts: false,
        },
    ]
}

/// Runs all of it; prints a line for each launcher and method.
///
/// # Errors
/// When bits differ, a run fails, or no launcher is there.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let programs = match &options.programs {
        Some(folder) => folder.canonicalize().with_context(|| format!("--programs {}", folder.display()))?,
        None => {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--release"]).args(METHODS.iter().flat_map(|(method, _)| ["--example", method]));
            ensure!(build.current_dir(root).status()?.success(), "the examples cannot be built");
            root.join("target/release/examples")
        }
    };
    let home = root.join("target/ranks");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home)?;
    // The run of one process of a method, which is made once.
    let ranks = if options.kills > 0 { kills::RANKS } else { 2 };
    let alone = |method: &str, args: &str| -> Result<PathBuf> {
        let alone = home.join(format!("{method}-alone"));
        if !alone.exists() {
            let mut command = Command::new(programs.join(method));
            command.args(args.split(' ')).args(["--accumulate", &ranks.to_string(), "--out"]).arg(&alone);
            finish(&mut begin(&mut command, &home)?, true)?;
        }
        Ok(alone)
    };
    if options.kills > 0 {
        return kills::run(&programs, &home, options, alone);
    }
    if options.hosts {
        return hosts::run(&programs, &home, alone);
    }
    let mut tried = 0;
    for launcher in launchers(options) {
        let there = Command::new(&launcher.program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if there.is_err() {
            println!("{} is not here, so it is not tried: {}", launcher.name, launcher.install);
            continue;
        }
        for (method, args) in METHODS {
            let out = home.join(format!("{method}-{}", launcher.name));
            killed_once(&launcher, &programs.join(method), args, &out, &home)?;
            same(&alone(method, args)?, &out)?;
            let how = if launcher.restarts { "which started it again" } else { "started again" };
            println!("{}: {method} on 2 ranks, one killed, {how}: the bits of --accumulate 2", launcher.name);
        }
        tried += 1;
    }
    ensure!(tried > 0, "neither torchrun nor mpirun is here");
    Ok(())
}

fn begin(command: &mut Command, home: &Path) -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(home.join("log"))?;
    command.current_dir(home).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("{:?} cannot be started", command.get_program()))
}

/// Waits for the end of a run, which must be a success or a failure.
fn finish(child: &mut Child, success: bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success() == success, "a run ended with {status}: target/ranks/log says why");
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            bail!("a run does not end: target/ranks/log has what it printed");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A run of two ranks, the second of which is killed after two epochs.
fn killed_once(launcher: &Launcher, program: &Path, args: &str, out: &Path, home: &Path) -> Result<()> {
    let start = || {
        let mut command = Command::new(&launcher.program);
        command.args(&launcher.before).arg(program).args(args.split(' ')).arg("--out").arg(out);
        begin(&mut command, home)
    };
    let mut child = start()?;
    let (begun, middle) = (Instant::now(), out.join(format!("checkpoints/step-{:08}", 2 * PER_EPOCH)));
    while !middle.exists() {
        ensure!(child.try_wait()?.is_none(), "a run ended before its first checkpoint: target/ranks/log says why");
        ensure!(begun.elapsed() < PATIENCE, "a run makes no checkpoint: target/ranks/log has what it printed");
        std::thread::sleep(Duration::from_millis(5));
    }
    let rank = rank_of(launcher, out)?;
    ensure!(Command::new("kill").args(["-KILL", &rank.to_string()]).status()?.success(), "rank 1 cannot be killed");
    finish(&mut child, launcher.restarts)?;
    if !launcher.restarts {
        finish(&mut start()?, true)?;
    }
    Ok(())
}

/// The process of rank 1 of the run in `out`.
fn rank_of(launcher: &Launcher, out: &Path) -> Result<u32> {
    let is_it = |process: &Path| {
        let holds = |file: &str, what: &[u8]| {
            let bytes = fs::read(process.join(file)).unwrap_or_default();
            bytes.split(|byte| *byte == 0).any(|text| text == what)
        };
        holds("environ", launcher.rank.as_bytes()) && holds("cmdline", out.as_os_str().as_encoded_bytes())
    };
    for entry in fs::read_dir("/proc")?.flatten() {
        let id = entry.file_name().to_string_lossy().parse::<u32>();
        if let Ok(id) = id
            && is_it(&entry.path())
        {
            return Ok(id);
        }
    }
    bail!("the process of rank 1 is not found")
}

/// The steps of the newest checkpoint in `out`.
fn steps_done(out: &Path) -> u64 {
    let entries = fs::read_dir(out.join("checkpoints")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).max().unwrap_or_default()
}

/// Refuses runs with other bits.
pub(crate) fn same(alone: &Path, out: &Path) -> Result<()> {
    let last = format!("checkpoints/step-{LAST:08}");
    for file in [format!("{last}/weights.safetensors"), format!("{last}/state.safetensors"), "metrics.jsonl".into()] {
        let read = |run: &Path| fs::read(run.join(&file)).with_context(|| format!("{}/{file}", run.display()));
        ensure!(read(alone)? == read(out)?, "{file} of {} and {} differ", alone.display(), out.display());
    }
    Ok(())
}
