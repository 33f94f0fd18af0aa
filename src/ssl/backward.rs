//! From a loss to the gradients of networks.

use crate::error::Result;
use crate::nn::ParamId;
use crate::ops::arith::{Arith, apply};
use crate::tape::{Mode, Tape, Var};
use crate::tensor::Tensor;

/// The leaves of one forward pass.
pub(super) type Leaves = Vec<(ParamId, Var)>;

/// One backward walk for all `networks`, each given by the leaves of its passes: where a network ran several times, its
/// gradients are added.
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
                    Some((_, sum)) => *sum = apply(Arith::Add, sum, &g)?,
                    None => out.push((*id, g)),
                }
            }
        }
    }
    Ok(out)
}
