//! Training a network with labels: cross-entropy of a linear classifier behind the trunk. A step adds the gradients of
//! several parts of its batch, each with batch statistics of its own.

use super::pathway::{descend, still};
use super::report::Report;
use crate::error::{Error, Result};
use crate::nn::{Classifier, Mode, Norm, ParamId, Params, Pass, Precision, Role, dropout};
use crate::ops::arith::{self, Arith};
use crate::ops::cross_entropy::cross_entropy_of;
use crate::ops::reduce::sum_to_forward;
use crate::ops::{self, sgd::Sgd};
use crate::shape::Shape;
use crate::tape::{self, Tape, Var};
use crate::tensor::{Integers, Tensor};
use rand::Rng;

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

/// What a part of a batch adds to a step.
struct Gradients {
    loss: f32,
    right: usize,
    grads: Vec<(ParamId, Tensor)>,
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
        parts: impl Iterator<Item = Result<(Tensor, Vec<u32>)>>,
        rng: &mut impl Rng,
        lr: f32,
        sgd: &Sgd,
    ) -> Result<Report> {
        let mut all = Gradients { loss: 0.0, right: 0, grads: Vec::new() };
        for part in parts {
            let (clips, labels) = part?;
            let part = self.gradients(how, &clips, labels, n, rng)?;
            all.loss += part.loss;
            all.right += part.right;
            if all.grads.is_empty() {
                all.grads = part.grads;
                continue;
            }
            for ((_, sum), (_, grad)) in all.grads.iter_mut().zip(&part.grads) {
                *sum = arith::forward(Arith::Add, sum, grad)?;
            }
        }
        let mut parts = vec![("train_top1", all.right as f32 / n as f32)];
        if let Some(most) = how.clip_norm.filter(|_| all.loss.is_finite()) {
            let norm = norm(&all.grads)?;
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
                for (_, grad) in &mut all.grads {
                    *grad = arith::scale_forward(grad, factor)?;
                }
            }
            parts.push(("grad_norm", norm as f32));
        }
        let device = self.params.device();
        let [lr, loss] = [lr, all.loss].map(|v| Tensor::scalar(v).to(&device));
        descend(&mut self.params, &mut self.velocity, &all.grads, &lr?, &loss?, sgd)?;
        Ok(Report { loss: all.loss, parts })
    }

    /// What some of `n` clips add to the mean loss, to those classified rightly, and to the gradient.
    fn gradients(
        &mut self,
        how: &Supervised,
        clips: &Tensor,
        labels: Vec<u32>,
        n: usize,
        rng: &mut impl Rng,
    ) -> Result<Gradients> {
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
        let mut pass = Pass::new(&tape, params, mode).with_precision(how.precision);
        let features = fixed.map_or_else(|| classifier.trunk.forward(&mut pass, &x), Ok)?;
        let features = dropout(&pass, &features, how.dropout, rng)?;
        let logits = classifier.logits(&mut pass, &features)?;
        let loss = cross_entropy_of(&tape, &logits, &Integers::new(labels.clone()).to(&device)?)?;
        let loss = ops::scale(&tape, &loss, labels.len() as f32 / n as f32)?;
        let leaves = pass.leaves();
        let grads = tape.grad(&loss, &leaves.iter().map(|(_, leaf)| leaf).collect::<Vec<_>>(), tape::Mode::Free)?;
        let grads = leaves.iter().zip(grads).filter_map(|((id, _), grad)| Some((*id, grad?.value().clone()))).collect();
        let scores = logits.value().load()?;
        let rows = scores.chunks_exact(scores.len() / labels.len());
        let right = rows.zip(&labels).filter(|(row, label)| best(row) == **label as usize).count();
        Ok(Gradients { loss: loss.value().item()?, right, grads })
    }

    /// Computes the running statistics anew (precise batch norm, Wu and Johnson 2021): the means over `n` `batches` of
    /// clips `[k t h w c]` on the CPU of the statistics that each has in the network as it is now.
    ///
    /// # Errors
    /// What `batches` return, and the network; the statistics are of no use then.
    pub fn precise_statistics(
        &mut self,
        n: usize,
        batches: impl Iterator<Item = Result<Tensor>>,
        precision: Precision,
    ) -> Result<()> {
        let (device, seen) = (self.params.device(), self.params.batches);
        let running = |role: Role| matches!(role, Role::RunningMean | Role::RunningVar);
        let ids: Vec<ParamId> = self.params.iter().filter(|(_, p)| running(p.role)).map(|(id, _)| id).collect();
        let mut sums: Vec<Vec<f64>> = ids.iter().map(|id| vec![0.0; self.params[*id].value.shape().len()]).collect();
        // From 0, a running statistic becomes the batch's times the momentum.
        let factor = 1.0 / (f64::from(Norm::MOMENTUM) * n as f64);
        for clips in batches {
            for id in &ids {
                let shape = self.params[*id].value.shape();
                self.params[*id].value = Tensor::zeros_on(&device, shape)?;
            }
            let (tape, x) = (Tape::no_grad(), Var::constant(clips?.to(&device)?));
            let mut pass = Pass::new(&tape, &mut self.params, Mode::Train { parts: 1 }).with_precision(precision);
            self.classifier.trunk.forward(&mut pass, &x)?;
            drop(pass);
            for (id, sum) in ids.iter().zip(&mut sums) {
                let new = self.params[*id].value.load()?;
                sum.iter_mut().zip(new.iter()).for_each(|(sum, v)| *sum += factor * f64::from(*v));
            }
        }
        for (id, sum) in ids.iter().zip(sums) {
            let values: Vec<f32> = sum.into_iter().map(|v| v as f32).collect();
            let value = Tensor::from_f32(self.params[*id].value.shape(), &values)?;
            self.params[*id].value = value.to(&device)?;
        }
        self.params.batches = seen;
        Ok(())
    }
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
