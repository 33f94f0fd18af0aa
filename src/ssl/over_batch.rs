//! The loss and the gradients of a batch from those of its micro-batches, on all ranks.

use super::division::Division;
use super::objective::{Leaves, Objective, gradients};
use super::report::Seen;
use crate::dist::sum::{InOrder, Wire};
use crate::error::{Error, Result};
use crate::nn::ParamId;
use crate::ops;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Gradients of one network, by parameter.
pub(super) type Grads = Vec<(ParamId, Tensor)>;

/// Where a piece of a micro-batch is.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// Whether it is the micro-batch's last one.
    pub micro_batch: bool,
    /// Whether the micro-batch is this rank's last one.
    pub is_last: bool,
}

/// The loss and the gradients of `N` networks over all micro-batches of all ranks: their mean, added in the order of the
/// micro-batches.
pub(super) struct Sum<'a, const N: usize> {
    division: &'a Division,
    /// The loss, then the gradients.
    sums: InOrder,
    /// Of the micro-batch that is under way, where it is computed in pieces: the sums of those so far.
    pieces: InOrder,
    ids: [Vec<ParamId>; N],
    seen: Vec<Seen>,
}

impl<'a, const N: usize> Sum<'a, N> {
    pub fn new(division: &'a Division) -> Self {
        let ids = [const { Vec::new() }; N];
        Sum { division, sums: InOrder::default(), pieces: InOrder::default(), ids, seen: Vec::new() }
    }

    /// Notes the loss of a micro-batch, and what is reported of it; returns its share of the batch's loss.
    pub fn see(&mut self, method: &'static str, objective: Objective) -> Result<Var> {
        let tape = objective.tape;
        let (total, seen) = objective.finish(method)?;
        self.seen.push(seen);
        // The mean over micro-batches: where there is one, nothing is computed.
        let count = self.division.count();
        let total = if count == 1 { total } else { ops::scale(tape, &total, 1.0 / count as f32)? };
        Ok(total)
    }

    /// Computes its gradients for `networks`, each given by the leaves of its forward passes, and adds them. Those of this
    /// rank's last micro-batch are exchanged with other ranks one after another, as they are complete.
    pub fn backward(&mut self, tape: &Tape, total: &Var, networks: [&[Leaves]; N]) -> Result<()> {
        let is_last = self.division.ends(self.seen.len() - 1);
        self.backward_of_piece(tape, total, networks, Ends { micro_batch: true, is_last })
    }

    /// The same of a piece of a micro-batch, whose `total` is its share of the batch's loss: gradients of the pieces are added
    /// before those of micro-batches.
    pub fn backward_of_piece(&mut self, tape: &Tape, total: &Var, networks: [&[Leaves]; N], ends: Ends) -> Result<()> {
        let (division, wire) = (self.division, self.wire());
        for (ids, passes) in self.ids.iter_mut().zip(networks) {
            *ids = passes.first().map_or_else(Vec::new, |leaves| leaves.iter().map(|(id, _)| *id).collect());
        }
        let exchanges = division.ranks().size() > 1 && ends.micro_batch && ends.is_last;
        let (mut over_ranks, mut order) = (exchanges.then(|| division.sums()), Vec::new());
        let (pieces, sums) = (&mut self.pieces, &mut self.sums);
        let mut complete = |i: usize, own: Tensor| {
            pieces.add(i, own, Wire::F32)?;
            let whole = if ends.micro_batch { pieces.take(i, Wire::F32)? } else { None };
            let Some(own) = whole else { return Ok(()) };
            sums.add(i, own, wire)?;
            if let Some(over_ranks) = &mut over_ranks
                && let Some(sum) = sums.take(i, wire)?
            {
                order.push(i);
                over_ranks.add(sum)?;
            }
            Ok(())
        };
        complete(0, total.value().reshape([1])?)?;
        {
            let _span = division.span("backward");
            gradients(tape, total, &networks, &mut |i, grad| complete(1 + i, grad))?;
        }
        if let Some(over_ranks) = over_ranks {
            let _span = division.span("wait for ranks");
            let all = over_ranks.finish()?;
            division.agree(&order)?;
            for (i, sum) in order.into_iter().zip(all) {
                self.sums.add(i, sum, Wire::F32)?;
            }
        }
        Ok(())
    }

    /// Where nothing is exchanged nothing is rounded.
    fn wire(&self) -> Wire {
        if self.division.count() == 1 { Wire::F32 } else { self.division.wire() }
    }

    /// The loss, the gradients, and the report.
    pub fn finish(mut self) -> Result<(Tensor, [Grads; N], Seen)> {
        let wire = self.wire();
        let mut next = 0;
        let mut sum = || {
            let rule = "a step has at least one micro-batch";
            let sum = self.sums.take(next, wire)?.ok_or_else(|| Error::param("division", "batch", 0, rule));
            next += 1;
            sum
        };
        let loss = sum()?;
        let mut grads = [const { Vec::new() }; N];
        for (grads, ids) in grads.iter_mut().zip(&self.ids) {
            for id in ids {
                grads.push((*id, sum()?));
            }
        }
        Ok((loss, grads, Seen::of_micro_batches(self.seen, self.division)))
    }
}
