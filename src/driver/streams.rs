//! Several streams of one device, and the events that order them.

use super::{EventId, Gpu, Memory, Usage};
use crate::error::{Error, ErrorKind, Result};
use std::sync::{Arc, Weak};

/// A point in the stream of a [`Gpu`]. See [`Gpu::record_event`].
#[derive(Debug)]
pub struct Event {
    gpu: Gpu,
    id: EventId,
    /// Whether it is part of a graph, so that it happens in replays alone.
    in_graph: bool,
}

impl Drop for Event {
    fn drop(&mut self) {
        self.gpu.driver().destroy_event(self.id);
    }
}

impl Gpu {
    /// Another stream of the same device: work that it is given runs beside the work of this stream, after what this one was
    /// given so far. Kernels are loaded once for all streams; each has memory of its own ([`Gpu::usage`]). An operation takes
    /// tensors of one stream; [`Tensor::share`](crate::tensor::Tensor::share) passes them on.
    ///
    /// # Errors
    /// `Driver`, also while a graph is being recorded.
    pub fn fork(&self) -> Result<Gpu> {
        let fork = Gpu::of(self.driver().fork()?, Some(self.root().clone()));
        let mut forks = self.root().forks();
        forks.retain(|fork| fork.strong_count() > 0);
        forks.push(Arc::downgrade(&fork.0));
        drop(forks);
        fork.wait(&self.record_event()?)?;
        Ok(fork)
    }

    /// Whether `other` is a stream of the same device: one of the two was forked of the other, or both of a third.
    #[must_use]
    pub fn is_beside(&self, other: &Gpu) -> bool {
        self.root() == other.root()
    }

    /// Has work that this stream is given from now on wait for `event`. The host does not wait.
    ///
    /// # Errors
    /// `Driver`, also for an event of another device, an event that was recorded in a graph, and while a graph is being
    /// recorded.
    pub fn wait(&self, event: &Event) -> Result<()> {
        let refused = |what: &str| Err(Error::driver("wait for an event", what));
        if !event.gpu.is_beside(self) {
            return refused("it is of another GPU");
        }
        if event.in_graph {
            return refused("it is part of a recorded graph, and happens in replays alone");
        }
        self.driver().wait_event(event.id)
    }

    /// Has work that this stream is given from now on wait for all work that `other` was given so far: an event, recorded and
    /// waited for.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub fn join(&self, other: &Gpu) -> Result<()> {
        if self == other { Ok(()) } else { self.wait(&other.record_event()?) }
    }

    /// Returns free blocks of the other streams to the driver, as far as that is possible now: it is not for a stream that
    /// records a graph.
    pub(super) fn trim_others(&self) {
        let root = self.root();
        let mut others: Vec<Gpu> = root.forks().iter().filter_map(Weak::upgrade).map(Gpu).collect();
        others.push(root.clone());
        for other in others.iter().filter(|other| *other != self) {
            // Blocks are free for this stream once the other one has reached the calls that free them. What failed there is
            // an error of the next call there.
            let _ = other.trim().and_then(|()| other.synchronize());
        }
    }

    /// Memory of all streams of the device in use and held. The peak is the sum of theirs, so it is an upper bound: they may have
    /// been at different times.
    #[must_use]
    pub fn usage_of_all_streams(&self) -> Usage {
        let forks = self.root().forks();
        let others = forks.iter().filter_map(Weak::upgrade).map(|fork| Gpu(fork).usage());
        others.fold(self.root().usage(), |a, b| Usage {
            live: a.live + b.live,
            peak: a.peak + b.peak,
            held: a.held + b.held,
            allocations: a.allocations + b.allocations,
        })
    }

    /// Records an event in the stream.
    ///
    /// # Errors
    /// `Driver`.
    pub fn record_event(&self) -> Result<Event> {
        let id = self.driver().record_event()?;
        Ok(Event { gpu: self.clone(), id, in_graph: self.pool().is_capturing() })
    }

    /// Milliseconds between two events of this GPU, of any of its streams; waits for the later one.
    ///
    /// # Errors
    /// `Driver`, also for an event of another GPU.
    pub fn elapsed_ms(&self, from: &Event, to: &Event) -> Result<f32> {
        if !from.gpu.is_beside(self) || !to.gpu.is_beside(self) {
            let what = "an event is of another GPU".into();
            return Err(ErrorKind::Driver { action: "read its clock", what }.into());
        }
        self.driver().elapsed_ms(from.id, to.id)
    }

    /// `memory` of another stream of this device, for use by this one. When the result is dropped, the other stream waits for
    /// what this one was given until then: what it does with the memory afterwards, if only to hand it out again, comes later.
    pub(crate) fn lent(&self, memory: &Arc<Memory>) -> Memory {
        let lent = Lent { memory: Some(memory.clone()), user: self.clone() };
        let mut here = self.borrow(memory.ptr(), memory.bytes(), Some(Arc::new(lent)));
        here.is_lent = true;
        here
    }
}

/// Memory of one stream in use by another.
struct Lent {
    memory: Option<Arc<Memory>>,
    user: Gpu,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        if memory.gpu().join(&self.user).is_err() {
            // A failed driver, or a graph that is being recorded: without the order, nobody may ever write there again.
            std::mem::forget(memory);
        }
    }
}
