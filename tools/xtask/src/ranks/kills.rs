//! `cargo xtask ranks --kills N`: runs of four ranks, each a process with a launcher's variables and nothing else. A random rank is
//! killed at a random moment, the others must end within ten seconds, each with one sentence, and the run is started again, until
//! it comes to its end. Its bits must be those of one process that accumulates four micro-batches.

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

/// The longest time from the connection of the ranks to a kill: a run that is left alone takes about as long.
const LONGEST: u64 = 6000;

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

/// Runs all of it. `alone` is where the run of one process of a method lies.
pub(super) fn run(
    programs: &Path,
    home: &Path,
    options: &Options,
    alone: impl Fn(&str, &str) -> Result<PathBuf>,
) -> Result<()> {
    let mut draw = Draw(options.seed);
    let (mut killed, mut whole, mut port): (Vec<Value>, Vec<usize>, _) = (Vec::new(), vec![0; METHODS.len()], 21_000);
    // A method after the other, until there were as many kills; then the runs that are under way come to their end.
    let mut case = 0;
    while killed.len() < options.kills || whole.contains(&0) {
        let (method, args) = METHODS[case % METHODS.len()];
        let out = home.join(format!("{method}-kills"));
        loop {
            port += 1;
            let mut ranks = Running::start(&programs.join(method), args, &out, home, port)?;
            let said = |rank: usize, kind: &str| fs::read_to_string(home.join(format!("rank{rank}.{kind}")));
            if killed.len() < options.kills {
                ranks.wait(|_| said(0, "out").is_ok_and(|text| text.contains("connected by")))?;
                let (rank, after) = (draw.below(RANKS as u64) as usize, Duration::from_millis(draw.below(LONGEST)));
                let connected = Instant::now();
                ranks.wait(|ended| ended > 0 || connected.elapsed() >= after)?;
                if ranks.ended()? == 0 {
                    ranks.0[rank].kill()?;
                    let (kill, step) = (Instant::now(), steps_done(&out));
                    ranks.wait(|_| kill.elapsed() > ENDED)?;
                    let (took, ended) = (kill.elapsed().as_secs_f64(), ranks.ended()?);
                    ensure!(
                        ended == RANKS,
                        "rank {rank} of {method} was killed, and {} go on after {took:.0} s",
                        RANKS - ended
                    );
                    let want = format!(
                        "error: the process of rank {rank} has ended without a word: it was killed, or its machine stopped"
                    );
                    for other in (0..RANKS).filter(|other| *other != rank) {
                        let text = said(other, "err")?;
                        let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
                        ensure!(
                            errors == [want.as_str()],
                            "rank {rank} of {method} was killed, and rank {other} said {errors:?}"
                        );
                    }
                    let after = after.as_millis();
                    killed.push(json!({"method": method, "rank": rank, "after_ms": after, "steps_saved": step, "ended_ms": (1e3 * took) as u64}));
                    continue;
                }
            }
            // Nobody was killed, so it comes to its end.
            ranks.wait(|_| false)?;
            for child in &mut ranks.0 {
                ensure!(child.wait()?.success(), "a rank of {method} failed: target/ranks/rank*.err says why");
            }
            break;
        }
        same(&alone(method, args)?, &out)?;
        fs::remove_dir_all(&out)?;
        whole[case % METHODS.len()] += 1;
        case += 1;
    }
    let longest = killed.iter().filter_map(|kill| kill["ended_ms"].as_u64()).max().unwrap_or_default();
    println!(
        "{RANKS} ranks as processes: {} were killed, the others ended within {longest} ms, each with one sentence; {} runs, started \
         again, have the bits of --accumulate {RANKS}",
        killed.len(),
        whole.iter().sum::<usize>()
    );
    if let Some(file) = &options.json {
        let methods = METHODS.map(|(method, _)| method).into_iter().zip(whole);
        let runs: serde_json::Map<String, Value> = methods.map(|(method, n)| (method.to_owned(), n.into())).collect();
        let all = json!({"ranks": RANKS, "seed": options.seed, "longest_end_ms": longest, "whole_runs": runs, "kills": killed});
        fs::write(file, format!("{all:#}\n")).with_context(|| format!("{}", file.display()))?;
    }
    Ok(())
}
