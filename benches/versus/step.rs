//! Complete training steps: forward, cross-entropy, backward, SGD.

use tubelet::error::Result;
use tubelet::nn::{Classifier, Mode, Net, Params, Pass, Precision};
use tubelet::ops::{self, sgd};
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::Tensor;

const CLASSES: usize = 400;

/// A network, its optimiser state, and one batch.
pub struct Step {
    net: Classifier,
    params: Params,
    velocity: Vec<Tensor>,
    x: Var,
    labels: Vec<usize>,
    precision: Precision,
}

impl Step {
    /// `net` with its initial weights, and `clips`, `n t h w 3`.
    pub fn new(net: &Net, clips: Tensor, precision: Precision) -> Result<Self> {
        let n = clips.dims()[0];
        let (net, params) = Classifier::new(net, CLASSES, 1)?;
        let velocity = params.iter().map(|(_, p)| Tensor::zeros(p.value.shape())).collect();
        let labels = (0..n).map(|i| i * 7 % CLASSES).collect();
        Ok(Step { net, params, velocity, x: Var::constant(clips), labels, precision })
    }

    /// Runs one step; returns the loss before its update.
    pub fn run(&mut self) -> Result<f32> {
        let tape = Tape::new();
        let mut pass = Pass::new(&tape, &mut self.params, Mode::Train { parts: 1 }).with_precision(self.precision);
        let logits = self.net.forward(&mut pass, &self.x)?;
        let loss = ops::cross_entropy(&tape, &logits, &self.labels)?;
        let leaves = pass.leaves();
        let vars: Vec<&Var> = leaves.iter().map(|(_, v)| v).collect();
        let grads = tape.grad(&loss, &vars, tape::Mode::Free)?;
        let ids: Vec<_> = leaves.iter().map(|(id, _)| *id).collect();
        drop((leaves, pass)); // they share the weights, which would be copied before the update
        for (id, grad) in ids.into_iter().zip(grads) {
            let Some(grad) = grad else { continue };
            let decays = self.params[id].role.decays();
            let (w, v) = (&mut self.params[id].value, &mut self.velocity[id.index()]);
            sgd::update(&sgd::Sgd::default(), 0.01, w, grad.value(), v, decays)?;
        }
        loss.value().item()
    }
}
