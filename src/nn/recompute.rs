//! Activation checkpointing: less memory for more time, by recomputing activations when their gradients are needed.
//!
//! Sublinear memory (Chen et al. 2016, "Training deep nets with sublinear memory cost"): the forward pass of a segment
//! is not recorded; only its input is kept. The backward pass runs the segment a second time on a separate tape, takes
//! the gradients from that tape, and drops it. A training step then holds the inputs of all segments and the
//! activations of one.
//!
//! The second run has the same bits as the first: it normalises by the batch again, and the running statistics, which a
//! segment reads besides its input and parameters, are kept as they were. It updates nothing. Where the gradients are
//! to be differentiated ([`tape::Mode::Keep`]), the second run is recorded on the caller's tape, which then holds its
//! activations.

use super::params::{ParamId, Params};
use super::pass::{Mode, Pass};
use super::precision::Precision;
use crate::error::Result;
use crate::ops::{Activation, batch_norm::Peers, reshape};
use crate::tape::{self, Op, Tape, Var};
use crate::tensor::Tensor;
use std::sync::Arc;

/// A part of a network with one input and one output.
pub(super) trait Segment {
    /// Computes its output. The input is passed twice, for its first and for its last use, so that their gradients are
    /// added in the order in which the tape would add them.
    fn run(&self, pass: &mut Pass, first: &Activation, last: &Activation) -> Result<Activation>;

    /// The parameters it reads, including running statistics.
    fn ids(&self) -> Vec<ParamId>;
}

/// Runs `segment` on `x`, recorded as one operation that runs it again in the backward pass.
pub(super) fn forward<S: Segment + 'static>(segment: &Arc<S>, pass: &mut Pass, x: &Activation) -> Result<Activation> {
    let (mut vars, mut kept) = (Vec::new(), Vec::new());
    for id in segment.ids() {
        let param = &pass.params()[id];
        if param.role.trains() {
            vars.push((id, pass.var(id)?));
        } else {
            // A copy, because the statistics are updated in place afterwards.
            kept.push((id, param.value.apart()?));
        }
    }
    let tape = pass.tape();
    let x = x.value(tape)?;
    let y = tape.unrecorded(|| segment.run(pass, &(&x).into(), &(&x).into())?.value(tape))?.value().clone();
    let inputs: Vec<&Var> = [&x, &x].into_iter().chain(vars.iter().map(|(_, v)| v)).collect();
    let y = tape.record(y, &inputs, || Again {
        segment: segment.clone(),
        x: x.clone(),
        vars: vars.clone(),
        kept,
        entries: pass.params().len(),
        mode: pass.mode(),
        precision: pass.precision(),
        peers: pass.peers(),
    });
    Ok((&y).into())
}

struct Again<S> {
    segment: Arc<S>,
    x: Var,
    /// The parameters as they were in the first run.
    vars: Vec<(ParamId, Var)>,
    /// Running statistics as they were before the first run.
    kept: Vec<(ParamId, Tensor)>,
    /// Number of entries of the network's [`Params`].
    entries: usize,
    mode: Mode,
    precision: Precision,
    peers: Option<Arc<dyn Peers>>,
}

impl<S: Segment> Op for Again<S> {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn backward(&self, t: &Tape, dy: &Var, needs: &[bool]) -> Result<Vec<Option<Var>>> {
        let own = Tape::new();
        let keep = t.is_recording();
        let tape = if keep { t } else { &own };
        // On a separate tape the inputs are leaves; on the caller's tape they are used directly. Two variables for `x`
        // keep its two gradients apart.
        let input = |v: &Var| match v.has_grad() {
            false => Ok(v.clone()),
            true if keep => reshape(t, v, v.shape()),
            true => Ok(own.leaf(v.value().clone())),
        };
        let mut inputs = vec![input(&self.x)?, input(&self.x)?];
        for (_, v) in &self.vars {
            inputs.push(input(v)?);
        }
        let mut params = Params::holding(self.entries, &self.kept);
        let used = self.vars.iter().map(|(id, _)| *id).zip(inputs[2..].iter().cloned());
        let pass = Pass::again(tape, &mut params, self.mode, self.precision, used);
        let mut pass = pass.over_peers(self.peers.clone());
        let y = self.segment.run(&mut pass, &(&inputs[0]).into(), &(&inputs[1]).into())?.value(tape)?;
        drop(pass);
        let wanted: Vec<&Var> = inputs.iter().zip(needs).filter(|(_, need)| **need).map(|(v, _)| v).collect();
        let mode = if keep { tape::Mode::Keep } else { tape::Mode::Free };
        let mut grads = tape.grad_between(&y, dy.clone(), &wanted, mode)?.into_iter();
        Ok(needs.iter().map(|need| if *need { grads.next().flatten() } else { None }).collect())
    }
}
