//! `cargo xtask mpi`: ranks under mpirun (`tests/mpi`): what they exchange, and that all of them end when one does.

use anyhow::{Context, Result, bail, ensure};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long ranks have to end after one of them has.
const ENDED: Duration = Duration::from_secs(10);

/// How one of the ranks ends, and a sentence that is then printed: of another rank, or of mpirun where nothing but that can
/// notice it.
const ENDS: [(&str, &str); 8] = [
    ("fails", "error: rank 1 ended with an error: tensor: "),
    ("panics", "error: rank 1 ended with an error: it left before the others"),
    ("exits", ""),
    ("killed", ""),
    ("out-of-step", "is out of step: it makes its exchange number 1 where rank "),
    ("other-size", ": ranks must have the same program, options and data"),
    ("finishes", "rank 1 has finished where rank "),
    ("hangs", "rank 1 has sent nothing for 2 seconds"),
];

/// Builds the program and runs it with `mpirun`. Returns what to print.
///
/// # Errors
/// One sentence for what is not as it must be.
pub fn run(root: &Path, mpirun: &str) -> Result<String> {
    let Ok(version) = Command::new(mpirun).arg("--version").output() else {
        return Ok(format!("{mpirun} is absent, so ranks connected by MPI were not tried"));
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let program = build(root)?;
    let launch = |ranks: usize, what: &str| {
        let mut command = Command::new(mpirun);
        if version.contains("Open MPI") {
            // More ranks than processors; root is who runs containers.
            command.args(["--oversubscribe", "--allow-run-as-root"]);
        }
        command.args(["-n", &ranks.to_string()]).arg(&program).arg(what);
        ran(&mut command)
    };
    for ranks in [2, 3, 4] {
        let ran = launch(ranks, "law")?;
        ensure!(ran.success, "{ranks} ranks under {mpirun} do not exchange what they should:\n{}", ran.said);
    }
    let mut longest = Duration::ZERO;
    for (how, sentence) in ENDS {
        let ran = launch(3, how)?;
        ensure!(!ran.success, "{mpirun} reports success although a rank of three {how}:\n{}", ran.said);
        ensure!(ran.said.contains(sentence), "a rank of three {how}, and no rank says `{sentence}`:\n{}", ran.said);
        ensure!(ran.took < ENDED, "a rank of three {how}, and after {:.1?} not all have ended", ran.took);
        longest = longest.max(ran.took);
    }
    // Environment variables of a launcher that is not there: MPI knows of one rank.
    let mut alone = Command::new(&program);
    alone.arg("law").envs([("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")]);
    let ran = ran(&mut alone)?;
    let sentence = "says that this is rank 0 of 2, and MPI that it is rank 0 of 1";
    ensure!(!ran.success && ran.said.contains(sentence), "a rank whose MPI knows of no other goes on:\n{}", ran.said);
    // Open MPI says it in the first line, MPICH's Hydra in one of its own.
    let own = version.lines().find(|line| line.trim_start().starts_with("Version:")).or(version.lines().next());
    let own = own.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(format!("ranks under {mpirun} ({own}) exchange what threads do, and end together within {longest:.1?}"))
}

/// Builds `tests/mpi` and returns where it is. As a part of the workspace, it needs what tests of that need.
fn build(root: &Path) -> Result<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--locked", "--workspace", "--features", "tubelet-tests/mpi", "--test", "mpi", "--no-run"]);
    let output = command.arg("--message-format=json").stderr(Stdio::inherit()).current_dir(root).output()?;
    if !output.status.success() {
        bail!("the ranks could not be built; libclang and the headers of an MPI are needed (docs/ranks.md)");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let program = messages.filter_map(|m| m["executable"].as_str().map(PathBuf::from)).next_back();
    program.context("Cargo does not say where the program is")
}

/// What a program did.
struct Ran {
    success: bool,
    /// Both of its outputs.
    said: String,
    took: Duration,
}

/// Runs a command, a minute at most.
fn ran(command: &mut Command) -> Result<Ran> {
    let start = Instant::now();
    let (mut from, to) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(to.try_clone()?).stderr(to);
    let mut child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
    command.stdout(Stdio::null()).stderr(Stdio::null()); // closes this process's ends
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        from.read_to_end(&mut said).map(|_| String::from_utf8_lossy(&said).into_owned())
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > Duration::from_secs(60) {
            child.kill()?;
            bail!("{command:?} has not ended after a minute");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let took = start.elapsed();
    // What has ended has closed its end; a process that is left would keep it open, and `took` would not tell.
    let said = reading.join().map_err(|_| anyhow::anyhow!("the output of {command:?} cannot be read"))??;
    Ok(Ran { success: status.success(), said, took: took.max(start.elapsed()) })
}
