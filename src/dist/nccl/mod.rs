//! Ranks on GPUs, connected by NCCL for tensors, and by TCP or MPI for notes and for the ends of ranks.
//!
//! Tensors are moved by the stream that has them; the host thread goes on. A rank that has ended leaves the others' streams
//! waiting: a thread asks, ten times a second, NCCL for errors and the other connection for ranks that have ended, and aborts
//! NCCL's work, after which streams go on, with data that means nothing. So do not believe or write results before the next
//! call of [`Collective`] has succeeded; [`Collective::check`] is one that only asks.

mod library;

#[cfg(any(test, feature = "testing"))]
pub use library::{Code, IN_PROGRESS, Library, SUCCESS, UniqueId};
#[cfg(not(any(test, feature = "testing")))]
use library::{Code, IN_PROGRESS, Library, SUCCESS, UniqueId};

use super::alone::{gathered, rows_for};
use super::tcp::lost;
use super::{Collective, Patience};
use crate::driver::Gpu;
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::Tensor;
use library::{Loaded, release};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a thread looks for ranks that have ended.
const LOOKING: Duration = Duration::from_millis(100);

/// Ranks on GPUs.
pub struct Nccl {
    shared: Arc<Shared>,
    patience: Patience,
    sent: AtomicU64,
    /// What was exchanged so far, in a number: it travels with notes, so that ranks that are out of step notice it.
    history: AtomicU64,
    looking: Option<JoinHandle<()>>,
}

struct Shared {
    nccl: Box<dyn Library>,
    base: Arc<dyn Collective>,
    gpu: Gpu,
    state: Mutex<State>,
    /// Wakes the thread that looks, when this rank leaves.
    leaving: Condvar,
}

#[derive(Default)]
struct State {
    /// The communicator, unless this rank has left.
    comm: Option<u64>,
    /// Why there is none.
    reason: Option<String>,
}

impl Nccl {
    /// Connects the GPUs of ranks that `base` connects. All of them must call it, each with a GPU of its own.
    ///
    /// # Errors
    /// `Peer` when there is no NCCL, ranks have different releases of it, two ranks have one GPU, or they do not find each
    /// other in time; `Driver`.
    pub fn connect(base: Arc<dyn Collective>, gpu: &Gpu, patience: Patience) -> Result<Nccl> {
        let connected = Loaded::open().and_then(|library| Nccl::over(Box::new(library), base.clone(), gpu, patience));
        // The others wait for this rank already.
        connected.inspect_err(|e| base.fail(&e.to_string()))
    }

    /// The same with these functions.
    ///
    /// # Errors
    /// As [`Nccl::connect`].
    #[cfg_attr(not(any(test, feature = "testing")), allow(unreachable_pub))]
    pub fn over(library: Box<dyn Library>, base: Arc<dyn Collective>, gpu: &Gpu, patience: Patience) -> Result<Nccl> {
        let said = |action: &str, code: Code| lost(format!("NCCL cannot {action}: {}", library.words(code)));
        let version = library.version().map_err(|code| said("tell its version", code))?;
        let own = format!("{}\n{}", release(version), place(gpu));
        compatible(&base.share(own.as_bytes())?)?;
        let id = if base.rank() == 0 {
            library.unique_id().map_err(|code| said("make an id of the ranks", code))?.to_vec()
        } else {
            Vec::new()
        };
        let ids = base.share(&id)?;
        let id: UniqueId = ids[0].as_slice().try_into().map_err(|_| lost("rank 0 sends no id of NCCL".into()))?;
        gpu.driver().make_current()?;
        let (comm, code) = library.init(base.size(), &id, base.rank());
        let (state, leaving) = (Mutex::new(State { comm: Some(comm), reason: None }), Condvar::new());
        let shared = Arc::new(Shared { nccl: library, base, gpu: gpu.clone(), state, leaving });
        shared.settle(&mut shared.state(), code, "connect the ranks", patience.starting)?;
        let looking = std::thread::Builder::new().name("watch NCCL".into()).spawn({
            let shared = shared.clone();
            move || shared.look()
        });
        let looking = Some(looking.map_err(|e| lost(format!("no thread can be started: {e}")))?);
        Ok(Nccl { shared, patience, sent: AtomicU64::new(0), history: AtomicU64::new(0), looking })
    }

    /// Where a result of `own` is made: on its stream. Its address, and that of `own`.
    fn beside(&self, op: &'static str, arg: &'static str, own: &Tensor, shape: Shape) -> Result<(Gpu, Tensor)> {
        let gpu = own.gpu().filter(|gpu| gpu.is_beside(&self.shared.gpu));
        let gpu = gpu.ok_or_else(|| Error::device(op, arg, self.shared.gpu.name(), own.device()))?;
        Ok((gpu.clone(), Tensor::on_gpu(gpu, own.dtype(), shape)?))
    }

    /// Gives NCCL work: `submit` gets the communicator.
    fn submit(&self, kind: u64, bytes: usize, submit: impl FnOnce(&dyn Library, u64) -> Code) -> Result<()> {
        let shared = &*self.shared;
        let mut state = shared.state();
        let comm = state.comm()?;
        shared.gpu.driver().make_current()?;
        let code = submit(&*shared.nccl, comm);
        shared.settle(&mut state, code, "exchange", self.patience.step)?;
        self.sent.fetch_add(((shared.base.size() - 1) * bytes) as u64, Ordering::Relaxed);
        let mixed = (self.history.load(Ordering::Relaxed) ^ bytes as u64 ^ kind << 56).wrapping_mul(0x0100_0000_01b3);
        self.history.store(mixed.rotate_left(23), Ordering::Relaxed);
        Ok(())
    }
}

impl State {
    fn comm(&self) -> Result<u64> {
        let left = || lost(self.reason.clone().unwrap_or_else(|| "this rank has left the others".into()));
        self.comm.ok_or_else(left)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until NCCL has taken the work that `code` answers, `limit` at most; after an error nothing is left of the
    /// communicator.
    fn settle(&self, state: &mut State, mut code: Code, action: &str, limit: Duration) -> Result<()> {
        let comm = state.comm()?;
        let start = Instant::now();
        let failed = loop {
            match code {
                SUCCESS => return Ok(()),
                IN_PROGRESS => {}
                _ => break lost(format!("NCCL cannot {action}: {}", self.nccl.words(code))),
            }
            if let Err(ended) = self.base.check() {
                break ended;
            }
            if start.elapsed() > limit {
                let rank = self.base.rank();
                let seconds = limit.as_secs();
                break lost(format!("NCCL of rank {rank} has not found the others within {seconds} seconds"));
            }
            std::thread::sleep(Duration::from_micros(20));
            code = self.nccl.state(comm);
        };
        self.abort(state, Some(failed.to_string()));
        Err(failed)
    }

    fn abort(&self, state: &mut State, reason: Option<String>) {
        if let Some(comm) = state.comm.take() {
            self.nccl.abort(comm);
        }
        if state.reason.is_none() {
            state.reason = reason;
        }
    }

    /// Looks for errors until this rank has left.
    fn look(&self) {
        if self.gpu.driver().make_current().is_err() {
            return;
        }
        let mut state = self.state();
        while let Some(comm) = state.comm {
            let failed = self.base.check().err().map(|ended| ended.to_string());
            let failed = failed.or_else(|| match self.nccl.state(comm) {
                SUCCESS | IN_PROGRESS => None,
                code => Some(format!("NCCL cannot go on: {}", self.nccl.words(code))),
            });
            if failed.is_some() {
                return self.abort(&mut state, failed);
            }
            let waited = self.leaving.wait_timeout(state, LOOKING);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.shared.base.rank()
    }

    fn size(&self) -> usize {
        self.shared.base.size()
    }

    fn name(&self) -> &'static str {
        "nccl"
    }

    fn share(&self, note: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.check()?;
        let history = self.history.load(Ordering::Relaxed).to_le_bytes();
        let mut notes = self.shared.base.share(&[&history, note].concat())?;
        for (peer, note) in notes.iter_mut().enumerate() {
            if !note.starts_with(&history) {
                return Err(lost(format!(
                    "rank {peer} is out of step: it has exchanged other tensors than rank {}; ranks must have the same \
                     program, options and data",
                    self.rank()
                )));
            }
            note.drain(..history.len());
        }
        self.sent.fetch_add(((self.size() - 1) * note.len()) as u64, Ordering::Relaxed);
        Ok(notes)
    }

    fn all_to_all(&self, rows: &Tensor) -> Result<Tensor> {
        let (rank, size) = (self.rank(), self.size());
        let each = rows_for(size, rows)? * rows.dtype().size();
        let (gpu, all) = self.beside("all_to_all", "rows", rows, rows.shape())?;
        if each == 0 {
            return Ok(all);
        }
        let (from, to, stream) = (rows.memory().ptr(), all.memory().ptr(), gpu.driver().stream());
        let at = |rank: usize| (rank * each) as u64;
        gpu.driver().copy(to + at(rank), from + at(rank), each)?;
        self.submit(1, each, |nccl, comm| {
            let mut codes = vec![nccl.group_start()];
            for peer in (1..size).map(|d| (rank + d) % size) {
                codes.push(nccl.send(from + at(peer), each, peer, comm, stream));
                codes.push(nccl.receive(to + at(peer), each, peer, comm, stream));
            }
            codes.push(nccl.group_end()); // also after an error, or the thread would stay in the group
            let failed = codes.iter().find(|code| ![SUCCESS, IN_PROGRESS].contains(code));
            *failed.or(codes.last()).unwrap_or(&SUCCESS)
        })?;
        Ok(all)
    }

    fn all_gather(&self, part: &Tensor) -> Result<Tensor> {
        let each = part.shape().len() * part.dtype().size();
        let (gpu, all) = self.beside("all_gather", "part", part, gathered(self.size(), part.shape()))?;
        if each == 0 {
            return Ok(all);
        }
        let (from, to, stream) = (part.memory().ptr(), all.memory().ptr(), gpu.driver().stream());
        self.submit(2, each, |nccl, comm| nccl.all_gather(from, to, each, comm, stream))?;
        Ok(all)
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<()> {
        self.shared.base.check()?;
        self.shared.state().comm().map(drop)
    }

    fn fail(&self, why: &str) {
        self.shared.base.fail(why);
        self.shared.abort(&mut self.shared.state(), Some(why.to_owned()));
    }

    fn finish(&self) {
        let shared = &*self.shared;
        let mut state = shared.state();
        if let Some(comm) = state.comm {
            let code = shared.nccl.finalize(comm);
            if shared.settle(&mut state, code, "finish", self.patience.step).is_ok() {
                shared.nccl.destroy(comm);
                state.comm = None;
            }
        }
        drop(state);
        shared.base.finish();
    }
}

/// A rank that is dropped without a word has failed: the connection below tells the others.
impl Drop for Nccl {
    fn drop(&mut self) {
        self.shared.abort(&mut self.shared.state(), None);
        self.shared.leaving.notify_all();
        if let Some(looking) = self.looking.take() {
            let _ = looking.join();
        }
    }
}

/// Where the GPU is: its number on the bus, if the driver tells, its name and the machine's.
fn place(gpu: &Gpu) -> String {
    let of = |file: &str| std::fs::read_to_string(file).unwrap_or_default().trim().to_owned();
    let machine = format!("{}\n{}", of("/proc/sys/kernel/hostname"), of("/proc/sys/kernel/random/boot_id"));
    format!("{}\n{machine}", gpu.driver().bus().unwrap_or_default())
}

/// Checks that all ranks have the same NCCL, and each a GPU of its own: `notes` have a release, a number on the bus, the name
/// of the machine, and what tells machines of one name apart.
fn compatible(notes: &[Vec<u8>]) -> Result<()> {
    let notes: Vec<String> = notes.iter().map(|note| String::from_utf8_lossy(note).into_owned()).collect();
    let parts: Vec<(&str, &str)> = notes.iter().map(|note| note.split_once('\n').unwrap_or((note, ""))).collect();
    for (rank, (release, place)) in parts.iter().enumerate() {
        if *release != parts[0].0 {
            return Err(lost(format!(
                "rank 0 has NCCL {}, and rank {rank} NCCL {release}: all ranks need the same release",
                parts[0].0
            )));
        }
        let (bus, machine) = place.split_once('\n').unwrap_or_default();
        if let (false, Some(other)) = (bus.is_empty(), parts[..rank].iter().position(|(_, other)| other == place)) {
            let machine = machine.lines().next().unwrap_or_default();
            return Err(lost(format!(
                "ranks {other} and {rank} are both on GPU {bus} of {machine}, and NCCL needs a GPU for each: start as many ranks \
                 on a machine as it has GPUs"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_that_cannot_be_connected_are_named() {
        let of = |notes: [&str; 3]| compatible(&notes.map(|note| note.as_bytes().to_vec())).map_err(|e| e.to_string());
        assert_eq!(of(["2.21.5\n0:3b:0\na\n1", "2.21.5\n0:3b:0\nb\n2", "2.21.5\n0:5e:0\na\n1"]), Ok(()));
        assert_eq!(of(["2.21.5\n\na\n1"; 3]), Ok(()), "a driver that does not tell");
        let e = of(["2.21.5\n0:3b:0\na\n1", "2.21.5\n0:5e:0\na\n1", "2.21.5\n0:3b:0\na\n1"]).unwrap_err();
        assert!(e.starts_with("ranks 0 and 2 are both on GPU 0:3b:0 of a, "), "{e}");
        let e = of(["2.21.5\n0:3b:0\na\n1", "2.21.5\n0:5e:0\na\n1", "2.22.3\n0:6f:0\na\n1"]).unwrap_err();
        assert!(e.starts_with("rank 0 has NCCL 2.21.5, and rank 2 NCCL 2.22.3"), "{e}");
    }
}
