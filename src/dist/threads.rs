//! Ranks that are threads of one process, for tests of what ranks compute: no sockets, no processes.

use super::Collective;
use super::alone::{gathered, rows_for};
use crate::error::{Error, ErrorKind, Result};
use crate::shape::Shape;
use crate::tensor::Tensor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// A thread among those of [`ranks`].
pub struct Thread {
    rank: usize,
    board: Arc<Board>,
    sent: AtomicU64,
}

/// Where the ranks put what they exchange.
struct Board {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Of the call in progress, from each rank; and of the last one, until all have taken it.
    put: Vec<Option<Item>>,
    ready: Vec<Item>,
    taken: usize,
    failed: Option<String>,
}

#[derive(Clone)]
enum Item {
    Note(Vec<u8>),
    Tensor(Tensor),
}

/// `size` ranks, one for each of as many threads.
#[must_use]
pub fn ranks(size: usize) -> Vec<Thread> {
    let state = State { put: vec![None; size], ..State::default() };
    let board = Arc::new(Board { size, state: Mutex::new(state), changed: Condvar::new() });
    (0..size).map(|rank| Thread { rank, board: board.clone(), sent: AtomicU64::new(0) }).collect()
}

impl Thread {
    /// Puts this rank's item down, and returns those of all ranks.
    fn exchange(&self, item: Item) -> Result<Vec<Item>> {
        let board = &*self.board;
        let lost = |why: &str| Error::from(ErrorKind::Peer { what: why.to_owned() });
        let mut state = board.state.lock().unwrap();
        // The call before must be over for everybody.
        while state.taken > 0 && state.failed.is_none() {
            state = board.changed.wait(state).unwrap();
        }
        if let Some(why) = &state.failed {
            return Err(lost(why));
        }
        state.put[self.rank] = Some(item);
        if state.put.iter().all(Option::is_some) {
            state.ready = state.put.iter_mut().filter_map(Option::take).collect();
            state.taken = board.size;
            board.changed.notify_all();
        }
        while state.taken == 0 && state.failed.is_none() {
            state = board.changed.wait(state).unwrap();
        }
        // What all have put down is there, whoever ended since.
        if let (0, Some(why)) = (state.taken, &state.failed) {
            return Err(lost(why));
        }
        let all = state.ready.clone();
        state.taken -= 1;
        if state.taken == 0 {
            state.ready.clear();
            board.changed.notify_all();
        }
        Ok(all)
    }

    fn tensors(&self, own: &Tensor) -> Result<Vec<Tensor>> {
        let all = self.exchange(Item::Tensor(own.to_cpu()?))?;
        Ok(all
            .into_iter()
            .map(|item| if let Item::Tensor(t) = item { t } else { unreachable!("ranks agree") })
            .collect())
    }
}

impl Collective for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.board.size
    }

    fn name(&self) -> &'static str {
        "threads"
    }

    fn share(&self, note: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = self.exchange(Item::Note(note.to_vec()))?;
        self.sent.fetch_add(((self.size() - 1) * note.len()) as u64, Ordering::Relaxed);
        Ok(all.into_iter().map(|item| if let Item::Note(n) = item { n } else { unreachable!("ranks agree") }).collect())
    }

    fn all_to_all(&self, rows: &Tensor) -> Result<Tensor> {
        let row = rows_for(self.size(), rows)?;
        let all = self.tensors(rows)?;
        let mine = all.iter().map(|t| t.rows(&[self.rank])).collect::<Result<Vec<_>>>()?;
        self.sent.fetch_add(((self.size() - 1) * row * rows.dtype().size()) as u64, Ordering::Relaxed);
        together(&mine, rows.shape())?.to(&rows.device())
    }

    fn all_gather(&self, part: &Tensor) -> Result<Tensor> {
        let all = self.tensors(part)?;
        let bytes = part.shape().len() * part.dtype().size();
        self.sent.fetch_add(((self.size() - 1) * bytes) as u64, Ordering::Relaxed);
        together(&all, gathered(self.size(), part.shape()))?.to(&part.device())
    }

    fn check(&self) -> Result<()> {
        let failed = self.board.state.lock().unwrap().failed.clone();
        failed.map_or(Ok(()), |what| Err(ErrorKind::Peer { what }.into()))
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn fail(&self, why: &str) {
        let mut state = self.board.state.lock().unwrap();
        state.failed.get_or_insert_with(|| format!("rank {} ended with an error: {why}", self.rank));
        self.board.changed.notify_all();
    }

    fn finish(&self) {}
}

/// Tensors one behind the other.
fn together(parts: &[Tensor], shape: Shape) -> Result<Tensor> {
    let dtype = parts[0].dtype(); // they were brought to main memory
    let loaded = parts.iter().map(Tensor::load).collect::<Result<Vec<_>>>()?;
    let numbers: Vec<f32> = loaded.iter().flat_map(|part| part.iter().copied()).collect();
    Tensor::from_f32(shape, &numbers)?.cast(dtype)
}
