//! Accumulates the terms of a loss, and computes the gradients of several networks from it.

use super::report::{Part, Seen};
use crate::error::{Error, Result};
use crate::nn::ParamId;
use crate::ops::add;
use crate::ops::arith::{self, Arith};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// The sum of a step's losses, and what is reported about them.
pub(super) struct Objective<'t> {
    pub tape: &'t Tape,
    total: Option<Var>,
    seen: Vec<Tensor>,
    parts: Vec<Part>,
}

impl<'t> Objective<'t> {
    pub fn new(tape: &'t Tape) -> Self {
        Objective { tape, total: None, seen: Vec::new(), parts: Vec::new() }
    }

    /// Adds a weighted loss.
    pub fn add(&mut self, term: &Var) -> Result<()> {
        self.total = Some(match self.total.take() {
            Some(total) => add(self.tape, &total, term)?,
            None => term.clone(),
        });
        Ok(())
    }

    /// Adds tensors to be read at the end of the step, and the meaning of their numbers.
    pub fn see<const T: usize, const P: usize>(&mut self, seen: [Tensor; T], parts: [Part; P]) {
        self.seen.extend(seen);
        self.parts.extend(parts);
    }

    /// The sum and the report.
    pub fn finish(self, method: &'static str) -> Result<(Var, Seen)> {
        let Some(total) = self.total else {
            return Err(Error::param(method, "weights", "all 0", "at least one term needs a weight above 0"));
        };
        let seen = Seen::new(total.value(), &self.seen, self.parts)?;
        Ok((total, seen))
    }
}

/// The parameters (tape leaves) of one forward pass.
pub(super) type Leaves = Vec<(ParamId, Var)>;

/// One backward pass for all `networks`, each given by the leaves of its forward passes: if a network ran several times, its
/// gradients are added. Parameters are counted over all networks; `done` receives the number of each with its gradient, as soon
/// as this is complete, in an order that depends on the recording alone.
pub(super) fn gradients(
    tape: &Tape,
    total: &Var,
    networks: &[&[Leaves]],
    done: &mut dyn FnMut(usize, Tensor) -> Result<()>,
) -> Result<()> {
    // Of each variable: the number of its parameter, and which pass it is of.
    let (mut vars, mut places, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for passes in networks {
        let first = runs.len();
        for (run, (i, (_, leaf))) in
            passes.iter().enumerate().flat_map(|(r, p)| p.iter().enumerate().map(move |l| (r, l)))
        {
            if run == 0 {
                runs.push(vec![None; passes.len()]);
            }
            places.push((first + i, run));
            vars.push(leaf);
        }
    }
    tape.grad_each(total, &vars.clone(), &mut |at, grad| {
        let (i, run) = places[at];
        let grad = match grad {
            Some(grad) => grad.value().clone(),
            None => Tensor::zeros_on(&vars[at].value().device(), vars[at].shape())?,
        };
        let of_runs = &mut runs[i];
        of_runs[run] = Some(grad);
        if of_runs.iter().any(Option::is_none) {
            return Ok(());
        }
        // Added in the order of the passes, whichever is complete first.
        let mut all = std::mem::take(of_runs).into_iter().flatten();
        let Some(mut sum) = all.next() else { return Ok(()) };
        for grad in all {
            sum = arith::forward(Arith::Add, &sum, &grad)?;
        }
        done(i, sum)
    })
}
