//! Sums of tensors over ranks, added in the order of ranks, so that the bits depend on nothing but the numbers: not on a
//! library, its algorithm, or the size of a message.
//!
//! Each rank adds one slice: the slices of all ranks are exchanged (`all_to_all`), added in order, and the sums are given
//! to everybody (`all_gather`). Every rank sends `2 (W - 1) / W` of the numbers, which is what a ring sends.

use super::{Collective, Ordered, Span, Spans, Started};
use crate::error::Result;
use crate::ops::arith::{self, Arith};
use crate::ops::reduce;
use crate::tensor::{DType, Device, Tensor};
use std::sync::Arc;

/// How numbers travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Wire {
    /// As f32.
    #[default]
    F32,
    /// Rounded to bf16, the sums too; added in f32. Half of the bytes.
    Bf16,
}

impl Wire {
    /// Whether numbers travel as they are.
    #[must_use]
    pub fn is_f32(&self) -> bool {
        *self == Wire::F32
    }

    /// The type of what travels.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Wire::F32 => DType::F32,
            Wire::Bf16 => DType::BF16,
        }
    }
}

/// Numbers of a bucket, if nothing else is said: large enough that a message's latency does not count, small enough that the
/// first is sent early.
pub const BUCKET: usize = 1 << 22;

/// The sums of each of `tensors` (f32) over all ranks, in the order of ranks: `((t0 + t1) + t2) + ..`. All ranks must give
/// the same shapes.
///
/// # Errors
/// Those of [`Collective::all_to_all`]; `DType` when a tensor is not f32.
pub fn over_ranks(ranks: &dyn Collective, tensors: &[Tensor], wire: Wire) -> Result<Vec<Tensor>> {
    if ranks.size() == 1 && wire == Wire::F32 {
        return Ok(tensors.to_vec());
    }
    let (mut sums, mut bucket) = (Vec::with_capacity(tensors.len()), Bucket::new(BUCKET));
    for tensor in tensors {
        if let Some(full) = bucket.add(tensor.clone()) {
            sums.extend(bucket_over_ranks(ranks, &full, wire)?);
        }
    }
    sums.extend(bucket_over_ranks(ranks, &bucket.tensors, wire)?);
    Ok(sums)
}

/// The same sums of tensors that are computed one after another: they are exchanged while others are being computed. The sums
/// have the same bits. All ranks must give the same shapes in the same order.
pub struct Overlapped<'a> {
    ranks: &'a Ordered,
    wire: Wire,
    bucket: Bucket,
    started: Vec<Exchange>,
    spans: Option<Arc<dyn Spans>>,
}

/// An exchange that was started.
struct Exchange {
    sums: Started<Vec<Tensor>>,
    /// What is summed, as the exchange reads it, and where it was. It is held until the end: a stream that lent its tensors
    /// waits, when they are dropped, for the one that they were lent to.
    lent: Vec<Tensor>,
    device: Device,
}

impl<'a> Overlapped<'a> {
    /// No sums yet. An exchange starts whenever `numbers` of them are there; `spans` is told when it is made.
    #[must_use]
    pub fn new(ranks: &'a Ordered, wire: Wire, numbers: usize, spans: Option<Arc<dyn Spans>>) -> Overlapped<'a> {
        Overlapped { ranks, wire, bucket: Bucket::new(numbers), started: Vec::new(), spans }
    }

    /// Gives the next tensor (f32) of this rank.
    ///
    /// # Errors
    /// On a GPU errors of its driver. Those of the exchange are returned in the end.
    pub fn add(&mut self, tensor: Tensor) -> Result<()> {
        self.bucket.add(tensor).map_or(Ok(()), |full| self.start(full))
    }

    fn start(&mut self, bucket: Vec<Tensor>) -> Result<()> {
        let device = bucket.first().map_or(Device::Cpu, Tensor::device);
        let bucket = self.ranks.beside(&bucket)?;
        let lent = bucket.clone();
        let (wire, spans, name) = (self.wire, self.spans.clone(), format!("exchange {}", self.started.len()));
        let sums = self.ranks.start(move |ranks| {
            let _span = Span::of(spans.as_ref(), &name);
            bucket_over_ranks(ranks, &bucket, wire)
        });
        self.started.push(Exchange { sums, lent, device });
        Ok(())
    }

    /// Waits for all sums; they are in the order in which the tensors were given.
    ///
    /// # Errors
    /// Those of [`over_ranks`].
    pub fn finish(mut self) -> Result<Vec<Tensor>> {
        let last = std::mem::take(&mut self.bucket.tensors);
        self.start(last)?;
        let (mut sums, mut lent) = (Vec::new(), Vec::new());
        for exchange in self.started {
            for sum in exchange.sums.wait()? {
                sums.push(match &exchange.device {
                    Device::Cuda(gpu) => sum.share(gpu)?,
                    Device::Cpu => sum,
                });
            }
            lent.push(exchange.lent);
        }
        Ok(sums)
    }
}

/// Consecutive tensors that are exchanged together.
struct Bucket {
    /// How many numbers it holds, unless a single tensor has more.
    numbers: usize,
    filled: usize,
    tensors: Vec<Tensor>,
}

impl Bucket {
    fn new(numbers: usize) -> Bucket {
        Bucket { numbers, filled: 0, tensors: Vec::new() }
    }

    /// Adds a tensor; returns those before it if it does not fit.
    fn add(&mut self, tensor: Tensor) -> Option<Vec<Tensor>> {
        let size = tensor.shape().len();
        let full = (!self.tensors.is_empty() && self.filled + size > self.numbers).then(|| {
            self.filled = 0;
            std::mem::take(&mut self.tensors)
        });
        self.filled += size;
        self.tensors.push(tensor);
        full
    }
}

/// Bytes that each of `size` ranks sends for the sums of tensors with these numbers of elements: `2 (W - 1) / W` of all, with
/// each bucket of `numbers` filled up to a multiple of the ranks.
#[must_use]
pub fn bytes(size: usize, tensors: &[usize], wire: Wire, numbers: usize) -> u64 {
    let of_bucket = |n: usize| (2 * (size - 1) * n.div_ceil(size) * wire.dtype().size()) as u64;
    let (mut all, mut filled, mut empty) = (0, 0, true);
    for &n in tensors {
        if !empty && filled + n > numbers {
            (all, filled) = (all + of_bucket(filled), 0);
        }
        (filled, empty) = (filled + n, false);
    }
    all + of_bucket(filled)
}

fn bucket_over_ranks(ranks: &dyn Collective, bucket: &[Tensor], wire: Wire) -> Result<Vec<Tensor>> {
    if bucket.is_empty() {
        return Ok(Vec::new());
    }
    let sum = flat_over_ranks(ranks, Tensor::collect(&bucket.iter().collect::<Vec<_>>())?, wire)?;
    let mut at = 0;
    bucket
        .iter()
        .map(|tensor| {
            let part = sum.part(at, tensor.shape());
            at += tensor.shape().len();
            part
        })
        .collect()
}

/// The same sums where one process takes the place of several ranks: it adds their tensors one after another, with the
/// same bits.
#[derive(Debug, Default)]
pub struct InOrder {
    sums: Vec<Option<Tensor>>,
}

impl InOrder {
    /// Adds tensor `i` of the next rank.
    ///
    /// # Errors
    /// `Shape` when its shape differs from that of the ranks before.
    pub fn add(&mut self, i: usize, next: Tensor, wire: Wire) -> Result<()> {
        let next = rounded(next, wire)?;
        self.sums.resize(self.sums.len().max(i + 1), None);
        self.sums[i] = Some(match self.sums[i].take() {
            None => next,
            Some(sum) => arith::forward(Arith::Add, &sum, &next)?,
        });
        Ok(())
    }

    /// Removes the sum of tensors `i`, as it arrives on the other side of `wire`; `None` if there is none.
    ///
    /// # Errors
    /// On a GPU `OutOfMemory` and `Driver`.
    pub fn take(&mut self, i: usize, wire: Wire) -> Result<Option<Tensor>> {
        self.sums.get_mut(i).and_then(Option::take).map(|sum| rounded(sum, wire)).transpose()
    }
}

/// The tensor as it arrives on the other side of `wire`.
fn rounded(tensor: Tensor, wire: Wire) -> Result<Tensor> {
    match wire {
        Wire::F32 => Ok(tensor),
        Wire::Bf16 => tensor.cast(DType::BF16)?.cast(DType::F32),
    }
}

/// The sum of `numbers [n]` over all ranks.
fn flat_over_ranks(ranks: &dyn Collective, numbers: Tensor, wire: Wire) -> Result<Tensor> {
    let (size, n) = (ranks.size(), numbers.shape().len());
    let each = n.div_ceil(size);
    let padding = Tensor::zeros_on(&numbers.device(), [each * size - n])?;
    let rows = Tensor::collect(&[&numbers, &padding])?.reshape([size, each])?.cast(wire.dtype())?;
    let sum = reduce::in_order(&ranks.all_to_all(&rows)?, wire.dtype())?;
    let all = ranks.all_gather(&sum)?.cast(DType::F32)?;
    all.reshape([size * each])?.part(0, numbers.shape())
}

#[cfg(test)]
mod tests {
    use super::super::threads;
    use super::*;

    /// What rank `rank` has: numbers whose sum depends on the order of additions.
    fn tensors(rank: usize) -> Vec<Tensor> {
        let number = |i: usize| ((i * 7919 + rank * 104_729) % 1009) as f32 * 1.1e3f32.powi((i + rank) as i32 % 5 - 2);
        [vec![3, 5], vec![], vec![257], vec![0], vec![BUCKET / 2 + 1], vec![BUCKET / 2]]
            .into_iter()
            .map(|dims| {
                let len: usize = dims.iter().product();
                Tensor::from_f32(crate::shape::Shape::new(&dims), &(0..len).map(number).collect::<Vec<_>>()).unwrap()
            })
            .collect()
    }

    fn bits(t: &Tensor) -> Vec<u32> {
        t.load().unwrap().iter().map(|v| v.to_bits()).collect()
    }

    /// What `of_rank` returns on each of `size` threads.
    fn on_ranks<T: Send>(size: usize, of_rank: impl Fn(threads::Thread) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let of_rank = &of_rank;
            let ranks = threads::ranks(size).into_iter();
            let running: Vec<_> = ranks.map(|rank| scope.spawn(move || of_rank(rank))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_over_ranks_are_those_of_one_process_that_takes_their_place() {
        for (size, wire) in [(1, Wire::F32), (2, Wire::F32), (3, Wire::Bf16), (4, Wire::F32), (1, Wire::Bf16)] {
            let mut here = InOrder::default();
            for rank in 0..size {
                tensors(rank).into_iter().enumerate().for_each(|(i, t)| here.add(i, t, wire).unwrap());
            }
            let want: Vec<Tensor> = (0..6).map(|i| here.take(i, wire).unwrap().unwrap()).collect();
            assert!(here.take(6, wire).unwrap().is_none() && here.take(0, wire).unwrap().is_none());
            let at_once = on_ranks(size, |ranks| over_ranks(&ranks, &tensors(ranks.rank()), wire).unwrap());
            let overlapped = on_ranks(size, |ranks| {
                let ranks = Ordered::new(Arc::new(ranks)).unwrap();
                let mut sums = Overlapped::new(&ranks, wire, 100, None);
                tensors(ranks.rank()).into_iter().for_each(|t| sums.add(t).unwrap());
                sums.finish().unwrap()
            });
            for got in at_once.into_iter().chain(overlapped) {
                assert_eq!(got.len(), want.len());
                for (got, want) in got.iter().zip(&want) {
                    assert!(got.shape() == want.shape() && bits(got) == bits(want), "{size} ranks, {wire:?}");
                }
            }
        }
    }

    #[test]
    fn buckets_hold_all_tensors_in_their_order_and_no_more_than_fits() {
        let of = |sizes: &[usize]| {
            let mut bucket = Bucket::new(10);
            let mut all: Vec<_> = sizes.iter().filter_map(|&n| bucket.add(Tensor::zeros([n]))).collect();
            all.push(bucket.tensors);
            let sizes = |bucket: Vec<Tensor>| bucket.iter().map(|t| t.shape().len()).collect::<Vec<_>>();
            all.into_iter().map(sizes).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [Vec::<usize>::new()]);
        assert_eq!(of(&[50, 1, 1]), [vec![50], vec![1, 1]]);
        assert_eq!(of(&[5, 5, 1]), [vec![5, 5], vec![1]]);
        assert_eq!(of(&[0, 50, 0]), [vec![0], vec![50], vec![0]]);
    }

    #[test]
    fn exchanges_are_made_while_tensors_are_being_computed_and_fail_with_the_peers_sentence() {
        let told = std::sync::Barrier::new(2);
        let failed = on_ranks(2, |ranks| {
            let ranks = Ordered::new(Arc::new(ranks)).unwrap();
            let mut sums = Overlapped::new(&ranks, Wire::F32, 1, None);
            sums.add(Tensor::zeros([4])).unwrap();
            sums.add(Tensor::zeros([4])).unwrap();
            if ranks.rank() == 1 {
                // The first exchange needs nothing more from either rank.
                while ranks.sent() == 0 {
                    std::thread::yield_now();
                }
                ranks.fail("the disk is full");
                told.wait();
                return String::new();
            }
            told.wait();
            sums.finish().unwrap_err().to_string()
        });
        assert_eq!(failed, ["rank 1 ended with an error: the disk is full", ""]);
    }

    #[test]
    fn a_rank_sends_what_a_ring_sends() {
        let n = 1000;
        let sent = on_ranks(4, |ranks| {
            over_ranks(&ranks, &[Tensor::zeros([n])], Wire::F32).unwrap();
            ranks.sent()
        });
        assert_eq!(sent, [2 * 3 * (n as u64 / 4) * 4; 4]);
        for wire in [Wire::F32, Wire::Bf16] {
            let sizes: Vec<usize> = tensors(0).iter().map(|t| t.shape().len()).collect();
            let sent = on_ranks(3, |ranks| {
                over_ranks(&ranks, &tensors(ranks.rank()), wire).unwrap();
                ranks.sent()
            });
            assert_eq!(sent, [bytes(3, &sizes, wire, BUCKET); 3], "{wire:?}");
        }
    }
}
