//! Calls to a collective that one thread makes, in the order in which they are given.
//!
//! Ranks must make the same calls in the same order, and collectives are used by one thread at a time. What is exchanged
//! while a rank computes is given to this thread, and the rank goes on; what it needs at once takes its turn in the same
//! order, and the rank waits for it.
//!
//! On a GPU the order of host calls is not enough: what is exchanged beside the computation is given to a stream of its own.

use super::{Alone, Collective};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{Device, Tensor};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

type Call = Box<dyn FnOnce() + Send>;

/// A collective with a thread that makes its calls. A single process has none: its calls return at once.
pub struct Ordered {
    ranks: Arc<dyn Collective>,
    calls: Option<Mutex<Sender<Call>>>,
    /// A stream for exchanges beside that of the last GPU that was asked for, made when it is first needed.
    stream: Mutex<Option<Device>>,
}

/// A call that was given and may not have been made yet. It is made even if nobody waits for it, so that ranks stay in step.
pub struct Started<T>(Receiver<Result<T>>);

impl<T> Started<T> {
    /// What the call returns.
    ///
    /// # Errors
    /// Those of the call; `Peer` when its thread has ended.
    pub fn wait(self) -> Result<T> {
        self.0.recv().unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> Error {
    ErrorKind::Peer { what: "the thread that exchanges data with other ranks has ended".into() }.into()
}

impl Ordered {
    /// `ranks` with a thread of its own.
    ///
    /// # Errors
    /// `Peer` when the thread cannot be started.
    pub fn new(ranks: Arc<dyn Collective>) -> Result<Ordered> {
        if ranks.size() == 1 {
            return Ok(Ordered { ranks, calls: None, stream: Mutex::default() });
        }
        // A pool of one thread: operations on tensors inside of a call then run on that thread. In the pool of the caller they
        // would wait for threads that wait for the call.
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "exchange".into()).panic_handler(|_| {});
        let pool = pool.build().map_err(|e| {
            Error::from(ErrorKind::Peer { what: format!("no thread can be started to exchange data with ranks: {e}") })
        })?;
        let (calls, given) = channel::<Call>();
        pool.spawn(move || given.into_iter().for_each(|call| call()));
        Ok(Ordered { ranks, calls: Some(Mutex::new(calls)), stream: Mutex::default() })
    }

    /// A single process.
    #[must_use]
    pub fn alone() -> Ordered {
        Ordered { ranks: Arc::new(Alone), calls: None, stream: Mutex::default() }
    }

    /// Tensors for a call that is made beside further work on their device: on a GPU, on another stream, which waits for what theirs was
    /// given so far.
    ///
    /// # Errors
    /// `Device` when they are on different devices; on a GPU also errors of its driver.
    pub(super) fn beside(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        let Some(Device::Cuda(gpu)) = tensors.first().map(Tensor::device) else { return Ok(tensors.to_vec()) };
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let beside = match &*stream {
            Some(Device::Cuda(beside)) if beside.is_beside(&gpu) => beside.clone(),
            _ => gpu.fork()?,
        };
        *stream = Some(Device::Cuda(beside.clone()));
        tensors.iter().map(|t| t.share(&beside)).collect()
    }

    /// Gives a call to the thread; `call` may make several calls of the collective.
    pub fn start<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Collective) -> Result<T> + Send + 'static,
    ) -> Started<T> {
        let (done, result) = channel();
        let ranks = self.ranks.clone();
        let call = move || {
            // Nobody may wait for it any more.
            let _ = done.send(call(&*ranks));
        };
        match &self.calls {
            None => call(),
            // If the thread has ended, the call is dropped, which the one who waits is told.
            Some(calls) => drop(calls.lock().unwrap_or_else(PoisonError::into_inner).send(Box::new(call))),
        }
        Started(result)
    }
}

impl Collective for Ordered {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn name(&self) -> &'static str {
        self.ranks.name()
    }

    fn share(&self, note: &[u8]) -> Result<Vec<Vec<u8>>> {
        let note = note.to_vec();
        self.start(move |ranks| ranks.share(&note)).wait()
    }

    fn all_to_all(&self, rows: &Tensor) -> Result<Tensor> {
        let rows = rows.clone();
        self.start(move |ranks| ranks.all_to_all(&rows)).wait()
    }

    fn all_gather(&self, part: &Tensor) -> Result<Tensor> {
        let part = part.clone();
        self.start(move |ranks| ranks.all_gather(&part)).wait()
    }

    fn sent(&self) -> u64 {
        self.ranks.sent()
    }

    /// At once, whatever call is being made.
    fn fail(&self, why: &str) {
        self.ranks.fail(why);
    }

    fn finish(&self) {
        self.ranks.finish();
    }
}
