//! Ranks connected by MPI: for processors whose machines have a network that MPI knows better than TCP does.
//!
//! No call of MPI waits: each is started, and this rank asks until it is done, so that between two questions it can notice
//! a message from a rank that fails, and how long it waits already. What ends without a word is noticed by the launcher,
//! which ends all others: mpirun of Open MPI and of MPICH do so, and srun with `--kill-on-bad-exit`.

mod calls;

use super::alone::{gathered, rows_for};
use super::tcp::{NOTE, as_bytes, lost};
use super::{Collective, Patience, World};
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};
use calls::{Comm, Request, Rows};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most bytes of a row in one message: below 2³¹, which is what lengths of MPI can say, and few enough that the time
/// of a message is short beside [`EAGER`].
const PIECE: usize = 1 << 22;

/// How long a rank asks without a pause. After this time it waits for a rank that is late, not for data.
const EAGER: Duration = Duration::from_secs(1);

/// How long a rank that fails waits until others have heard why.
const TELLING: Duration = Duration::from_secs(1);

/// How long others have to print what they have heard before this rank may end, which is when the launcher ends them.
const PRINTING: Duration = Duration::from_millis(300);

/// How long a rank has to end after an error: then it ends all.
const ENDING: Duration = Duration::from_secs(5);

/// The most characters of the sentence that others are told, so that it travels in one piece.
const SENTENCE: usize = 500;

/// The kinds of calls.
const SHARE: u64 = 1;
const ALL_TO_ALL: u64 = 2;
const ALL_GATHER: u64 = 3;
const FINISH: u64 = 4;

/// Bytes of what precedes a call: its number, its kind, and the bytes that each rank sends.
const HEADER: usize = 24;

/// Ranks connected by MPI. One in a process, once.
pub struct Mpi {
    rank: usize,
    size: usize,
    data: Comm,
    /// For what ranks that fail say.
    failures: Comm,
    patience: Patience,
    /// Calls so far. Locked while MPI is called.
    calls: Arc<Mutex<u64>>,
    /// Which rank ended and why, in a sentence: the first that is known.
    reason: Mutex<Option<String>>,
    /// Whether this rank has finished or failed.
    left: AtomicBool,
    sent: AtomicU64,
}

impl Mpi {
    /// Connects the ranks of `world`, which mpirun or srun started. All of them must call it, and [`Collective::finish`]
    /// in the same thread.
    ///
    /// # Errors
    /// `Peer` when MPI does not start, was started in this process before, takes no calls from several threads, or says
    /// something else about who is who than the launcher's environment variables: then the program is linked with another
    /// MPI than the launcher's.
    pub fn connect(world: &World, patience: Patience) -> Result<Mpi> {
        let [data, failures] = calls::start()?;
        let (rank, size) = data.place()?;
        let mpi = Mpi {
            rank,
            size,
            data,
            failures,
            patience,
            calls: Arc::default(),
            reason: Mutex::default(),
            left: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        };
        if (rank, size) == (world.rank, world.size) {
            return Ok(mpi);
        }
        let why = format!(
            "{} says that this is rank {} of {}, and MPI that it is rank {rank} of {size}: start this program with the \
             launcher of the MPI that it is linked with, {}",
            world.launcher,
            world.rank,
            world.size,
            calls::library()
        );
        mpi.fail(&why);
        Err(lost(why))
    }

    fn calls(&self) -> MutexGuard<'_, u64> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reason(&self) -> MutexGuard<'_, Option<String>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of a rank that is known to have failed.
    fn news(&self) -> Result<()> {
        let mut reason = self.reason();
        if reason.is_none() {
            *reason = self.failures.message()?.map(|text| String::from_utf8_lossy(&text).into_owned());
        }
        reason.clone().map_or(Ok(()), |reason| Err(lost(reason)))
    }

    /// Waits until all requests are done, `limit` at most. After an error their memory must not be freed: MPI may go on
    /// using it.
    fn wait(&self, mut requests: Vec<Request>, limit: Option<Duration>) -> Result<()> {
        let start = Instant::now();
        loop {
            let mut i = 0;
            while i < requests.len() {
                if requests[i].done()? {
                    requests.swap_remove(i);
                } else {
                    i += 1;
                }
            }
            let Some(first) = requests.first() else { return Ok(()) };
            self.news()?;
            let waited = start.elapsed();
            if let Some(limit) = limit.filter(|limit| waited > *limit) {
                let peer = first.peer.map_or_else(|| "a rank".into(), |peer| format!("rank {peer}"));
                let seconds = limit.as_secs();
                return Err(lost(format!(
                    "{peer} has sent nothing for {seconds} seconds, and its process is still there: it hangs, or takes much \
                     longer than rank {}",
                    self.rank
                )));
            }
            if waited < EAGER {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Tells all ranks which call comes next and how many bytes this one sends, and returns how many each does.
    fn meet(&self, calls: &mut u64, kind: u64, bytes: u64, limit: Option<Duration>) -> Result<Vec<u64>> {
        let call = *calls;
        *calls += 1;
        let own: Vec<u8> = [call, kind, bytes].iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut headers = vec![0; self.size * HEADER];
        let done = self.headers(&own, &mut headers, limit);
        if let Err(e) = done {
            std::mem::forget((own, headers)); // as `wait` asks
            return Err(e);
        }
        let word = |rank: usize, i: usize| {
            let at = rank * HEADER + 8 * i;
            headers[at..at + 8].iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte))
        };
        for peer in (0..self.size).filter(|peer| *peer != self.rank) {
            let (theirs, what) = (word(peer, 0), word(peer, 1));
            if (theirs, what) != (call, kind) {
                return Err(lost(if what == FINISH {
                    format!("rank {peer} has finished where rank {} makes its exchange number {call}", self.rank)
                } else {
                    format!(
                        "rank {peer} is out of step: it makes its exchange number {theirs} where rank {} makes number {call}, \
                         or one of another kind; ranks must have the same program, options and data",
                        self.rank
                    )
                }));
            }
        }
        Ok((0..self.size).map(|rank| if rank == self.rank { bytes } else { word(rank, 2) }).collect())
    }

    fn headers(&self, own: &[u8], all: &mut [u8], limit: Option<Duration>) -> Result<()> {
        let mut requests = Vec::new();
        for (peer, header) in all.chunks_exact_mut(HEADER).enumerate().filter(|(peer, _)| *peer != self.rank) {
            // SAFETY: both live until all requests are done, and after an error for ever.
            requests.push(unsafe { self.data.receive(header, peer)? });
            // SAFETY: as above.
            requests.push(unsafe { self.data.send(own, peer)? });
        }
        self.wait(requests, limit)
    }

    /// Moves `each` bytes from each rank to each, in pieces: of `from` row `i` to rank `i`, or all of it to every rank.
    fn rows(&self, kind: u64, from: &[u8], to: &mut [u8], each: usize) -> Result<()> {
        let sends = if kind == ALL_TO_ALL { self.size } else { 1 };
        assert!(from.len() == sends * each && to.len() == self.size * each);
        for at in (0..each).step_by(PIECE) {
            let rows = Rows { bytes: PIECE.min(each - at), stride: each };
            // SAFETY: the lengths are as asserted; both live until the request is done, and after an error for ever.
            let request = unsafe {
                let (from, to) = (from.as_ptr().add(at), to.as_mut_ptr().add(at));
                match kind {
                    ALL_TO_ALL => self.data.all_to_all(from, to, rows)?,
                    _ => self.data.all_gather(from, to, rows)?,
                }
            };
            self.wait(vec![request], Some(self.patience.step))?;
        }
        Ok(())
    }

    /// The tensors that [`Mpi::rows`] moves.
    fn tensors(&self, kind: u64, own: &Tensor, each: usize, shape: Shape) -> Result<Tensor> {
        let from = as_bytes(own)?;
        let mut calls = self.calls();
        let theirs = self.meet(&mut calls, kind, each as u64, Some(self.patience.step))?;
        if let Some(peer) = theirs.iter().position(|bytes| *bytes != each as u64) {
            let what = format!("rank {peer} sends {} bytes where rank {} sends {each}", theirs[peer], self.rank);
            return Err(lost(what + ": ranks must have the same program, options and data"));
        }
        let mut moved = Ok(());
        let all = match own.dtype() {
            DType::F32 => Tensor::build(shape, |to| moved = self.rows(kind, from, bytemuck::cast_slice_mut(to), each))?,
            DType::BF16 => {
                Tensor::build_bf16(shape, |to| moved = self.rows(kind, from, bytemuck::cast_slice_mut(to), each))?
            }
        };
        match moved {
            Ok(()) => {
                self.sent.fetch_add(((self.size - 1) * each) as u64, Ordering::Relaxed);
                Ok(all)
            }
            Err(e) => {
                std::mem::forget((all, own.clone())); // as `wait` asks
                Err(e)
            }
        }
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn name(&self) -> &'static str {
        "mpi"
    }

    fn share(&self, note: &[u8]) -> Result<Vec<Vec<u8>>> {
        if note.len() as u64 > NOTE {
            return Err(Error::param("share", "note", note.len(), format!("a note has at most {NOTE} bytes")));
        }
        let mut calls = self.calls();
        let lengths = self.meet(&mut calls, SHARE, note.len() as u64, Some(self.patience.step))?;
        let each = lengths.iter().copied().max().unwrap_or(0);
        if each > NOTE {
            return Err(lost(format!("a rank announces a note of {each} bytes, which no rank of this program does")));
        }
        let each = each as usize;
        let mut from = note.to_vec();
        from.resize(each, 0);
        let mut all = vec![0; self.size * each];
        if let Err(e) = self.rows(SHARE, &from, &mut all, each) {
            std::mem::forget((from, all)); // as `wait` asks
            return Err(e);
        }
        self.sent.fetch_add(((self.size - 1) * note.len()) as u64, Ordering::Relaxed);
        Ok(lengths.iter().enumerate().map(|(i, length)| all[i * each..][..*length as usize].to_vec()).collect())
    }

    fn all_to_all(&self, rows: &Tensor) -> Result<Tensor> {
        let each = rows_for(self.size, rows)? * rows.dtype().size();
        self.tensors(ALL_TO_ALL, rows, each, rows.shape())
    }

    fn all_gather(&self, part: &Tensor) -> Result<Tensor> {
        let each = part.shape().len() * part.dtype().size();
        self.tensors(ALL_GATHER, part, each, gathered(self.size, part.shape()))
    }

    fn check(&self) -> Result<()> {
        // A call under way looks by itself.
        match self.calls.try_lock() {
            Ok(_calls) if !self.left.load(Ordering::SeqCst) => self.news(),
            _ => self.reason().clone().map_or(Ok(()), |reason| Err(lost(reason))),
        }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn fail(&self, why: &str) {
        if self.left.swap(true, Ordering::SeqCst) {
            return;
        }
        let (failures, calls) = (self.failures, self.calls.clone());
        std::thread::spawn(move || {
            std::thread::sleep(ENDING);
            // One call of MPI at a time, but not at the price of waiting for one that hangs.
            let until = Instant::now() + TELLING;
            while calls.try_lock().is_err() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            failures.abort();
        });
        let text = format!("rank {} ended with an error: {why}", self.rank);
        let text: String = text.chars().take(SENTENCE).collect();
        // A call of another thread ends with it. If another rank failed first, the others know.
        let known = self.reason().replace(text.clone());
        if let Some(known) = known {
            *self.reason() = Some(known);
            return;
        }
        let _calls = self.calls();
        let text: &'static [u8] = text.leak().as_bytes(); // for requests that are never done
        // SAFETY: the text lives for ever.
        let told =
            (0..self.size).filter(|peer| *peer != self.rank).map(|peer| unsafe { self.failures.send(text, peer) });
        let mut told: Vec<Request> = told.flatten().collect();
        let start = Instant::now();
        while !told.is_empty() && start.elapsed() < TELLING {
            told.retain_mut(|request| !request.done().unwrap_or(true));
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(PRINTING);
    }

    fn finish(&self) {
        if self.left.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut calls = self.calls();
        // What rank 0 does at the end of a run may take long.
        if self.meet(&mut calls, FINISH, 0, None).is_ok() {
            calls::finalize();
        }
    }
}

/// A rank that is dropped without a word, in a panic for example, has failed.
impl Drop for Mpi {
    fn drop(&mut self) {
        self.fail("it left before the others");
    }
}
