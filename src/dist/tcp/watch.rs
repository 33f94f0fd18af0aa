//! Notices the end of other ranks, and tells them of one's own. Rank 0 hears of everybody and tells all others.

use super::lost;
use super::meeting::{ENDED, get, put};
use crate::error::{Error, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A rank leaves without an error. Its other message is [`ENDED`].
const FINISHED: u8 = 1;

/// How long a rank whose connection broke waits for the sentence that says why.
const HEARING: Duration = Duration::from_secs(5);

pub(super) struct Watch(Arc<Shared>);

struct Shared {
    rank: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// The connections for data, which are closed when a rank has ended.
    data: Vec<TcpStream>,
    watched: Vec<(usize, TcpStream)>,
}

#[derive(Default)]
struct State {
    /// Which rank ended and why, in a sentence: the first that is known.
    reason: Option<String>,
    /// Whether this rank has left.
    left: bool,
}

impl Watch {
    pub fn new(rank: usize, watched: Vec<(usize, TcpStream)>, data: Vec<TcpStream>) -> Result<Watch> {
        let broken = |e| lost(format!("the connections to other ranks cannot be watched: {e}"));
        let mut threads = Vec::new();
        for (peer, stream) in &watched {
            stream.set_read_timeout(None).map_err(broken)?;
            threads.push((*peer, stream.try_clone().map_err(broken)?));
        }
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { rank, state, changed, data, watched });
        for (peer, stream) in threads {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("watch rank {peer}"));
            thread.spawn(move || shared.watch(peer, stream)).map_err(broken)?;
        }
        Ok(Watch(shared))
    }

    /// The error of a connection to `peer` that broke with `e`: why it did, if that becomes known.
    pub fn reason(&self, peer: usize, e: &std::io::Error) -> Error {
        let state = self.0.state();
        let waited = self.0.changed.wait_timeout_while(state, HEARING, |state| state.reason.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let broken = || silent(peer, e).unwrap_or_else(|| format!("the connection to rank {peer} is broken: {e}"));
        lost(state.reason.clone().unwrap_or_else(broken))
    }

    /// The error of a rank that is known to have ended.
    pub fn check(&self) -> Result<()> {
        self.0.state().reason.clone().map_or(Ok(()), |reason| Err(lost(reason)))
    }

    /// Closes the connections for data.
    pub fn close(&self) {
        self.0.close();
    }

    /// This rank ends because of an error.
    pub fn fail(&self, why: &str) {
        let shared = &self.0;
        let mut state = shared.state();
        if std::mem::replace(&mut state.left, true) || state.reason.is_some() {
            return; // the others know it from whom this rank knows it
        }
        let text = format!("rank {} ended with an error: {why}", shared.rank);
        shared.tell(&text);
        state.reason = Some(text);
    }

    /// This rank leaves without an error.
    pub fn finish(&self) {
        if !std::mem::replace(&mut self.0.state().left, true) {
            for (_, stream) in &self.0.watched {
                let mut stream: &TcpStream = stream;
                let _ = stream.write_all(&[FINISHED]);
            }
        }
    }
}

/// A rank that is dropped without a word, in a panic for example, has failed.
impl Drop for Watch {
    fn drop(&mut self) {
        self.fail("it left before the others");
        for stream in self.0.data.iter().chain(self.0.watched.iter().map(|(_, stream)| stream)) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// The sentence for a connection that broke because nothing comes from the other machine.
fn silent(peer: usize, e: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    let is_silent = matches!(e.kind(), TimedOut | HostUnreachable | NetworkUnreachable);
    is_silent.then(|| format!("the machine of rank {peer} does not answer any more"))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        for stream in &self.data {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends the sentence to all that are watched.
    fn tell(&self, text: &str) {
        let mut message = vec![ENDED];
        put(&mut message, text.as_bytes());
        for (_, stream) in &self.watched {
            let mut stream: &TcpStream = stream;
            let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
            let _ = stream.write_all(&message);
        }
    }

    /// Reads what `peer` says until it is gone.
    fn watch(&self, peer: usize, mut stream: TcpStream) {
        let mut kind = [0];
        let text = match stream.read_exact(&mut kind) {
            Ok(()) if kind[0] == FINISHED => return,
            Ok(()) => get(&mut stream, 1 << 20).map(|text| String::from_utf8_lossy(&text).into_owned()),
            Err(e) => Err(e),
        };
        let text = text.unwrap_or_else(|e| {
            let ended = || {
                format!("the process of rank {peer} has ended without a word: it was killed, or its machine stopped")
            };
            silent(peer, &e).unwrap_or_else(ended)
        });
        let mut state = self.state();
        if state.left || state.reason.is_some() {
            return;
        }
        // Under the lock: the other ranks know it from rank 0 alone, which must not leave before it has told them.
        if self.rank == 0 {
            self.tell(&text);
        }
        state.reason = Some(text);
        drop(state);
        self.changed.notify_all();
        self.close();
    }
}
