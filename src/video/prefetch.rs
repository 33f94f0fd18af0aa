//! Produces items ahead of time on worker threads and returns them in order.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::Result;

/// An iterator over `make(0), make(1), …, make(n - 1)`, produced by worker threads at most `depth` ahead of the
/// consumer.
///
/// Order and values depend neither on the number of threads nor on their speed. An error is returned in its item's
/// place and the following items continue. Dropping the iterator waits for the items in progress and skips the rest.
pub struct Prefetch<T> {
    shared: Arc<Shared<T>>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Signalled when an item is ready.
    ready: Condvar,
    /// Signalled when there is space for another item, or the consumer is gone.
    room: Condvar,
}

struct State<T> {
    total: usize,
    depth: usize,
    /// The next item to produce.
    next: usize,
    /// The next item to return.
    deliver: usize,
    /// Produced and not yet returned; a panic of `make` is passed on to the consumer.
    made: BTreeMap<usize, std::thread::Result<Result<T>>>,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs while holding the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts producing `total` items on `threads` threads (at least one), at most `depth` (at least one) ahead.
    pub fn new(
        threads: usize,
        depth: usize,
        total: usize,
        make: impl Fn(usize) -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        let state = State { total, depth: depth.max(1), next: 0, deliver: 0, made: BTreeMap::new(), closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), ready: Condvar::new(), room: Condvar::new() });
        let make = Arc::new(make);
        let worker = |_| {
            let (shared, make) = (Arc::clone(&shared), Arc::clone(&make));
            std::thread::spawn(move || work(&shared, &*make))
        };
        let workers = (0..threads.max(1).min(total.max(1))).map(worker).collect();
        Self { shared, workers }
    }
}

fn work<T>(shared: &Shared<T>, make: &(impl Fn(usize) -> Result<T> + ?Sized)) {
    loop {
        let mut state = shared.lock();
        while !state.closed && state.next < state.total && state.next >= state.deliver + state.depth {
            state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed || state.next >= state.total {
            return;
        }
        let i = state.next;
        state.next += 1;
        drop(state);
        let item = catch_unwind(AssertUnwindSafe(|| make(i)));
        shared.lock().made.insert(i, item);
        shared.ready.notify_all();
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let mut state = self.shared.lock();
        if state.deliver >= state.total {
            return None;
        }
        let i = state.deliver;
        let item = loop {
            match state.made.remove(&i) {
                Some(item) => break item,
                None => state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        state.deliver += 1;
        drop(state);
        self.shared.room.notify_all();
        Some(item.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.room.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
