//! Several processes of one run: how they begin, what they must agree on, how they end.

use super::output::{be_quiet, count, say};
use super::settings::ACCUMULATE;
use anyhow::{Result, bail};
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tubelet::cpu::Isa;
use tubelet::dist::{Alone, Collective, Patience, World, agree, join, on_device, together};
use tubelet::tensor::Device;
use tubelet::train::folder::{Folder, checksum};
use tubelet::train::pretrain::{found, steps_done};

/// Those of this process, for its end.
static JOINED: Mutex<Option<Arc<dyn Collective>>> = Mutex::new(None);

/// This process among those of its run.
#[derive(Clone)]
pub struct Ranks {
    pub world: World,
    pub all: Arc<dyn Collective>,
}

impl Ranks {
    /// Connects the processes of `world`. Only the first prints what it does.
    pub fn join(world: World) -> Result<Ranks> {
        if world.rank > 0 {
            be_quiet();
        }
        let all = match world.size {
            1 => Arc::new(Alone) as Arc<dyn Collective>,
            _ => join(&world, Patience::default())?,
        };
        *joined() = Some(all.clone());
        Ok(Ranks { world, all })
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

    /// Says so if the run in `out` goes on with its steps divided otherwise than before.
    pub fn say_division(&self, out: &Path, accumulate: usize) -> Result<()> {
        let (Some(begun), ranks) = (Folder::settings(out)?, self.all.size()) else { return Ok(()) };
        let number = |name: &str| begun[name].as_u64().unwrap_or(1) as usize;
        let (before, now) = ([number(RANKS), number(ACCUMULATE)], [ranks, accumulate]);
        if steps_done(out)? == 0 || before == now {
            return Ok(());
        }
        let of = |[ranks, accumulate]: [usize; 2]| {
            let all = count(ranks * accumulate, "micro-batch", "micro-batches");
            format!("{all} on {}", count(ranks, "rank", "ranks"))
        };
        let what = if is_same_sum(before, now) { "the bits are the same" } else { "this changes the bits" };
        say(format_args!("a step was {} and is {} from here on: {what}", of(before), of(now)));
        Ok(())
    }
}

/// Whether two divisions, ranks and micro-batches of each, add the same gradients in the same order: a rank adds its own first.
fn is_same_sum(a: [usize; 2], b: [usize; 2]) -> bool {
    // One process that accumulates takes the place of as many ranks.
    let as_ranks = |[ranks, accumulate]: [usize; 2]| if ranks == 1 { [accumulate, 1] } else { [ranks, accumulate] };
    as_ranks(a) == as_ranks(b)
}

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
