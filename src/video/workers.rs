//! Work on many videos, in parallel over videos.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Calls `job` for 0..n on `threads` threads, each with a rayon pool of one thread, so that parallel code inside does not pick
/// up other videos while it waits. The first error ends it; after `stop` was set the remaining results are `None`. `dir` is
/// the folder that the error names if threads cannot be started.
pub(super) fn each<T: Send>(
    threads: usize,
    n: usize,
    stop: &AtomicBool,
    dir: &Path,
    job: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<Option<Result<T>>>> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let slots: Mutex<Vec<Option<Result<T>>>> = Mutex::new((0..n).map(|_| None).collect());
    let work = || -> std::result::Result<(), rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n || failed.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let result = pool.install(|| job(i));
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            slots.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(result);
        }
    };
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work);
        let workers: Vec<_> = (0..threads.min(n)).map(spawn).collect();
        let join = |worker: std::io::Result<std::thread::ScopedJoinHandle<_>>| {
            let end: std::result::Result<(), rayon::ThreadPoolBuildError> =
                worker?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            end.map_err(std::io::Error::other)
        };
        // All threads are joined, and the first error is returned.
        workers.into_iter().map(join).collect::<Vec<std::io::Result<()>>>().into_iter().collect::<std::io::Result<()>>()
    })
    .map_err(Error::io("start threads for", dir))?;
    let mut slots = slots.into_inner().unwrap_or_else(PoisonError::into_inner);
    match slots.iter_mut().find(|s| matches!(s, Some(Err(_)))).and_then(Option::take) {
        Some(Err(e)) => Err(e),
        _ => Ok(slots),
    }
}
