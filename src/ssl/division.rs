//! How the batch of a step is divided: among ranks, and on each of them into micro-batches that are computed one after
//! another.
//!
//! **A step of W ranks has the bits of a step of one process that accumulates W micro-batches.** Both compute the same W
//! micro-batches of the same videos, and add their gradients in the same order ([`crate::dist::sum`]). Statistics of batch
//! norm are those of a micro-batch (or of parts of it), and running statistics those of the first one.

use crate::dist::sum::{BUCKET, Overlapped, Wire};
use crate::dist::{Collective, Ordered, Span, Spans};
use crate::error::{Error, ErrorKind, Result};
use crate::files::fnv1a;
use crate::ops::batch_norm::Peers;
use crate::tensor::{DType, Tensor};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How a step's batch is divided.
#[derive(Clone)]
pub struct Division {
    ranks: Arc<Ordered>,
    accumulate: usize,
    wire: Wire,
    bucket: usize,
    spans: Option<Arc<dyn Spans>>,
    /// Orders of gradients on which the ranks agreed, as hashes.
    agreed: Arc<Mutex<Vec<u64>>>,
    /// Whether batch norm has the statistics of the whole batch.
    whole_statistics: bool,
    stop: Arc<Stop>,
}

/// What a pass of a network is to know of the batch of which it computes a part.
#[derive(Clone)]
pub struct BatchPart {
    /// Whether it updates the running statistics: one pass over a batch does.
    pub updating: bool,
    /// With whom the batch is shared, if it has statistics as a whole.
    pub peers: Option<Arc<dyn Peers>>,
}

impl BatchPart {
    /// The only part.
    #[must_use]
    pub fn whole() -> BatchPart {
        BatchPart { updating: true, peers: None }
    }
}

/// Ranks that share a batch.
struct Together(Arc<Ordered>);

impl Peers for Together {
    fn count(&self) -> usize {
        self.0.size()
    }

    fn gather(&self, own: &Tensor) -> Result<Tensor> {
        self.0.all_gather(own)
    }
}

/// Whether the ranks stop, which they must do after the same step.
#[derive(Default)]
struct Stop {
    /// Whether this rank wants to.
    wanted: AtomicBool,
    /// Whether one of them wanted to when the last step was reported.
    agreed: AtomicBool,
}

impl Default for Division {
    /// Not at all.
    fn default() -> Self {
        Division::of(Ordered::alone(), 1, Wire::F32)
    }
}

impl Division {
    fn of(ranks: Ordered, accumulate: usize, wire: Wire) -> Division {
        let (ranks, agreed, stop) = (Arc::new(ranks), Arc::default(), Arc::default());
        Division { ranks, accumulate, wire, bucket: BUCKET, spans: None, agreed, whole_statistics: false, stop }
    }

    /// Among `ranks`, each of which computes its part in `accumulate` micro-batches. Gradients travel as `wire` says, and while
    /// others are still being computed.
    ///
    /// # Errors
    /// `Param` when `accumulate` is 0; `Peer` when the thread that exchanges cannot be started.
    pub fn new(ranks: Arc<dyn Collective>, accumulate: usize, wire: Wire) -> Result<Division> {
        if accumulate == 0 {
            return Err(Error::param("division", "accumulate", accumulate, "a step has at least one micro-batch"));
        }
        Ok(Division::of(Ordered::new(ranks)?, accumulate, wire))
    }

    /// The same with gradients that travel whenever there are `numbers` of them. The bits are the same for any number.
    #[must_use]
    pub fn with_bucket(self, numbers: usize) -> Division {
        Division { bucket: numbers, ..self }
    }

    /// The same; `spans` is told which part of a step is being computed or exchanged.
    #[must_use]
    pub fn with_spans(self, spans: Arc<dyn Spans>) -> Division {
        Division { spans: Some(spans), ..self }
    }

    /// The same; if `yes`, batch norm has the statistics of the whole batch, which the ranks exchange in each layer, forward and
    /// backward, while they wait.
    ///
    /// # Errors
    /// `Param` when a rank computes several micro-batches, one after another.
    pub fn with_whole_statistics(self, yes: bool) -> Result<Division> {
        if yes && self.accumulate > 1 {
            let rule = format!(
                "with --accumulate {} the last micro-batch is computed after the first was normalised, so that statistics of \
                 both are not known in time: leave one of the options out",
                self.accumulate
            );
            return Err(Error::param("settings", "--sync-bn", yes, rule));
        }
        Ok(Division { whole_statistics: yes, ..self })
    }

    /// What a pass over micro-batch `i` of this rank is to know. Statistics of the first of all become the running ones.
    pub(super) fn part(&self, i: usize) -> BatchPart {
        let shared = self.whole_statistics && self.ranks.size() > 1;
        let peers = shared.then(|| Arc::new(Together(self.ranks.clone())) as Arc<dyn Peers>);
        BatchPart { updating: self.ranks.rank() == 0 && i == 0, peers }
    }

    /// A part of a step, which ends when what this returns is dropped.
    pub(super) fn span<'a>(&'a self, name: &'a str) -> Span<'a> {
        Span::of(self.spans.as_ref(), name)
    }

    /// Sums over ranks of the gradients of a step.
    pub(super) fn sums(&self) -> Overlapped<'_> {
        Overlapped::new(&self.ranks, self.wire, self.bucket, self.spans.clone())
    }

    /// Micro-batches of each rank.
    #[must_use]
    pub fn accumulate(&self) -> usize {
        self.accumulate
    }

    /// Whether micro-batch `i` of this rank is its last one.
    pub(super) fn ends(&self, i: usize) -> bool {
        i + 1 == self.accumulate
    }

    /// Checks that all ranks have computed their gradients in this order. They ask each other once for each order.
    ///
    /// # Errors
    /// `Peer` naming a rank that has another order.
    pub(super) fn agree(&self, order: &[usize]) -> Result<()> {
        let bytes: Vec<u8> = order.iter().flat_map(|i| (*i as u64).to_le_bytes()).collect();
        let hash = fnv1a(&bytes);
        let mut agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        if agreed.contains(&hash) {
            return Ok(());
        }
        let all = self.ranks.share(&hash.to_le_bytes())?;
        if let Some(rank) = all.iter().position(|other| *other != hash.to_le_bytes()) {
            let what = format!(
                "rank {rank} computes gradients in another order than rank {}: ranks must have the same program, options and \
                 data",
                self.ranks.rank()
            );
            return Err(ErrorKind::Peer { what }.into());
        }
        agreed.push(hash);
        Ok(())
    }

    /// The ranks.
    #[must_use]
    pub fn ranks(&self) -> &dyn Collective {
        &*self.ranks
    }

    /// How gradients travel.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Micro-batches of all ranks.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ranks.size() * self.accumulate
    }

    /// The rows of each micro-batch among the `n` that this rank has.
    ///
    /// # Errors
    /// `Param` when they cannot be divided equally.
    pub(super) fn micro_batches(&self, n: usize) -> Result<Vec<Range<usize>>> {
        if !n.is_multiple_of(self.accumulate) {
            let rule = format!("the {n} samples of a rank must divide into that many equal micro-batches");
            return Err(Error::param("division", "accumulate", self.accumulate, rule));
        }
        let each = n / self.accumulate;
        Ok((0..self.accumulate).map(|i| i * each..(i + 1) * each).collect())
    }

    /// Asks all ranks to stop when reports are shared next. It travels with these.
    pub fn ask_to_stop(&self) {
        self.stop.wanted.store(true, Ordering::Relaxed);
    }

    /// Whether a rank asked to stop before reports were shared last: the same on all ranks.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.stop.agreed.load(Ordering::Relaxed)
    }

    /// The notes of all ranks, each behind what the rank says of stopping.
    pub(super) fn share_note(&self, note: &[u8]) -> Result<Vec<Vec<u8>>> {
        let wanted = self.stop.wanted.load(Ordering::Relaxed);
        let mut all = vec![[&[u8::from(wanted)], note].concat()];
        if self.ranks.size() > 1 {
            all = self.ranks.share(&all[0])?;
        }
        let asks = |note: &Vec<u8>| note.first().is_some_and(|asks| *asks != 0);
        self.stop.agreed.store(all.iter().any(asks), Ordering::Relaxed);
        for note in &mut all {
            note.drain(..note.len().min(1));
        }
        Ok(all)
    }

    /// Into how many parts with statistics of their own a micro-batch is divided, for `groups` of the whole batch: they are
    /// divided among the micro-batches. Each micro-batch is at least one part.
    ///
    /// # Errors
    /// `Param` when there are several groups, and they are no multiple of the micro-batches.
    pub fn parts(&self, groups: usize) -> Result<usize> {
        let count = self.count();
        if self.whole_statistics && groups != 1 {
            let rule = "--sync-bn forms statistics of the whole batch: choose 1, or leave it out";
            return Err(Error::param("settings", "--bn-groups", groups, rule));
        }
        if groups == 1 || groups == count {
            return Ok(1);
        }
        if !groups.is_multiple_of(count) {
            let rule =
                format!("they are divided among {count} micro-batches (--accumulate, ranks): choose 1 or a multiple");
            return Err(Error::param("settings", "--bn-groups", groups, rule));
        }
        Ok(groups / count)
    }

    /// The rows that all ranks have, `[N d]`, from those of this one's micro-batches, `[n d]` each.
    pub(super) fn gather(&self, rows: &[Tensor]) -> Result<Tensor> {
        let (own, d) = match rows {
            [one] => (one.clone(), one.shape().last()),
            several => {
                let d = several.first().map_or(0, |t| t.shape().last());
                let all = Tensor::collect(&several.iter().collect::<Vec<_>>())?;
                (all.reshape([all.shape().len() / d.max(1), d])?, d)
            }
        };
        if self.ranks.size() == 1 {
            return Ok(own);
        }
        own.expect("gather", "rows", DType::F32)?;
        let all = self.ranks.all_gather(&own)?;
        all.reshape([all.shape().len() / d.max(1), d])
    }

    /// The owners of this rank's `n` rows among those of all ranks' rows.
    ///
    /// # Errors
    /// `Param` when they are of another number of rows.
    pub(super) fn own_owners<'a>(&self, owners: &'a [u32], n: usize) -> Result<&'a [u32]> {
        owners.get(self.own(n)).filter(|_| owners.len() == n * self.ranks.size()).ok_or_else(|| {
            let rule = format!("{} ranks with {n} videos each need those of all", self.ranks.size());
            Error::param("division", "owners", owners.len(), rule)
        })
    }

    /// The place of this rank's `n` rows among those of all ranks.
    pub(super) fn own(&self, n: usize) -> Range<usize> {
        self.ranks.rank() * n..(self.ranks.rank() + 1) * n
    }
}
