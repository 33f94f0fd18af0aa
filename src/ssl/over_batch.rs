//! The loss and the gradients of a batch from those of its micro-batches, on all ranks.

use super::division::Division;
use super::objective::Objective;
use super::report::Seen;
use crate::dist::sum::{self, InOrder, Wire};
use crate::error::{Error, Result};
use crate::nn::ParamId;
use crate::ops;
use crate::tape::Var;
use crate::tensor::Tensor;

/// The owners of all ranks' rows, from those of this one.
pub(super) fn all_owners(own: &[u32], division: &Division) -> Result<Vec<u32>> {
    if division.ranks().size() == 1 {
        return Ok(own.to_vec());
    }
    let note: Vec<u8> = own.iter().flat_map(|owner| owner.to_le_bytes()).collect();
    let all = division.ranks().share(&note)?;
    let numbers = all.iter().flat_map(|note| note.chunks_exact(4));
    Ok(numbers.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Gradients of one network, by parameter.
pub(super) type Grads = Vec<(ParamId, Tensor)>;

/// The loss and the gradients of `N` networks over all micro-batches of all ranks: their mean, added in the order of the
/// micro-batches.
pub(super) struct Sum<'a, const N: usize> {
    division: &'a Division,
    sums: InOrder,
    ids: [Vec<ParamId>; N],
    /// Of the micro-batch that is under way: its share of the loss.
    loss: Option<Tensor>,
    seen: Vec<Seen>,
}

impl<'a, const N: usize> Sum<'a, N> {
    pub fn new(division: &'a Division) -> Self {
        let ids = [const { Vec::new() }; N];
        Sum { division, sums: InOrder::default(), ids, loss: None, seen: Vec::new() }
    }

    /// Notes the loss of a micro-batch, and what is reported of it; returns its share of the batch's loss.
    pub fn see(&mut self, method: &'static str, objective: Objective) -> Result<Var> {
        let tape = objective.tape;
        let (total, seen) = objective.finish(method)?;
        self.seen.push(seen);
        // The mean over micro-batches: where there is one, nothing is computed.
        let count = self.division.count();
        let total = if count == 1 { total } else { ops::scale(tape, &total, 1.0 / count as f32)? };
        self.loss = Some(total.value().clone());
        Ok(total)
    }

    /// Adds its gradients.
    pub fn add(&mut self, grads: [Grads; N]) -> Result<()> {
        let loss = self.loss.take().map(|loss| loss.reshape([1])).transpose()?;
        let mut all: Vec<Tensor> = loss.into_iter().collect();
        for (ids, grads) in self.ids.iter_mut().zip(grads) {
            *ids = grads.iter().map(|(id, _)| *id).collect();
            all.extend(grads.into_iter().map(|(_, grad)| grad));
        }
        self.sums.add(all, self.wire())
    }

    /// Where nothing is exchanged nothing is rounded.
    fn wire(&self) -> Wire {
        if self.division.count() == 1 { Wire::F32 } else { self.division.wire() }
    }

    /// The loss, the gradients, and the report.
    pub fn finish(self) -> Result<(Tensor, [Grads; N], Seen)> {
        let (wire, ranks) = (self.wire(), self.division.ranks());
        let mut sums = self.sums.finish(wire)?;
        if ranks.size() > 1 {
            sums = sum::over_ranks(ranks, &sums, wire)?;
        }
        let mut sums = sums.into_iter();
        let loss =
            sums.next().ok_or_else(|| Error::param("division", "batch", 0, "a step has at least one micro-batch"))?;
        let grads = self.ids.map(|ids| ids.into_iter().zip(sums.by_ref()).collect());
        Ok((loss, grads, Seen::of_micro_batches(self.seen, self.division)))
    }
}
