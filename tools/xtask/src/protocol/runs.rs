//! The example programs as the protocol runs them: what is done is read, what is not is run, with the time that is left.

use super::options::{Method, PENALTIES};
use super::scores::Predictions;
use super::set::{Lists, Set};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Which videos are held out.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// Those of this training actor.
    Fold(String),
    /// Those of the test actors.
    Test,
}

impl Place {
    /// The actor, or `test`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Place::Fold(actor) => actor,
            Place::Test => "test",
        }
    }
}

/// A program to run, and the folder of its results.
struct Job {
    program: &'static str,
    out: PathBuf,
}

impl Job {
    fn is_done(&self) -> bool {
        self.out.join("summary.json").is_file()
    }
}

/// All runs of a protocol.
pub struct Runs<'a> {
    out: &'a Path,
    programs: &'a Path,
    set: &'a Set,
    once: bool,
    planned: Vec<Job>,
    /// Seconds and number of the finished runs of each program in this session.
    took: BTreeMap<&'static str, [f64; 2]>,
}

impl<'a> Runs<'a> {
    /// None yet. With `once`, networks of folds are pre-trained on all training videos.
    pub fn new(out: &'a Path, programs: &'a Path, set: &'a Set, once: bool) -> Runs<'a> {
        Runs { out, programs, set, once, planned: Vec::new(), took: BTreeMap::new() }
    }

    /// Whether a fold has the network that was trained without labels on the videos of all training actors.
    fn shares(&self, method: &Method, place: &Place) -> bool {
        self.once && *place != Place::Test && method.has_probe() && method.program.is_some()
    }

    /// The jobs of a network: its training, if it has one, and its scoring.
    fn jobs(&self, method: &Method, place: &Place, seed: u64) -> Vec<Job> {
        let folder = self.out.join(format!("{}-{}", method.name, method.recipe()));
        let shares = self.shares(method, place);
        let trained = folder.join(format!("{}-{seed}", if shares { "all" } else { place.name() }));
        let scored = folder.join(format!("{}{}-{seed}", place.name(), if shares { "-once" } else { "" }));
        let train = method.program.map(|program| Job { program, out: trained.join("train") });
        let probe = method.has_probe().then(|| Job { program: "linear_probe", out: scored.join("probe") });
        train.into_iter().chain(probe).collect()
    }

    /// Counts a network among what is to be done.
    pub fn plan(&mut self, method: &Method, place: &Place, seed: u64) {
        for job in self.jobs(method, place, seed) {
            if self.planned.iter().all(|planned| planned.out != job.out) {
                self.planned.push(job);
            }
        }
    }

    /// How many runs are done, and the time that the others take, as far as it is known.
    pub fn progress(&self) -> String {
        let left: Vec<&Job> = self.planned.iter().filter(|job| !job.is_done()).collect();
        let mean = |program| self.took.get(program).map(|[seconds, n]| seconds / n);
        let known: Option<f64> = left.iter().map(|job| mean(job.program)).sum();
        let time = match known {
            Some(seconds) if !left.is_empty() => {
                let minutes = (seconds / 60.0).ceil() as u64;
                format!(", {} h {} min left", minutes / 60, minutes % 60)
            }
            _ => String::new(),
        };
        format!("{} of {} runs are done{time}", self.planned.len() - left.len(), self.planned.len())
    }

    /// The lists of the videos that are trained on and held out.
    fn lists(&self, place: &Place) -> Result<Lists> {
        let left = match place {
            Place::Fold(actor) => Some(actor.as_str()),
            Place::Test => None,
        };
        Lists::write(&self.out.join("lists").join(place.name()), &self.set.parts(left)?)
    }

    /// Checks the options of `method` by a dry run of its program, which writes nothing.
    ///
    /// # Errors
    /// What the program says against them.
    pub fn check(&self, method: &Method, place: &Place) -> Result<()> {
        let Some(program) = method.program else { return Ok(()) };
        let lists = self.lists(place)?;
        let mut command = Command::new(self.programs.join(program));
        command.arg("--dry-run").arg("--cache").arg(self.out.join("cache")).arg("--out").arg(self.out.join("none"));
        match program {
            "finetune" => command
                .arg("--data")
                .arg(&lists.train)
                .arg("--test")
                .arg(&lists.held)
                .arg("--groups")
                .arg(&lists.actors),
            _ => command.arg("--data").arg(&lists.plain),
        };
        let output = command.args(&method.options).output().with_context(|| program.to_owned())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "--with {}: {program} refuses its options: {}", method.name, errors.trim());
        Ok(())
    }

    /// The summary and the predictions of a network of `method`, which is trained and scored if it was not yet.
    pub fn of(&mut self, method: &Method, place: &Place, seed: u64) -> Result<(Value, Predictions)> {
        let lists = self.lists(place)?;
        let unlabelled = if self.shares(method, place) {
            // Of all training actors; the test videos are in no list of screening.
            Lists::write(&self.out.join("lists/all"), &[self.set.train.clone(), Vec::new()])?.plain
        } else {
            lists.plain.clone()
        };
        let jobs = self.jobs(method, place, seed);
        let trained = method.program.map(|_| jobs[0].out.clone());
        for job in &jobs {
            if job.is_done() {
                continue;
            }
            let mut command = Command::new(self.programs.join(job.program));
            command.args(["--seed", &seed.to_string()]).arg("--cache").arg(self.out.join("cache"));
            command.arg("--out").arg(&job.out);
            match job.program {
                // Without labels: a pre-training that knew the held-out videos would score itself on them.
                "pretrain_maclr" | "pretrain_mcl" => command.arg("--data").arg(&unlabelled).args(&method.options),
                "finetune" => {
                    let command = command.arg("--data").arg(&lists.train).arg("--test").arg(&lists.held);
                    command.arg("--groups").arg(&lists.actors).args(&method.options)
                }
                _ => {
                    if let Some(run) = &trained {
                        command.arg("--init").arg(run);
                    }
                    command.arg("--data").arg(&lists.train).arg("--test").arg(&lists.held);
                    command.arg("--groups").arg(&lists.actors).args(["--l2", PENALTIES])
                }
            };
            println!("{}: {}, {}, seed {seed}: {}", self.progress(), method.name, place.name(), job.program);
            let began = Instant::now();
            let output = command.output().with_context(|| job.program.to_owned())?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{} --out {}: {}", job.program, job.out.display(), errors.trim());
            ensure!(job.is_done(), "{} has written no summary into {}", job.program, job.out.display());
            let took = self.took.entry(job.program).or_default();
            *took = [took[0] + began.elapsed().as_secs_f64(), took[1] + 1.0];
        }
        let scored = &jobs.last().context("a method has a training or a probe")?.out;
        let read = |name: &str| {
            let path = scored.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let summary = serde_json::from_str(&read("summary.json")?).context("summary.json")?;
        let predictions =
            Predictions::parse(&read("predictions.csv")?).with_context(|| format!("{}", scored.display()))?;
        Ok((summary, predictions))
    }
}
