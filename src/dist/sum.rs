//! Sums of tensors over ranks, added in the order of ranks, so that the bits depend on nothing but the numbers: not on a
//! library, its algorithm, or the size of a message.
//!
//! Each rank adds one slice: the slices of all ranks are exchanged (`all_to_all`), added in order, and the sums are given
//! to everybody (`all_gather`). Every rank sends `2 (W - 1) / W` of the numbers, which is what a ring sends.

use super::Collective;
use crate::error::Result;
use crate::ops::arith::{self, Arith};
use crate::tensor::{DType, Tensor};

/// How numbers travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wire {
    /// As f32.
    #[default]
    F32,
    /// Rounded to bf16, the sums too; added in f32. Half of the bytes.
    Bf16,
}

impl Wire {
    /// The type of what travels.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Wire::F32 => DType::F32,
            Wire::Bf16 => DType::BF16,
        }
    }
}

/// Numbers of a bucket: large enough that a message's latency does not count, small enough that the first is sent early.
const BUCKET: usize = 1 << 22;

/// The sums of each of `tensors` (f32) over all ranks, in the order of ranks: `((t0 + t1) + t2) + ..`. All ranks must give
/// the same shapes.
///
/// # Errors
/// Those of [`Collective::all_to_all`]; `DType` when a tensor is not f32.
pub fn over_ranks(ranks: &dyn Collective, tensors: &[Tensor], wire: Wire) -> Result<Vec<Tensor>> {
    if ranks.size() == 1 && wire == Wire::F32 {
        return Ok(tensors.to_vec());
    }
    let mut sums = Vec::with_capacity(tensors.len());
    for bucket in buckets(tensors.iter().map(|t| t.shape().len())) {
        let bucket = &tensors[bucket];
        let sum = flat_over_ranks(ranks, Tensor::collect(&bucket.iter().collect::<Vec<_>>())?, wire)?;
        let mut at = 0;
        for tensor in bucket {
            let shape = tensor.shape();
            sums.push(sum.part(at, shape)?);
            at += shape.len();
        }
    }
    Ok(sums)
}

/// The same sums where one process takes the place of several ranks: it adds their tensors one after another, with the
/// same bits.
#[derive(Debug, Default)]
pub struct InOrder {
    sums: Option<Vec<Tensor>>,
}

impl InOrder {
    /// Adds the tensors of the next rank.
    ///
    /// # Errors
    /// `Shape` when they differ in shape from those of the ranks before.
    pub fn add(&mut self, next: Vec<Tensor>, wire: Wire) -> Result<()> {
        let next = rounded(next, wire)?;
        self.sums = Some(match self.sums.take() {
            None => next,
            Some(sums) => {
                let pairs = sums.iter().zip(&next);
                pairs.map(|(sum, t)| arith::forward(Arith::Add, sum, t)).collect::<Result<_>>()?
            }
        });
        Ok(())
    }

    /// The sums.
    ///
    /// # Errors
    /// On a GPU `OutOfMemory` and `Driver`.
    pub fn finish(self, wire: Wire) -> Result<Vec<Tensor>> {
        rounded(self.sums.unwrap_or_default(), wire)
    }
}

/// The tensors as they arrive on the other side of `wire`.
fn rounded(tensors: Vec<Tensor>, wire: Wire) -> Result<Vec<Tensor>> {
    match wire {
        Wire::F32 => Ok(tensors),
        Wire::Bf16 => tensors.iter().map(|t| t.cast(DType::BF16)?.cast(DType::F32)).collect(),
    }
}

/// Which of tensors with these numbers of elements make a bucket: consecutive ones.
fn buckets(sizes: impl Iterator<Item = usize>) -> Vec<std::ops::Range<usize>> {
    let mut all: Vec<std::ops::Range<usize>> = Vec::new();
    let mut filled = BUCKET;
    for (i, size) in sizes.enumerate() {
        match all.last_mut() {
            Some(last) if filled + size <= BUCKET => (last.end, filled) = (i + 1, filled + size),
            _ => {
                all.push(i..i + 1);
                filled = size;
            }
        }
    }
    all
}

/// The sum of `numbers [n]` over all ranks.
fn flat_over_ranks(ranks: &dyn Collective, numbers: Tensor, wire: Wire) -> Result<Tensor> {
    let (size, n) = (ranks.size(), numbers.shape().len());
    let each = n.div_ceil(size);
    let padding = Tensor::zeros_on(&numbers.device(), [each * size - n])?;
    let rows = Tensor::collect(&[&numbers, &padding])?.reshape([size, each])?.cast(wire.dtype())?;
    let rows = ranks.all_to_all(&rows)?.cast(DType::F32)?;
    let mut sum = rows.rows(&[0])?;
    for rank in 1..size {
        sum = arith::forward(Arith::Add, &sum, &rows.rows(&[rank])?)?;
    }
    let all = ranks.all_gather(&sum.cast(wire.dtype())?)?.cast(DType::F32)?;
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

    #[test]
    fn sums_over_ranks_are_those_of_one_process_that_takes_their_place() {
        for (size, wire) in [(1, Wire::F32), (2, Wire::F32), (3, Wire::Bf16), (4, Wire::F32), (1, Wire::Bf16)] {
            let mut here = InOrder::default();
            (0..size).for_each(|rank| here.add(tensors(rank), wire).unwrap());
            let want = here.finish(wire).unwrap();
            let of_rank = |ranks: threads::Thread| over_ranks(&ranks, &tensors(ranks.rank()), wire).unwrap();
            let all: Vec<_> = std::thread::scope(|scope| {
                let running: Vec<_> =
                    threads::ranks(size).into_iter().map(|rank| scope.spawn(|| of_rank(rank))).collect();
                running.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for got in all {
                for (got, want) in got.iter().zip(&want) {
                    let bits = |t: &Tensor| t.load().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert!(got.shape() == want.shape() && bits(got) == bits(want), "{size} ranks, {wire:?}");
                }
            }
        }
    }

    #[test]
    fn buckets_hold_all_tensors_in_their_order_and_no_more_than_fits() {
        let of = |sizes: &[usize]| buckets(sizes.iter().copied());
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[5 * BUCKET, 1, 1]), [0..1, 1..3]);
        assert_eq!(of(&[BUCKET / 2, BUCKET / 2, 1]), [0..2, 2..3]);
    }

    #[test]
    fn a_rank_sends_what_a_ring_sends() {
        let ranks = threads::ranks(4);
        let n = 1000;
        let sent: Vec<u64> = std::thread::scope(|scope| {
            let one = |ranks: threads::Thread| {
                over_ranks(&ranks, &[Tensor::zeros([n])], Wire::F32).unwrap();
                ranks.sent()
            };
            let running: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || one(rank))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(sent, [2 * 3 * (n as u64 / 4) * 4; 4]);
    }
}
