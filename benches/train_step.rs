//! A whole training step of two networks in f32: forward, cross-entropy, backward, SGD. Throughput is clips.
//!
//! `benches/peers/train_step.py` is the same in PyTorch. Both use two threads unless `RAYON_NUM_THREADS` (there: the
//! first argument) says otherwise.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use tubelet::nn::{Classifier, Mode, Net, Params, Pass};
use tubelet::ops::{self, sgd};
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::Tensor;

const CLASSES: usize = 400;

/// Name, network, shape `n t h w` of a batch.
fn cases() -> [(&'static str, Net, [usize; 4]); 2] {
    [("r2plus1d_18", Net::r2plus1d_18(), [2, 16, 112, 112]), ("slow_r50", Net::slow_r50(), [2, 8, 224, 224])]
}

/// One step on one batch; the loss.
fn step(net: &Classifier, params: &mut Params, velocity: &mut [Tensor], x: &Var, labels: &[usize]) -> f32 {
    let tape = Tape::new();
    let mut pass = Pass::new(&tape, params, Mode::Train { groups: 1 });
    let logits = net.forward(&mut pass, x).unwrap();
    let loss = ops::cross_entropy(&tape, &logits, labels).unwrap();
    let leaves = pass.leaves();
    let vars: Vec<&Var> = leaves.iter().map(|(_, v)| v).collect();
    let grads = tape.grad(&loss, &vars, tape::Mode::Free).unwrap();
    let ids: Vec<_> = leaves.iter().map(|(id, _)| *id).collect();
    drop((leaves, pass)); // they hold the weights, which would be copied before the update
    for (id, grad) in ids.into_iter().zip(grads) {
        let decays = params[id].role.decays();
        let (w, v) = (&mut params[id].value, &mut velocity[id.index()]);
        sgd::step(&sgd::Sgd::default(), 0.01, w, grad.unwrap().value(), v, decays).unwrap();
    }
    loss.value().item().unwrap()
}

fn train_step(c: &mut Criterion) {
    let mut group = c.benchmark_group("train_step");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(25));
    for (name, net, [n, t, h, w]) in cases() {
        let (net, mut params) = Classifier::new(&net, CLASSES, 1).unwrap();
        let mut velocity: Vec<Tensor> = params.iter().map(|(_, p)| Tensor::zeros(p.value.shape())).collect();
        let data: Vec<f32> = (0..n * t * h * w * 3).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = Var::constant(Tensor::from_f32([n, t, h, w, 3], &data).unwrap());
        let labels: Vec<usize> = (0..n).map(|i| i * 7 % CLASSES).collect();
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(format!("{name}/{n}x{t}x{h}x{w}/f32/cpu"), |bench| {
            bench.iter(|| step(&net, &mut params, &mut velocity, &x, &labels));
        });
    }
    group.finish();
}

criterion_group!(benches, train_step);
criterion_main!(benches);
