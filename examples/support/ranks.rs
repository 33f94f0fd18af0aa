//! Several processes of one run: how they begin, what they must agree on, how they end.

use super::output::{be_quiet, complain, count, say};
use super::settings::ACCUMULATE;
use super::stop::stop_flag;
use anyhow::{Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tubelet::cpu::Isa;
use tubelet::dist::sum::Wire;
use tubelet::dist::{Alone, Collective, Patience, World, agree, join, on_device, together};
use tubelet::error::ErrorKind;
use tubelet::tensor::{Device, Tensor};
use tubelet::train::folder::{Folder, checksum};
use tubelet::train::pretrain::{found, steps_done};

/// Those of this process, for its end.
static JOINED: Mutex<Option<Arc<dyn Collective>>> = Mutex::new(None);

/// How many processes the launcher has started.
static STARTED: AtomicUsize = AtomicUsize::new(1);

/// A rank says for whom it waits after the first of these times, and then whenever the second has passed.
const SAID: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// This process among those of its run.
#[derive(Clone)]
pub struct Ranks {
    pub world: World,
    pub all: Arc<dyn Collective>,
}

impl Ranks {
    /// Connects the processes of `world`. Only the first prints what it does. A signal ends the wait for others.
    pub fn join(world: World) -> Result<Ranks> {
        if world.rank > 0 {
            be_quiet();
        }
        STARTED.store(world.size, Ordering::Relaxed);
        let all = match world.size {
            1 => Arc::new(Alone) as Arc<dyn Collective>,
            _ => join_others(&world)?,
        };
        *joined() = Some(all.clone());
        Ok(Ranks { world, all })
    }

    /// A single process.
    pub fn alone() -> Ranks {
        Ranks { world: World::alone(), all: Arc::new(Alone) }
    }

    /// The same ranks with their networks on `device`.
    pub fn on_device(self, device: &Device) -> Result<Ranks> {
        let all = on_device(self.all, device, Patience::default())?;
        *joined() = Some(all.clone());
        if self.world.size > 1 {
            say(format_args!("{} ranks, connected by {}", self.world.size, all.name()));
        }
        Ok(Ranks { all, ..self })
    }

    /// Whether this is the process that writes, evaluates and prints.
    pub fn is_first(&self) -> bool {
        self.all.rank() == 0
    }

    /// Refuses ranks with another program, instruction set, `settings` or checkpoint in `out` than the first.
    pub fn agree_to_start(&self, settings: &Value, out: &Path) -> Result<()> {
        if self.all.size() == 1 {
            return Ok(());
        }
        let program = std::env::current_exe().ok().and_then(|path| checksum(&path).ok()).unwrap_or_default();
        let own = [
            ("the version of its program", env!("CARGO_PKG_VERSION").to_owned()),
            ("the checksum of its program's file", format!("{program:08x}")),
            ("its instruction set (TUBELET_ISA)", Isa::best().name().to_owned()),
        ];
        let mut facts: Vec<_> = own.map(|(name, value)| (name.to_owned(), value)).to_vec();
        facts.extend(facts_of(settings));
        facts.push(("the newest checkpoint that it finds in --out".to_owned(), found(out)?));
        Ok(agree(&*self.all, &facts)?)
    }

    /// Refuses ranks that found other videos than the first, by the settings that are known when the cache is filled.
    pub fn agree_on_videos(&self, settings: &Value) -> Result<()> {
        Ok(agree(&*self.all, &facts_of(settings))?)
    }

    /// Does long work side by side with the other ranks. It is stopped by `stop`, also when another rank has ended.
    pub fn together<T>(&self, stop: &AtomicBool, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let why = Mutex::new(None);
        let lost = |e: &tubelet::Error| {
            if !stop.swap(true, Ordering::Relaxed) {
                *why.lock().unwrap_or_else(PoisonError::into_inner) = Some(e.to_string());
            }
        };
        let done = together(&*self.all, work, lost);
        match why.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => bail!(why),
            None => done,
        }
    }

    /// Leaves the others if training has ended because a rank was asked to stop: they all end after the same step.
    pub fn all_stop(&self, error: &tubelet::Error) {
        if matches!(error.kind(), ErrorKind::Stopped { .. }) {
            self.all.finish();
        }
    }

    /// Does work that the first rank alone does, while the others wait.
    pub fn on_first<T>(&self, stop: &AtomicBool, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        self.together(stop, || if self.is_first() { work().map(Some) } else { Ok(None) })
    }

    /// The numbers of all ranks, of which each gives as many, in the order of ranks.
    pub fn gather(&self, own: &[f32], device: &Device) -> Result<Vec<f32>> {
        let own = Tensor::from_f32([own.len()], own)?.to(device)?;
        Ok(self.all.all_gather(&own)?.load()?.into_owned())
    }

    /// Says so if the run in `out` goes on with its steps divided otherwise than before.
    /// `one` and `many` are what its parts are called.
    pub fn say_division(&self, out: &Path, accumulate: usize, [one, many]: [&str; 2]) -> Result<()> {
        let (Some(begun), ranks) = (Folder::settings(out)?, self.all.size()) else { return Ok(()) };
        let number = |name: &str| begun[name].as_u64().unwrap_or(1) as usize;
        let (before, now) = ([number(RANKS), number(ACCUMULATE)], [ranks, accumulate]);
        if steps_done(out)? == 0 || before == now {
            return Ok(());
        }
        let of = |[ranks, accumulate]: [usize; 2]| {
            let all = count(ranks * accumulate, one, many);
            format!("{all} on {}", count(ranks, "rank", "ranks"))
        };
        let what = if is_same_sum(before, now) { "the bits are the same" } else { "this changes the bits" };
        say(format_args!("a step was {} and is {} from here on: {what}", of(before), of(now)));
        Ok(())
    }
}

/// Connects the ranks, of which there are several.
fn join_others(world: &World) -> Result<Arc<dyn Collective>> {
    let (stop, begun, said) = (stop_flag()?, Instant::now(), Mutex::new(SAID[0]));
    let waiting = |whom: &str| {
        if stop.load(Ordering::Relaxed) {
            let what = format!("rank {} was waiting for {whom}", world.rank);
            return Err(ErrorKind::Stopped { path: PathBuf::new(), what }.into());
        }
        let mut next = said.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.elapsed() >= *next {
            *next += SAID[1];
            complain(format_args!("rank {} is waiting for {whom}", world.rank));
        }
        Ok(())
    };
    Ok(join(world, Patience::default(), &waiting)?)
}

/// Whether two divisions, ranks and micro-batches of each, add the same gradients in the same order: a rank adds its own first.
fn is_same_sum(a: [usize; 2], b: [usize; 2]) -> bool {
    // One process that accumulates takes the place of as many ranks.
    let as_ranks = |[ranks, accumulate]: [usize; 2]| if ranks == 1 { [accumulate, 1] } else { [ranks, accumulate] };
    as_ranks(a) == as_ranks(b)
}

/// Values of `--wire`.
pub const WIRES: [(&str, Wire); 2] = [("f32", Wire::F32), ("bf16", Wire::Bf16)];

/// The number of ranks in the settings of a run.
pub const RANKS: &str = "ranks";

/// Settings as facts that ranks must agree on: all but paths, which may differ between machines.
fn facts_of(settings: &Value) -> Vec<(String, String)> {
    let fields = settings.as_object().into_iter().flatten().filter(|(name, _)| *name != Folder::PATHS);
    fields.map(|(name, value)| (name.clone(), value.to_string())).collect()
}

fn joined() -> MutexGuard<'static, Option<Arc<dyn Collective>>> {
    JOINED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the launcher has started several processes.
pub fn are_several() -> bool {
    STARTED.load(Ordering::Relaxed) > 1
}

/// Leaves the other ranks without an error.
pub fn finish() {
    if let Some(ranks) = joined().as_ref() {
        ranks.finish();
    }
}

/// Tells the other ranks why this one ends.
pub fn fail(why: &str) {
    if let Some(ranks) = joined().as_ref() {
        ranks.fail(why);
    }
}

#[cfg(test)]
mod tests {
    use super::is_same_sum;

    #[test]
    fn one_process_takes_the_place_of_ranks_that_do_not_accumulate() {
        assert!(is_same_sum([4, 1], [1, 4]) && is_same_sum([1, 4], [4, 1]) && is_same_sum([2, 2], [2, 2]));
        assert!(!is_same_sum([4, 1], [2, 2]) && !is_same_sum([2, 2], [1, 4]) && !is_same_sum([1, 1], [2, 1]));
    }
}
