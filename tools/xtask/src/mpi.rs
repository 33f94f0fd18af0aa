//! `cargo xtask mpi`: ranks under mpirun (`tests/mpi`): what they exchange, and that all of them end when one does. A run of a
//! program that is linked with MPI has the bits of one process.

use crate::ranks::same;
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
    let program =
        build(root, &["test", "--workspace", "--features", "tubelet-tests/mpi", "--test", "mpi", "--no-run"])?;
    let of = |ranks: usize| {
        let mut command = Command::new(mpirun);
        if version.contains("Open MPI") {
            // More ranks than processors; root is who runs containers.
            command.args(["--oversubscribe", "--allow-run-as-root"]);
        }
        command.args(["-n", &ranks.to_string()]);
        command
    };
    let launch = |ranks: usize, what: &str| ran(of(ranks).arg(&program).arg(what));
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
    whole_run(root, of(2))?;
    // Open MPI says it in the first line, MPICH's Hydra in one of its own.
    let own = version.lines().find(|line| line.trim_start().starts_with("Version:")).or(version.lines().next());
    let own = own.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(format!(
        "ranks under {mpirun} ({own}) exchange what threads do, end together within {longest:.1?}, and have the bits of one process in a run of pretrain_maclr"
    ))
}

/// Runs `pretrain_maclr` on the ranks of `launcher`, and as one process that takes their place.
fn whole_run(root: &Path, mut launcher: Command) -> Result<()> {
    let program = build(root, &["build", "--features", "mpi", "--example", "pretrain_maclr"])?;
    let home = root.join("target/mpi");
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home)?;
    let options = |command: &mut Command, out: &str| -> Result<()> {
        command.args(["--batch", "24", "--frames", "4", "--motion-frames", "4", "--side", "16", "--epochs", "12"]);
        let ran = ran(command.args(["--threads", "1", "--out", out]).current_dir(&home))?;
        ensure!(ran.success, "a run of pretrain_maclr fails:\n{}", ran.said);
        ensure!(
            out == "alone" || ran.said.contains("connected by mpi"),
            "MPI does not connect the ranks:\n{}",
            ran.said
        );
        Ok(())
    };
    options(launcher.arg(&program), "ranks")?;
    options(Command::new(&program).args(["--accumulate", "2"]), "alone")?;
    same(&home.join("alone"), &home.join("ranks"))
}

/// Builds a program and returns where it is. `tests/mpi`, as a part of the workspace, needs what tests of that need.
fn build(root: &Path, args: &[&str]) -> Result<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(args).args(["--locked", "--message-format=json"]);
    let output = output.stderr(Stdio::inherit()).current_dir(root).output()?;
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

/// Runs a command, five minutes at most.
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
        if start.elapsed() > Duration::from_secs(300) {
            child.kill()?;
            bail!("{command:?} has not ended after five minutes");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let took = start.elapsed();
    // What has ended has closed its end; a process that is left would keep it open, and `took` would not tell.
    let said = reading.join().map_err(|_| anyhow::anyhow!("the output of {command:?} cannot be read"))??;
    Ok(Ran { success: status.success(), said, took: took.max(start.elapsed()) })
}
