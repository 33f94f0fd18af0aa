//! Accumulates the terms of a loss, and computes the gradients of several networks from it.

use super::report::{Part, Seen};
use crate::error::{Error, Result};
use crate::nn::ParamId;
use crate::ops::add;
use crate::ops::arith::{self, Arith};
use crate::tape::{Mode, Tape, Var};
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

/// One backward pass for all `networks`, each given by the leaves of its forward passes: if a network ran several
/// times, its gradients are added.
pub(super) fn gradients<const N: usize>(
    tape: &Tape,
    total: &Var,
    networks: [&[Leaves]; N],
) -> Result<[Vec<(ParamId, Tensor)>; N]> {
    let all: Vec<&Var> = networks.iter().flat_map(|passes| passes.iter().flatten()).map(|(_, v)| v).collect();
    let mut grads = tape.grad(total, &all, Mode::Free)?.into_iter();
    let mut out = [const { Vec::new() }; N];
    for (passes, out) in networks.iter().zip(&mut out) {
        for run in passes.iter() {
            for (i, (id, leaf)) in run.iter().enumerate() {
                let g = match grads.next().flatten() {
                    Some(g) => g.value().clone(),
                    None => Tensor::zeros_on(&leaf.value().device(), leaf.shape())?,
                };
                match out.get_mut(i) {
                    Some((_, sum)) => *sum = arith::forward(Arith::Add, sum, &g)?,
                    None => out.push((*id, g)),
                }
            }
        }
    }
    Ok(out)
}
