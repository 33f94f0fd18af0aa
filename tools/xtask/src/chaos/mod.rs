//! `cargo xtask chaos`: pre-training runs that are killed, paused, stopped, deprived of disk space and started twice at
//! random moments. They must produce the same bits as an undisturbed run.
//!
//! A *case* is a run with folders of its own. The same command is started again and again; each time an event disturbs
//! it, until it is finally left to finish. The result is compared with an undisturbed run of the same method: every
//! file of checkpoints and cache, the metrics, and all numbers of the summary except times. Moments are drawn from the
//! seed. Which phase they hit depends on the machine, so the phase is determined from the files that the terminated
//! process left.

mod frames;
mod process;
mod run;

use crate::programs;
use anyhow::{Context, Result, bail, ensure};
use process::Process;
use run::{METHODS, Outcome, PHASES, Phase, Run};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Command-line options.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// Number of SIGKILLs in total.
    pub kills: usize,
    /// Seed of the random moments.
    pub seed: u64,
    /// Folder of the compiled examples; they are built if it is not given.
    pub programs: Option<PathBuf>,
    /// Where to write the results as JSON.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Parses `[--kills N] [--seed N] [--programs DIR] [--json FILE]`.
    ///
    /// # Errors
    /// One sentence for an option that is unknown or lacks its value.
    pub fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options { kills: 100, seed: 0, programs: None, json: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().with_context(|| format!("{arg} needs a value"))?;
            let number = || value.parse::<u64>().with_context(|| format!("{arg} is a whole number, not {value}"));
            match arg.as_str() {
                "--kills" => options.kills = number()? as usize,
                "--seed" => options.seed = number()?,
                "--programs" => options.programs = Some(value.into()),
                "--json" => options.json = Some(value.into()),
                _ => bail!("chaos has no option {arg}"),
            }
        }
        Ok(options)
    }
}

/// A random generator (SplitMix64).
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A random integer below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What happens to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Kill,
    Term,
    FullDisk,
    Pause,
    Second,
}

const EVENTS: [Event; 5] = [Event::Kill, Event::Term, Event::FullDisk, Event::Pause, Event::Second];

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Kill => "SIGKILL",
            Event::Term => "SIGTERM",
            Event::FullDisk => "full disk",
            Event::Pause => "STOP, CONT",
            Event::Second => "second process",
        }
    }
}

/// An undisturbed run of a method.
struct Reference {
    run: Run,
    outcome: Outcome,
    /// Duration of each phase.
    lengths: BTreeMap<Phase, Duration>,
}

/// The state of the whole test: events by phase, and differences found.
struct Chaos {
    draw: Draw,
    home: PathBuf,
    data: PathBuf,
    programs: PathBuf,
    counts: BTreeMap<(Phase, Event), usize>,
    finished: usize,
    companions: usize,
    problems: Vec<String>,
}

/// Runs all cases and prints the table; returns whether all results were the same.
///
/// # Errors
/// When the examples do not build, or an undisturbed run fails.
pub fn run(root: &Path, options: &Options) -> Result<bool> {
    let programs = programs::folder(root, options.programs.as_deref())?;
    let home = root.join("target/chaos");
    let _ = fs::remove_dir_all(&home); // of an earlier run
    let data = home.join("data");
    frames::write(&data)?;
    let mut chaos = Chaos {
        draw: Draw(options.seed),
        programs,
        counts: BTreeMap::new(),
        finished: 0,
        companions: 0,
        problems: Vec::new(),
        home,
        data,
    };
    let began = Instant::now();
    let references = METHODS.map(|method| chaos.reference(method));
    let references = references.into_iter().collect::<Result<Vec<_>>>()?;
    let mut case = 0;
    while chaos.kills() < options.kills {
        let reference = &references[case % references.len()];
        let left = options.kills - chaos.kills();
        let said = chaos.case(case, reference, left)?;
        println!("case {case}, {}: {said}; {} of {} kills", reference.run.method, chaos.kills(), options.kills);
        case += 1;
    }
    chaos.table(began.elapsed());
    if let Some(file) = &options.json {
        let record = chaos.record(options, began.elapsed());
        fs::write(file, format!("{record:#}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(chaos.problems.is_empty())
}

impl Chaos {
    /// An undisturbed run of `method`, and the durations of its phases.
    fn reference(&self, method: &'static str) -> Result<Reference> {
        let folder = self.home.join(format!("{method}-alone"));
        fs::create_dir_all(&folder)?;
        let run = Run::new(method, &folder, &self.programs, &self.data);
        run.finish(&folder.join("first"))?;
        // Determining the phase requires the numbers of a complete run, so durations are measured in a second run,
        // whose result must be the same.
        let again = self.home.join(format!("{method}-again"));
        fs::create_dir_all(&again)?;
        let second = Run::new(method, &again, &self.programs, &self.data).like(&run);
        let mut process = Process::start(&mut second.command(), &again.join("log"), None)?;
        let mut lengths: BTreeMap<Phase, Duration> = BTreeMap::new();
        let mut last = Instant::now();
        while process.ended()?.is_none() {
            std::thread::sleep(Duration::from_millis(1));
            *lengths.entry(second.phase()).or_default() += last.elapsed();
            last = Instant::now();
        }
        let (outcome, other) = (run.outcome()?, second.outcome()?);
        let differences = outcome.differences(&other);
        ensure!(differences.is_empty(), "two runs of {method}, left alone, differ: {}", differences.join("; "));
        let shown: Vec<_> = lengths.iter().map(|(p, d)| format!("{} {} ms", p.name(), d.as_millis())).collect();
        println!("{method}, left alone: {}", shown.join(", "));
        Ok(Reference { run, outcome, lengths })
    }

    fn kills(&self) -> usize {
        PHASES.iter().filter_map(|&p| self.counts.get(&(p, Event::Kill))).sum()
    }

    fn count(&mut self, phase: Phase, event: Event) {
        *self.counts.entry((phase, event)).or_default() += 1;
    }

    /// One case: some events, at most `kills` of them SIGKILL, then the run is finished; returns a description of what
    /// happened.
    fn case(&mut self, number: usize, reference: &Reference, kills: usize) -> Result<String> {
        let folder = self.home.join(format!("case-{number}"));
        fs::create_dir_all(&folder)?;
        let run = Run::new(reference.run.method, &folder, &self.programs, &self.data).like(&reference.run);
        // Sometimes another process simultaneously builds and uses the same cache for a run of its own.
        let beside = run.beside(&folder.join("beside"));
        let mut companion = match self.draw.one_in(4) {
            true => Some(Process::start(&mut beside.command(), &folder.join("beside-log"), None)?),
            false => None,
        };
        let mut said = Vec::new();
        let mut problems = Vec::new();
        let (attempts, mut killed) = (4 + self.draw.below(5) as usize, 0);
        for attempt in 0..attempts {
            if killed == kills {
                break;
            }
            let log = folder.join(format!("log-{attempt}"));
            match self.attempt(&run, reference, &log) {
                Ok(Some((phase, event))) => {
                    killed += usize::from(event == Event::Kill);
                    said.push(format!("{} in {}", event.name(), phase.name()));
                    if phase == Phase::End {
                        break; // only the last phase is left
                    }
                }
                Ok(None) => break, // it finished before an event
                Err(e) => problems.push(format!("{e:#}")),
            }
        }
        match run.finish(&folder.join("log-last")) {
            Ok(outcome) => problems.extend(reference.outcome.differences(&outcome)),
            Err(e) => problems.push(format!("{e:#}")),
        }
        self.finished += 1;
        if let Some(process) = &mut companion {
            let status = process.wait()?;
            match beside.outcome() {
                Ok(outcome) if status.success() => problems.extend(reference.outcome.differences(&outcome)),
                _ => problems.push(format!("the process on the same cache ended with {status}: {}", process.errors())),
            }
            self.companions += 1;
            said.push("another run on the same cache".to_owned());
        }
        drop(companion);
        if problems.is_empty() {
            fs::remove_dir_all(&folder)?;
        } else {
            let place = folder.display();
            problems.iter().for_each(|p| eprintln!("case {number}: {p} (see {place})"));
            self.problems.extend(problems.into_iter().map(|p| format!("case {number}, {}: {p}", said.join(", "))));
        }
        Ok(said.join(", "))
    }

    /// Starts the run and disturbs it: returns in which phase, and by which event; `None` if it finished before.
    fn attempt(&mut self, run: &Run, reference: &Reference, log: &Path) -> Result<Option<(Phase, Event)>> {
        let event = match self.draw.below(10) {
            0 => Event::Term,
            1 => Event::FullDisk,
            _ => Event::Kill,
        };
        if event == Event::FullDisk {
            return self.full_disk(run, reference, log);
        }
        let [pause, second] = [4, 6].map(|n| self.draw.one_in(n));
        let now = run.phase();
        let later: Vec<Phase> = PHASES.into_iter().filter(|p| *p >= now && reference.lengths.contains_key(p)).collect();
        // One of the next phases, so that a case is disturbed in many phases.
        let wanted = later.get(self.draw.below(later.len().min(3) as u64) as usize).copied().unwrap_or(now);
        let length = reference.lengths.get(&wanted).copied().unwrap_or_default();
        let delay = Duration::from_micros(self.draw.below(length.as_micros() as u64));
        let naps = [10 + self.draw.below(150), self.draw.below(30)].map(Duration::from_millis);

        let mut process = Process::start(&mut run.command(), log, None)?;
        let poll = if wanted == Phase::Checkpoint { 100 } else { 1000 };
        while run.phase() < wanted || (wanted == Phase::Checkpoint && run.phase() != wanted) {
            if process.ended()?.is_some() {
                return self.left_alone(&mut process);
            }
            std::thread::sleep(Duration::from_micros(poll));
        }
        std::thread::sleep(delay);
        if pause || second {
            process.signal(libc::SIGSTOP);
            std::thread::sleep(naps[0]);
            if process.ended()?.is_none() {
                self.count(run.phase(), Event::Pause);
                if second {
                    self.second(run, log)?;
                }
            }
            process.signal(libc::SIGCONT);
            std::thread::sleep(naps[1]);
        }
        if process.ended()?.is_some() {
            return self.left_alone(&mut process);
        }
        process.signal(if event == Event::Kill { libc::SIGKILL } else { libc::SIGTERM });
        let status = process.wait()?;
        if status.success() {
            return Ok(None); // it was about to finish
        }
        // A signal before the program has installed its handlers terminates it at once.
        let by = status.signal();
        ensure!(
            by.is_none_or(|s| s == libc::SIGKILL || s == libc::SIGTERM) && !process.errors().contains("panicked"),
            "it ended with {status}: {}",
            process.errors().trim()
        );
        let phase = run.phase();
        self.count(phase, event);
        Ok(Some((phase, event)))
    }

    /// A process that terminated before it was disturbed must have succeeded.
    fn left_alone(&self, process: &mut Process) -> Result<Option<(Phase, Event)>> {
        let status = process.wait()?;
        ensure!(status.success(), "it ended by itself with {status}: {}", process.errors().trim());
        Ok(None)
    }

    /// A run with a random limit on the length of files: it must end with a one-sentence error.
    fn full_disk(&mut self, run: &Run, reference: &Reference, log: &Path) -> Result<Option<(Phase, Event)>> {
        let limit = 4096 + self.draw.below(reference.outcome.longest());
        let mut process = Process::start(&mut run.command(), log, Some(limit))?;
        let status = process.wait()?;
        if status.success() {
            return Ok(None); // no remaining file reaches the limit
        }
        let errors = process.errors();
        let sentence = errors.lines().last().is_some_and(|line| line.starts_with("error: "));
        ensure!(
            status.code().is_some() && sentence && !errors.contains("panicked"),
            "with files of at most {limit} bytes it ended with {status}: {}",
            errors.trim()
        );
        let phase = run.phase();
        self.count(phase, Event::FullDisk);
        Ok(Some((phase, Event::FullDisk)))
    }

    /// A second process on the folder of a paused one: it must be refused, and change nothing.
    fn second(&mut self, run: &Run, log: &Path) -> Result<()> {
        let held = fs::File::open(run.out.join("lock")).is_ok_and(|file| file.try_lock().is_err());
        if !held {
            return Ok(()); // the first has not locked its folder yet
        }
        let before = run.everything()?;
        let mut process = Process::start(&mut run.command(), &log.with_file_name("log-second"), None)?;
        let status = process.wait()?;
        let errors = process.errors();
        ensure!(
            status.code().is_some_and(|code| code != 0) && errors.contains("error: ") && !errors.contains("panicked"),
            "a second process on the same folder ended with {status}: {}",
            errors.trim()
        );
        ensure!(run.everything()? == before, "a second process on the same folder changed something in it");
        self.count(run.phase(), Event::Second);
        Ok(())
    }

    fn table(&self, took: Duration) {
        println!("\n| phase | {} |", EVENTS.map(Event::name).join(" | "));
        println!("|---{}|", "|---".repeat(EVENTS.len()));
        for phase in PHASES {
            let cells = EVENTS.map(|e| self.counts.get(&(phase, e)).copied().unwrap_or(0).to_string());
            println!("| {} | {} |", phase.name(), cells.join(" | "));
        }
        let interruptions: usize = self.interruptions();
        println!(
            "\n{interruptions} interruptions, each taken up by the same command; {} runs brought to their end, {} beside them on \
             the same cache; {} differences; {:.0} s",
            self.finished,
            self.companions,
            self.problems.len(),
            took.as_secs_f64()
        );
        self.problems.iter().for_each(|problem| println!("{problem}"));
    }

    fn interruptions(&self) -> usize {
        let ends = |event: &Event| matches!(event, Event::Kill | Event::Term | Event::FullDisk);
        self.counts.iter().filter(|((_, event), _)| ends(event)).map(|(_, n)| n).sum()
    }

    fn record(&self, options: &Options, took: Duration) -> serde_json::Value {
        let by = |event: Event| {
            let phases = PHASES.iter().filter_map(|&p| Some((p.name(), self.counts.get(&(p, event))?)));
            phases.collect::<BTreeMap<_, _>>()
        };
        json!({
            "kills": self.kills(), "seed": options.seed, "seconds": took.as_secs(), "runs": self.finished,
            "runs_beside": self.companions, "differences": self.problems, "interruptions": self.interruptions(),
            "by_phase": EVENTS.iter().map(|&e| (e.name(), by(e))).collect::<BTreeMap<_, _>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_mistakes_named() {
        let parse = |args: &[&str]| Options::parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            parse(&["--kills", "7", "--seed", "2"]).unwrap(),
            Options { kills: 7, seed: 2, programs: None, json: None }
        );
        assert!(parse(&["--kills"]).unwrap_err().to_string().contains("needs a value"));
        assert!(parse(&["--kills", "many"]).unwrap_err().to_string().contains("many"));
        assert!(parse(&["--speed", "7"]).unwrap_err().to_string().contains("--speed"));
    }

    #[test]
    fn the_same_seed_draws_the_same_moments() {
        let draws = |seed| (0..5).map(|_| 0).scan(Draw(seed), |d, _| Some(d.below(1000))).collect::<Vec<_>>();
        assert_eq!(draws(4), draws(4));
        assert_ne!(draws(4), draws(5));
    }
}
