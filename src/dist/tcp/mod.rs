//! Ranks connected by TCP: for processors, and for what NCCL's ranks need besides NCCL.
//!
//! Each rank has a connection to each other one for data, and one to rank 0 that is *watched*: a thread reads it, so
//! that the end of a process, or a sentence from one that fails, is known within seconds even while this rank waits for
//! another. The watching thread then closes the connections for data, which wakes whoever waits for them.

mod meeting;
mod watch;

use super::alone::{gathered, rows_for};
use super::{Collective, World};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, Tensor};
use half::bf16;
use std::io::{ErrorKind as Io, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use watch::Watch;

/// How long a rank waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For all ranks to start and connect.
    pub starting: Duration,
    /// For data from a rank that is connected: longer than the steps of two ranks differ. In work without an end in sight they tell
    /// each other that they are there ([`together`](crate::dist::together)).
    pub step: Duration,
    /// For a sign of life from a machine: a cut cable is noticed after this time.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [starting, step, silence] = [300, 600, 20].map(Duration::from_secs);
        Patience { starting, step, silence }
    }
}

/// The most bytes of a note.
pub(super) const NOTE: u64 = 1 << 20;

/// Ranks connected by TCP.
pub struct Tcp {
    rank: usize,
    /// To each rank; `None` at this one's place.
    peers: Vec<Option<TcpStream>>,
    watch: Watch,
    patience: Patience,
    /// Calls so far: a call's number travels with its data, so that ranks that are out of step notice it.
    calls: Mutex<u64>,
    sent: AtomicU64,
}

/// What precedes the data of a call: its number, its kind, and the number of bytes that follow.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Header {
    call: u64,
    kind: u64,
    bytes: u64,
}

/// The kinds of calls.
const SHARE: u64 = 1;
const ALL_TO_ALL: u64 = 2;
const ALL_GATHER: u64 = 3;

impl Tcp {
    /// Connects the ranks of `world`. All of them must call it. While it waits, `waiting` is told again and again for whom, and
    /// ends the wait by an error.
    ///
    /// # Errors
    /// `Peer` when the ranks do not find each other in time, one of them ends meanwhile, or they say different things about who
    /// they are; those of `waiting`.
    pub fn connect(world: &World, patience: Patience, waiting: &dyn Fn(&str) -> Result<()>) -> Result<Tcp> {
        let meeting::Connected { peers, watched } = meeting::meet(world, patience, waiting)?;
        let clones = peers.iter().flatten().map(TcpStream::try_clone).collect::<std::io::Result<Vec<_>>>();
        let clones = clones.map_err(|e| lost(format!("the connections to other ranks cannot be used: {e}")))?;
        let watch = Watch::new(world.rank, watched, clones)?;
        Ok(Tcp { rank: world.rank, peers, watch, patience, calls: Mutex::new(0), sent: AtomicU64::new(0) })
    }

    /// Sends `to(i)` to each rank `i`, and writes what it sends into `from[i]`, of which this rank's own is left alone. A
    /// thread sends while this one receives, so that no two ranks wait for each other's buffers. Sizes of what arrives are
    /// checked by `sized`.
    fn exchange<'a>(
        &self,
        kind: u64,
        to: impl Fn(usize) -> &'a [u8] + Sync,
        from: &mut [Vec<u8>],
        sized: impl Fn(usize, u64) -> Result<()>,
    ) -> Result<()> {
        let (rank, size) = (self.rank, self.peers.len());
        // Held for the whole call: no other call may be in between. No code that can panic runs under it.
        let mut calls = self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let call = *calls;
        *calls += 1;
        let io = |peer: usize, done: std::io::Result<()>| done.map_err(|e| self.broken(peer, &e));
        std::thread::scope(|threads| {
            let sender = threads.spawn(|| {
                for peer in (1..size).map(|d| (rank + d) % size) {
                    let Some(mut stream) = self.peers[peer].as_ref() else { continue };
                    let bytes = to(peer);
                    let header = Header { call, kind, bytes: bytes.len() as u64 };
                    io(peer, stream.write_all(&header.written()).and_then(|()| stream.write_all(bytes)))?;
                    self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
                Ok(())
            });
            let mut receive = || {
                for peer in (1..size).map(|d| (rank + size - d) % size) {
                    let Some(mut stream) = self.peers[peer].as_ref() else { continue };
                    let mut header = [0; 24];
                    io(peer, stream.read_exact(&mut header))?;
                    let header = Header::read(header);
                    if (header.call, header.kind) != (call, kind) {
                        return Err(lost(format!(
                            "rank {peer} is out of step: it makes its exchange number {} where rank {rank} makes number \
                             {call}, or one of another kind; ranks must have the same program, options and data",
                            header.call
                        )));
                    }
                    sized(peer, header.bytes)?;
                    let into = &mut from[peer];
                    into.resize(header.bytes as usize, 0);
                    io(peer, stream.read_exact(into))?;
                }
                Ok(())
            };
            let received = receive();
            if received.is_err() {
                self.watch.close(); // or the sender would wait for ever
            }
            let sent = sender.join().unwrap_or_else(|_| Err(lost("the sending thread ended".into())));
            received.and(sent)
        })
    }

    /// Why the connection to `peer` failed: what the watching thread knows, if it knows something.
    fn broken(&self, peer: usize, e: &std::io::Error) -> Error {
        // The limit of a read; when the machine does not answer, the error is `TimedOut`.
        if e.kind() == Io::WouldBlock {
            return lost(format!(
                "rank {peer} has sent nothing for {} seconds, and its machine is still there: it hangs, or takes much longer \
                 than rank {}",
                self.patience.step.as_secs(),
                self.rank
            ));
        }
        self.watch.reason(peer, e)
    }

    /// The tensors that `to` names, exchanged; the result has the shape of `like` for each rank.
    fn tensors(
        &self,
        kind: u64,
        own: &[u8],
        to: impl Fn(usize) -> std::ops::Range<usize> + Sync,
        all: &[u8],
        dtype: DType,
        each: crate::shape::Shape,
    ) -> Result<Tensor> {
        let size = self.peers.len();
        let mut from = vec![Vec::new(); size];
        let sized = |peer: usize, bytes: u64| {
            if bytes == own.len() as u64 {
                return Ok(());
            }
            let what = format!("rank {peer} sends {bytes} bytes where rank {} sends {}", self.rank, own.len());
            Err(lost(what + ": ranks must have the same program, options and data"))
        };
        self.exchange(kind, |peer| &all[to(peer)], &mut from, sized)?;
        from[self.rank] = own.to_vec();
        from_bytes(dtype, gathered(size, each), &from)
    }
}

impl Collective for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.peers.len()
    }

    fn name(&self) -> &'static str {
        "tcp"
    }

    fn share(&self, note: &[u8]) -> Result<Vec<Vec<u8>>> {
        if note.len() as u64 > NOTE {
            return Err(Error::param("share", "note", note.len(), format!("a note has at most {NOTE} bytes")));
        }
        let mut from = vec![Vec::new(); self.size()];
        let sized = |peer: usize, bytes: u64| match bytes <= NOTE {
            true => Ok(()),
            false => {
                Err(lost(format!("rank {peer} announces a note of {bytes} bytes, which no rank of this program does")))
            }
        };
        self.exchange(SHARE, |_| note, &mut from, sized)?;
        from[self.rank] = note.to_vec();
        Ok(from)
    }

    fn all_to_all(&self, rows: &Tensor) -> Result<Tensor> {
        let row = rows_for(self.size(), rows)?;
        let bytes = as_bytes(rows)?;
        let each = row * rows.dtype().size();
        let of = |peer: usize| peer * each..(peer + 1) * each;
        let shape = crate::shape::Shape::new(&rows.dims()[1..]);
        self.tensors(ALL_TO_ALL, &bytes[of(self.rank)], of, bytes, rows.dtype(), shape)
    }

    fn all_gather(&self, part: &Tensor) -> Result<Tensor> {
        let bytes = as_bytes(part)?;
        self.tensors(ALL_GATHER, bytes, |_| 0..bytes.len(), bytes, part.dtype(), part.shape())
    }

    fn check(&self) -> Result<()> {
        self.watch.check()
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn fail(&self, why: &str) {
        self.watch.fail(why);
    }

    fn finish(&self) {
        self.watch.finish();
    }
}

impl Header {
    fn written(self) -> [u8; 24] {
        let mut out = [0; 24];
        for (to, value) in out.chunks_exact_mut(8).zip([self.call, self.kind, self.bytes]) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    fn read(bytes: [u8; 24]) -> Header {
        let word = |i: usize| bytes[8 * i..8 * i + 8].iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte));
        Header { call: word(0), kind: word(1), bytes: word(2) }
    }
}

/// The bytes of a tensor in main memory.
pub(super) fn as_bytes(t: &Tensor) -> Result<&[u8]> {
    match t.dtype() {
        DType::F32 => t.f32().map(bytemuck::cast_slice),
        DType::BF16 => t.bf16().map(bytemuck::cast_slice),
    }
}

/// The tensor whose bytes are `parts`, one behind the other.
fn from_bytes(dtype: DType, shape: crate::shape::Shape, parts: &[Vec<u8>]) -> Result<Tensor> {
    fn fill<T: bytemuck::Pod>(out: &mut [T], parts: &[Vec<u8>]) {
        let mut out: &mut [u8] = bytemuck::cast_slice_mut(out);
        for part in parts {
            let (here, rest) = out.split_at_mut(part.len());
            here.copy_from_slice(part);
            out = rest;
        }
    }
    match dtype {
        DType::F32 => Tensor::build(shape, |out: &mut [f32]| fill(out, parts)),
        DType::BF16 => Tensor::build_bf16(shape, |out: &mut [bf16]| fill(out, parts)),
    }
}

/// The error of ranks that do not find, or have lost, each other.
pub(super) fn lost(what: String) -> Error {
    ErrorKind::Peer { what }.into()
}
