//! Training a network with labels: cross-entropy of a linear classifier behind the trunk. A step adds the gradients of
//! several micro-batches, each with batch statistics of its own. Where it is divided ([`Division`]), those of each part are added
//! first, and then those of the parts.

use super::division::{BatchPart, Division};
use super::over_batch::{Ends, Sum};
use super::pathway::{descend, still};
use super::report::{Report, Seen};
use crate::dist::Collective;
use crate::error::{Error, Result};
use crate::nn::{Classifier, Mode, Norm, ParamId, Params, Pass, Precision, dropout};
use crate::ops::arith::{self, Arith};
use crate::ops::cross_entropy::cross_entropy_of;
use crate::ops::reduce::sum_to_forward;
use crate::ops::{self, sgd::Sgd};
use crate::shape::Shape;
use crate::tape::{Tape, Var};
use crate::tensor::{Integers, Tensor};
use rand::{Rng, RngExt};
use std::ops::Range;

/// Settings of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Supervised {
    /// Share of the features that are dropped before the classifier, from 0 on and below 1.
    pub dropout: f32,
    /// Largest norm of the gradient of all parameters together; a longer one is scaled to it.
    pub clip_norm: Option<f32>,
    /// Whether the trunk is frozen, with its running statistics: only the classifier is trained.
    pub frozen: bool,
    /// Precision of the network.
    pub precision: Precision,
}

/// A classifier with its weights and the optimiser's velocity.
pub struct Learner {
    classifier: Classifier,
    params: Params,
    velocity: Params,
}

impl Learner {
    /// A classifier with velocities of 0.
    ///
    /// # Errors
    /// None on the CPU; on a GPU `OutOfMemory` and `Driver`.
    pub fn new(classifier: Classifier, params: Params) -> Result<Learner> {
        Ok(Learner { classifier, velocity: still(&params)?, params })
    }

    /// The network and its weights.
    #[must_use]
    pub fn network(&self) -> (&Classifier, &Params) {
        (&self.classifier, &self.params)
    }

    /// The weights and the velocity, for restoring.
    pub fn state_mut(&mut self) -> [&mut Params; 2] {
        [&mut self.params, &mut self.velocity]
    }

    /// The velocity.
    #[must_use]
    pub fn velocity(&self) -> &Params {
        &self.velocity
    }

    /// A step on `n` clips in `parts`, each of clips `[k t h w c]` on the CPU with their labels: gradient descent on the
    /// mean cross-entropy of all of them. `rng` chooses what dropout drops. If the loss is not finite the weights are
    /// unchanged, and the loss is returned in the report. This also has the share of clips that were classified rightly
    /// (`train_top1`) and, with a limit, the norm of the gradient before it was scaled (`grad_norm`).
    ///
    /// # Errors
    /// `Param` when a label is no class, or the norm of the gradient is not finite although the loss is; errors of the
    /// network's operations.
    pub fn step(
        &mut self,
        how: &Supervised,
        n: usize,
        parts: impl ExactSizeIterator<Item = Result<(Tensor, Vec<u32>)>>,
        rng: &mut impl Rng,
        lr: f32,
        sgd: &Sgd,
    ) -> Result<Report> {
        self.step_of(how, n, parts, rng, lr, sgd, &Division::default())?.read()
    }

    /// The same of a step on `n` clips of all ranks that is divided: `parts` are those of this rank, as many in each part of the
    /// division. Running statistics are those of the first part of all.
    ///
    /// # Errors
    /// Those of [`Learner::step`]; `Param` when the parts cannot be divided; `Peer` when another rank has ended.
    #[allow(clippy::too_many_arguments, reason = "each is a choice of its own")]
    pub fn step_of(
        &mut self,
        how: &Supervised,
        n: usize,
        parts: impl ExactSizeIterator<Item = Result<(Tensor, Vec<u32>)>>,
        rng: &mut impl Rng,
        lr: f32,
        sgd: &Sgd,
        division: &Division,
    ) -> Result<Seen> {
        let pieces = division.micro_batches(parts.len())?.first().map_or(0, Range::len);
        if how.dropout > 0.0 {
            // What is dropped in the clips of the ranks before.
            let before = division.own(n / division.ranks().size()).start * self.classifier.trunk.features_dim();
            (0..before).for_each(|_| _ = rng.random::<f32>());
        }
        let mut sum = Sum::new(division);
        let mut reports = vec![(0.0, 0); division.accumulate()];
        for (i, part) in parts.enumerate() {
            let (at, piece) = (i / pieces, i % pieces);
            let ends = Ends { micro_batch: piece + 1 == pieces, is_last: division.ends(at) };
            let (loss, right) = self.add_gradients(how, part?, n, rng, &mut sum, (division.part(at), ends))?;
            reports[at].0 += loss;
            reports[at].1 += right;
        }
        let (loss, [mut grads], _) = sum.finish()?;
        let mut clipped = None;
        if let Some(most) = how.clip_norm
            && loss.item()?.is_finite()
        {
            let norm = norm(&grads)?;
            if !norm.is_finite() {
                return Err(Error::param(
                    "training",
                    "the norm of the gradient",
                    norm,
                    "it must be finite: try a lower --lr",
                ));
            }
            if norm > f64::from(most) {
                let factor = (f64::from(most) / norm) as f32;
                for (_, grad) in &mut grads {
                    *grad = arith::scale_forward(grad, factor)?;
                }
            }
            clipped = Some(norm as f32);
        }
        let lr = Tensor::scalar(lr).to(&self.params.device())?;
        descend(&mut self.params, &mut self.velocity, &grads, &lr, &loss, sgd)?;
        // A part reports means over its own clips.
        let count = division.count();
        let of_part = |(loss, right): (f32, usize)| {
            let mut parts = vec![("train_top1", right as f32 / (n / count) as f32)];
            parts.extend(clipped.map(|norm| ("grad_norm", norm)));
            Seen::of(&Report { loss: loss * count as f32, parts })
        };
        let reports = reports.into_iter().map(of_part).collect::<Result<_>>()?;
        Ok(Seen::of_micro_batches(reports, division))
    }

    /// Adds the gradient of some of `n` clips; returns what they add to the mean loss, and how many are classified rightly.
    fn add_gradients(
        &mut self,
        how: &Supervised,
        (clips, labels): (Tensor, Vec<u32>),
        n: usize,
        rng: &mut impl Rng,
        sum: &mut Sum<1>,
        (part, ends): (BatchPart, Ends),
    ) -> Result<(f32, usize)> {
        let Learner { classifier, params, .. } = self;
        let device = params.device();
        let x = Var::constant(clips.to(&device)?);
        let fixed = if how.frozen {
            let silent = Tape::no_grad();
            let mut pass = Pass::new(&silent, params, Mode::Frozen).with_precision(how.precision);
            Some(Var::constant(classifier.trunk.forward(&mut pass, &x)?.value().clone()))
        } else {
            None
        };
        let mode = if how.frozen { Mode::Eval } else { Mode::Train { parts: 1 } };
        let tape = Tape::new();
        let mut pass = Pass::new(&tape, params, mode).with_precision(how.precision).updating(part.updating);
        let features = fixed.map_or_else(|| classifier.trunk.forward(&mut pass, &x), Ok)?;
        let features = dropout(&pass, &features, how.dropout, rng)?;
        let logits = classifier.logits(&mut pass, &features)?;
        let loss = cross_entropy_of(&tape, &logits, &Integers::new(labels.clone()).to(&device)?)?;
        let loss = ops::scale(&tape, &loss, labels.len() as f32 / n as f32)?;
        let leaves = pass.leaves();
        sum.backward_of_piece(&tape, &loss, [&[leaves]], ends)?;
        let scores = logits.value().load()?;
        let rows = scores.chunks_exact(scores.len() / labels.len());
        let right = rows.zip(&labels).filter(|(row, label)| best(row) == **label as usize).count();
        Ok((loss.value().item()?, right))
    }

    /// Takes over the running statistics of the first rank, which alone has those of all steps.
    ///
    /// # Errors
    /// `Peer` when another rank has ended; on a GPU `OutOfMemory` and `Driver`.
    pub fn share_statistics(&mut self, ranks: &dyn Collective) -> Result<()> {
        let own = self.running()?;
        let all =
            ranks.all_gather(&Tensor::from_f32([own.len()], &own)?.to(&self.params.device())?)?.load()?.into_owned();
        let first = all[..own.len()].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        self.set_running(&first)
    }

    /// All running statistics.
    fn running(&self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for (_, p) in self.params.iter().filter(|(_, p)| !p.role.trains()) {
            all.extend_from_slice(&p.value.load()?);
        }
        Ok(all)
    }

    fn set_running(&mut self, mut all: &[f64]) -> Result<()> {
        for (_, p) in self.params.iter_mut().filter(|(_, p)| !p.role.trains()) {
            let (own, rest) = all.split_at(p.value.shape().len());
            let values: Vec<f32> = own.iter().map(|v| *v as f32).collect();
            p.value = Tensor::from_f32(p.value.shape(), &values)?.to(&p.value.device())?;
            all = rest;
        }
        Ok(())
    }

    /// Computes the running statistics anew (precise batch norm, Wu and Johnson 2021): the means over `n` batches of the
    /// statistics that each has in the network as it is now. Ranks divide them ([`share_of`]), and `own` are those of this one,
    /// of clips `[k t h w c]` on the CPU; the result has the same bits on any number of ranks.
    ///
    /// # Errors
    /// What `own` returns, the network, and `Peer` when another rank has ended; the statistics are of no use then.
    pub fn precise_statistics(
        &mut self,
        n: usize,
        own: impl Iterator<Item = Result<Tensor>>,
        precision: Precision,
        ranks: &dyn Collective,
    ) -> Result<()> {
        let (device, seen, length) = (self.params.device(), self.params.batches, self.running()?.len());
        let mut rows = Vec::new();
        for batch in own {
            // From 0, a running statistic becomes the batch's times the momentum.
            self.set_running(&vec![0.0; length])?;
            let (tape, x) = (Tape::no_grad(), Var::constant(batch?.to(&device)?));
            let mut pass = Pass::new(&tape, &mut self.params, Mode::Train { parts: 1 }).with_precision(precision);
            self.classifier.trunk.forward(&mut pass, &x)?;
            drop(pass);
            rows.extend(self.running()?);
        }
        let each = n.div_ceil(ranks.size());
        rows.resize(each * length, 0.0);
        let all = if ranks.size() == 1 {
            rows
        } else {
            ranks.all_gather(&Tensor::from_f32([each, length], &rows)?.to(&device)?)?.load()?.into_owned()
        };
        let (factor, mut sums) = (1.0 / (f64::from(Norm::MOMENTUM) * n as f64), vec![0.0; length]);
        // The ranks have the batches in their order; only the last rows may be none.
        for row in all.chunks_exact(length.max(1)).take(n) {
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += factor * f64::from(*v));
        }
        self.set_running(&sums)?;
        self.params.batches = seen;
        Ok(())
    }
}

/// Which of `n` pieces of work this rank does: each rank as many, except that the last ones may have fewer.
#[must_use]
pub fn share_of(n: usize, ranks: &dyn Collective) -> Range<usize> {
    let each = n.div_ceil(ranks.size());
    (ranks.rank() * each).min(n)..((ranks.rank() + 1) * each).min(n)
}

/// The first of the highest scores.
fn best(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// The Euclidean norm of all gradients together; synchronises with a GPU.
fn norm(grads: &[(ParamId, Tensor)]) -> Result<f64> {
    let square = |g: &Tensor| {
        let flat = g.reshape([g.shape().len()])?;
        sum_to_forward(&arith::forward(Arith::Mul, &flat, &flat)?, Shape::from([1]))
    };
    let squares = grads.iter().map(|(_, g)| square(g)).collect::<Result<Vec<_>>>()?;
    let all = Tensor::collect(&squares.iter().collect::<Vec<_>>())?;
    Ok(all.load()?.iter().map(|v| f64::from(*v)).sum::<f64>().sqrt())
}
