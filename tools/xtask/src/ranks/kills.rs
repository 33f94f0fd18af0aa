//! `cargo xtask ranks --kills N`: runs of four ranks, each a process with a launcher's variables and nothing else. A random rank is
//! killed at a random moment, the others must end within ten seconds, each with one sentence, and the run is started again, until
//! it comes to its end. Its bits must be those of one process that accumulates four micro-batches, and so must those of a run that
//! nothing disturbs.

use super::{METHODS, Options, PATIENCE, same, steps_done};
use crate::chaos::Draw;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ranks of a run.
pub(super) const RANKS: usize = 4;

/// How long ranks have to end after one of them was killed.
const ENDED: Duration = Duration::from_secs(10);

/// Processes that are killed if they are left.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Running {
    /// The ranks of a run of `program`, each with its output in files of its own in `home`.
    fn start(program: &Path, args: &str, out: &Path, home: &Path, port: usize) -> Result<Running> {
        let start = |rank: usize| -> Result<Child> {
            let mut command = Command::new(program);
            command.args(args.split(' ')).arg("--out").arg(out).current_dir(home).stdin(Stdio::null());
            let number = |n: usize| n.to_string();
            command.env("RANK", number(rank)).env("LOCAL_RANK", number(rank)).env("WORLD_SIZE", number(RANKS));
            command
                .env("LOCAL_WORLD_SIZE", number(RANKS))
                .env("MASTER_ADDR", "127.0.0.1")
                .env("MASTER_PORT", number(port));
            command.stdout(File::create(home.join(format!("rank{rank}.out")))?);
            command.stderr(File::create(home.join(format!("rank{rank}.err")))?);
            command.spawn().with_context(|| format!("{} cannot be started", program.display()))
        };
        Ok(Running((0..RANKS).map(start).collect::<Result<_>>()?))
    }

    fn ended(&mut self) -> Result<usize> {
        let mut ended = 0;
        for child in &mut self.0 {
            ended += usize::from(child.try_wait()?.is_some());
        }
        Ok(ended)
    }

    /// Waits until `is_it`, or all have ended.
    fn wait(&mut self, is_it: impl Fn(usize) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let ended = self.ended()?;
            if is_it(ended) || ended == RANKS {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "ranks do not end: target/ranks/rank*.err has what they said");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Runs of a method, and where they are.
struct Case<'a> {
    method: &'static str,
    args: &'static str,
    program: PathBuf,
    out: PathBuf,
    home: &'a Path,
    /// From the connection of the ranks to their end, in a run that nothing disturbs.
    takes: Duration,
    /// Runs that came to their end.
    whole: usize,
}

impl Case<'_> {
    fn said(&self, rank: usize, kind: &str) -> Result<String> {
        Ok(fs::read_to_string(self.home.join(format!("rank{rank}.{kind}")))?)
    }

    /// Starts the ranks, or starts them again; they are connected when it returns, and at which moment they were.
    fn start(&self, port: &mut usize) -> Result<(Running, Instant)> {
        *port += 1;
        let mut ranks = Running::start(&self.program, self.args, &self.out, self.home, *port)?;
        ranks.wait(|_| self.said(0, "out").is_ok_and(|text| text.contains("connected by")))?;
        Ok((ranks, Instant::now()))
    }

    /// Lets a run come to its end, whose bits must be those of the one in `alone`.
    fn finish(&mut self, mut ranks: Running, alone: &Path) -> Result<()> {
        ranks.wait(|_| false)?;
        for child in &mut ranks.0 {
            ensure!(child.wait()?.success(), "a rank of {} failed: target/ranks/rank*.err says why", self.method);
        }
        same(alone, &self.out)?;
        fs::remove_dir_all(&self.out)?;
        self.whole += 1;
        Ok(())
    }

    /// Kills a rank that runs; returns after how many milliseconds the others had ended.
    fn kill(&self, ranks: &mut Running, rank: usize) -> Result<u64> {
        let method = self.method;
        ranks.0[rank].kill()?;
        let killed = Instant::now();
        ranks.wait(|_| killed.elapsed() > ENDED)?;
        let (took, ended) = (killed.elapsed(), ranks.ended()?);
        ensure!(ended == RANKS, "rank {rank} of {method} was killed, and {} go on after {took:.0?}", RANKS - ended);
        let want = format!(
            "error: the process of rank {rank} has ended without a word: it was killed, or its machine stopped"
        );
        for other in (0..RANKS).filter(|other| *other != rank) {
            let text = self.said(other, "err")?;
            let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
            ensure!(errors == [want.as_str()], "rank {rank} of {method} was killed, and rank {other} said {errors:?}");
        }
        Ok(took.as_millis() as u64)
    }
}

/// Runs all of it. `alone` is where the run of one process of a method lies.
pub(super) fn run(
    programs: &Path,
    home: &Path,
    options: &Options,
    alone: impl Fn(&str, &str) -> Result<PathBuf>,
) -> Result<()> {
    let (mut draw, mut port, mut cases) = (Draw(options.seed), 21_000, Vec::new());
    for (method, args) in METHODS {
        let (program, out) = (programs.join(method), home.join(format!("{method}-kills")));
        let mut case = Case { method, args, program, out, home, takes: Duration::ZERO, whole: 0 };
        let alone = alone(method, args)?;
        let (ranks, begun) = case.start(&mut port)?;
        case.finish(ranks, &alone)?;
        case.takes = begun.elapsed();
        cases.push((case, alone));
    }
    let mut killed: Vec<Value> = Vec::new();
    for i in 0.. {
        if killed.len() == options.kills {
            break;
        }
        let (case, alone) = &mut cases[i % METHODS.len()];
        let (rank, after) = (draw.below(RANKS as u64) as usize, draw.below(case.takes.as_millis() as u64));
        let (mut ranks, connected) = case.start(&mut port)?;
        ranks.wait(|ended| ended > 0 || connected.elapsed().as_millis() as u64 >= after)?;
        if ranks.ended()? > 0 {
            case.finish(ranks, alone)?; // what was left of it was short
            continue;
        }
        let (method, step) = (case.method, steps_done(&case.out));
        let ended = case.kill(&mut ranks, rank)?;
        killed.push(json!({"method": method, "rank": rank, "after_ms": after, "steps_saved": step, "ended_ms": ended}));
    }
    for (case, alone) in &mut cases {
        let (ranks, _) = case.start(&mut port)?;
        case.finish(ranks, alone)?;
    }
    let longest = killed.iter().filter_map(|kill| kill["ended_ms"].as_u64()).max().unwrap_or_default();
    let runs: serde_json::Map<String, Value> =
        cases.iter().map(|(case, _)| (case.method.to_owned(), case.whole.into())).collect();
    println!(
        "{RANKS} ranks as processes: {} were killed, the others ended within {longest} ms, each with one sentence; {} runs have the \
         bits of --accumulate {RANKS}",
        killed.len(),
        cases.iter().map(|(case, _)| case.whole).sum::<usize>()
    );
    if let Some(file) = &options.json {
        let all = json!({"ranks": RANKS, "seed": options.seed, "longest_end_ms": longest, "whole_runs": runs, "kills": killed});
        fs::write(file, format!("{all:#}\n")).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
