//! What ranks do before, between and after steps: they agree on what they have, and wait for work that takes long.

use super::Collective;
use crate::error::{Error, ErrorKind, Result};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The time between two signs of life.
const EVERY: Duration = Duration::from_secs(1);

/// How far the work of a rank is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    GoesOn,
    Done,
    Failed,
}

/// Does `work` that may take longer than ranks wait for each other in a step, such as decoding videos, or what one rank does
/// while the others have nothing to do. Every second they tell each other that they are there. All ranks call it, and it returns
/// when all are done. If another rank ends meanwhile, `lost` is told why, so that it can stop the work.
///
/// # Errors
/// Those of `work`; `Peer` when another rank has ended.
pub fn together<T, E: From<Error>>(
    ranks: &dyn Collective,
    work: impl FnOnce() -> Result<T, E>,
    lost: impl FnOnce(&Error) + Send,
) -> Result<T, E> {
    if ranks.size() == 1 {
        return work();
    }
    let state = (Mutex::new(Work::GoesOn), Condvar::new());
    std::thread::scope(|threads| {
        // Whatever ends the work, a panic too, ends the thread.
        let mut end = End { state: &state, with: Work::Failed };
        let signs = threads.spawn(|| {
            let told = tell(ranks, &state);
            if let Err(e) = &told {
                lost(e);
            }
            told
        });
        let done = work();
        if done.is_ok() {
            end.with = Work::Done;
        }
        drop(end);
        let told = signs.join().unwrap_or_else(|_| Err(peer("the thread that hears of other ranks ended".to_owned())));
        let done = done?;
        Ok(told.map(|()| done)?)
    })
}

type State = (Mutex<Work>, Condvar);

/// Tells the others how far this rank is, until all are done.
fn tell(ranks: &dyn Collective, (state, changed): &State) -> Result<()> {
    loop {
        let now = state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(now, EVERY, |work| *work == Work::GoesOn);
        let work = *waited.unwrap_or_else(PoisonError::into_inner).0;
        if work == Work::Failed {
            return Ok(()); // its error is on its way
        }
        let all = ranks.share(&[u8::from(work == Work::Done)])?;
        if all.iter().all(|note| note == &[1]) {
            return Ok(());
        }
    }
}

struct End<'a> {
    state: &'a State,
    with: Work,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let (state, changed) = self.state;
        *state.lock().unwrap_or_else(PoisonError::into_inner) = self.with;
        changed.notify_all();
    }
}

/// The most bytes of a value that are sent as they are.
const SHOWN: usize = 256;

/// Refuses ranks that differ in one of `facts`, which are names and values. All ranks get the same error.
///
/// # Errors
/// `Peer` naming the first rank that differs from rank 0, the first fact in which it does, and both values; also when a rank has
/// ended.
pub fn agree(ranks: &dyn Collective, facts: &[(String, String)]) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let line = |(name, value): &(String, String)| format!("{}\t{}\n", plain(name), shown(&plain(value)));
    let notes = ranks.share(facts.iter().map(line).collect::<String>().as_bytes())?;
    let texts: Vec<_> = notes.iter().map(|note| String::from_utf8_lossy(note)).collect();
    let facts = |rank: usize| texts[rank].lines().filter_map(|line| line.split_once('\t'));
    for rank in 1..ranks.size() {
        let value = |rank: usize, name: &str| facts(rank).find(|(n, _)| *n == name).map(|(_, value)| value.to_owned());
        let mut names = facts(0).chain(facts(rank)).map(|(name, _)| name);
        let Some(name) = names.find(|name| value(0, name) != value(rank, name)) else { continue };
        let of = |rank: usize| value(rank, name).unwrap_or_else(|| "nothing".to_owned());
        return Err(peer(format!(
            "rank {rank} differs from rank 0 in {name}: {} there, {} on rank 0; all ranks must be started with the same \
             program, options and data",
            of(rank),
            of(0)
        )));
    }
    Ok(())
}

/// The text in one line.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The text, or of a long one the beginning and a hash.
fn shown(text: &str) -> String {
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let begin: String = text.chars().take(60).collect();
    format!("{begin}.. ({} bytes, hash {:016x})", text.len(), crate::files::fnv1a(text.as_bytes()))
}

fn peer(what: String) -> Error {
    ErrorKind::Peer { what }.into()
}

#[cfg(test)]
mod tests {
    use super::super::{Alone, threads};
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// What each of `size` ranks gets of `run`.
    fn all<T: Send>(size: usize, run: impl Fn(&threads::Thread) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let run = &run;
            let running: Vec<_> =
                threads::ranks(size).into_iter().map(|rank| scope.spawn(move || run(&rank))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn nobody_goes_on_before_all_are_done() {
        let done = AtomicUsize::new(0);
        let work = |rank: usize| {
            if rank == 1 {
                std::thread::sleep(EVERY + EVERY / 2); // some signs of life
            }
            done.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Error>(rank)
        };
        let of_rank = |ranks: &threads::Thread| {
            let got = together(ranks, || work(ranks.rank()), |_| ()).unwrap();
            (got, done.load(Ordering::SeqCst))
        };
        assert_eq!(all(3, of_rank), [(0, 3), (1, 3), (2, 3)]);
        assert_eq!(together(&Alone, || Ok::<_, Error>(7), |_| ()).unwrap(), 7);
    }

    #[test]
    fn work_that_fails_ends_the_others_and_they_are_told() {
        let of_rank = |ranks: &threads::Thread| {
            let told = AtomicUsize::new(0);
            let work = || match ranks.rank() {
                1 => Err(Error::param("test", "disk", 0, "it is full")),
                _ => Ok(()),
            };
            let e = together(ranks, work, |_| _ = told.fetch_add(1, Ordering::SeqCst)).unwrap_err().to_string();
            ranks.fail(&e); // as a program does
            (e, told.into_inner())
        };
        let said = all(3, of_rank);
        assert!(said[1].0.contains("disk = 0") && said[1].1 == 0, "{said:?}");
        assert!([0, 2].iter().all(|&i| said[i].0.contains("it is full") && said[i].1 == 1), "{said:?}");
    }

    #[test]
    fn the_rank_that_differs_is_named_with_both_values() {
        let differ = |rank: usize, name: &str, value: &str| {
            all(3, |ranks| {
                let mut facts: Vec<_> = [("--lr", "0.1"), ("--out", "a b")].map(|(n, v)| (n.into(), v.into())).to_vec();
                if ranks.rank() == rank {
                    facts.retain(|(n, _)| n != name);
                    facts.push((name.to_owned(), value.to_owned()));
                }
                agree(ranks, &facts).map_err(|e| e.to_string())
            })
        };
        assert_eq!(differ(0, "--lr", "0.1"), vec![Ok(()); 3]); // the order does not matter
        for (rank, name, value, want) in [
            (1, "--lr", "0.2", "rank 1 differs from rank 0 in --lr: 0.2 there, 0.1 on rank 0"),
            (2, "--out", "a\nb c", "rank 2 differs from rank 0 in --out: a b c there, a b on rank 0"),
            (2, "--init", "x", "rank 2 differs from rank 0 in --init: x there, nothing on rank 0"),
            (0, "--init", "x", "rank 1 differs from rank 0 in --init: nothing there, x on rank 0"),
        ] {
            let said = differ(rank, name, value);
            assert!(said.iter().all(|one| one.as_ref().is_err_and(|e| e.starts_with(want))), "{said:?}");
        }
        let long = differ(1, "--lr", &"9".repeat(5000))[0].clone().unwrap_err();
        assert!(long.len() < 400 && long.contains("5000 bytes"), "{long}");
        assert!(agree(&Alone, &[]).is_ok());
    }
}
