//! Supervised training of a network with a linear classifier: fine-tuning after pre-training, training from random
//! weights, or of the classifier alone on a frozen trunk, with new random clips in each pass (`docs/papers/maclr.md`
//! section 6, `docs/papers/mcl.md` section 5).

mod recipe;

pub use recipe::Recipe;

use super::batch::stack;
use super::checkpoint::State;
use super::order::Order;
use super::pretrain::{At, Load, Method, Report, steps_per_epoch};
use super::views::{Loader, Part, segments};
use crate::augment::{Draw, rand_augment};
use crate::error::{ErrorKind, Result};
use crate::nn::{Classifier, Mode, Net, Norm, ParamId, Params, Pass, Role, Trunk, dropout};
use crate::ops::arith::{self, Arith};
use crate::ops::cross_entropy::cross_entropy_of;
use crate::ops::{self, reduce::sum_to_forward, sgd::Sgd};
use crate::rng::{self, Purpose};
use crate::shape::Shape;
use crate::ssl::pathway::{descend, still};
use crate::tape::{self, Tape, Var};
use crate::tensor::{Device, Integers, Tensor};
use crate::video::{Dataset, Prefetch};
use rand::RngExt;
use rand::seq::SliceRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A clip of a video of known class.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The clip.
    pub clip: Part,
    /// Its class.
    pub label: u32,
}

impl Recipe {
    /// A random clip of a video with its `label`. The same `(epoch, video)` always gives the same clip.
    ///
    /// # Errors
    /// As [`Loader::pair`].
    pub fn clip(&self, loader: &Loader, epoch: u64, video: usize, label: u32) -> Result<Labelled> {
        let view = loader.cache.get(loader.videos[video])?;
        let mut rng = rng::stream(loader.seed, epoch, video as u64, Purpose::ClipSampling);
        let spec = &self.views;
        let frames = if spec.segments {
            segments(view.len(), spec.frames, |from, to| rng.random_range(from..=to))
        } else {
            let clip = loader.spec.clip(view.fps());
            let start = clip.start(view.len(), view.fps(), &mut rng);
            clip.indices(start, view.len(), view.fps(), spec.short)?
        };
        let mut rng = rng::stream(loader.seed, epoch, video as u64, Purpose::Augment);
        let (h, w) = view.size();
        let draw = Draw::sample(&mut rng, &spec.augment, h, w);
        let Some(operations) = self.rand_augment else {
            return Ok(Labelled { clip: loader.rgb_of(&view, &frames, &draw)?, label });
        };
        let operations = operations.sample(&mut rng, spec.side, spec.side);
        let plain = Draw { flip: false, mean: [0.0; 3], std: [1.0; 3], ..draw.clone() };
        let mut clip = loader.rgb_of(&view, &frames, &plain)?;
        let side = spec.side;
        for frame in clip.data.chunks_exact_mut(side * side * 3) {
            let mut bytes: Vec<u8> = frame.iter().map(|v| (v * 255.0).round() as u8).collect();
            rand_augment::apply(&operations, &mut bytes, side, side)?;
            let rows = frame.chunks_exact_mut(side * 3).zip(bytes.chunks_exact(side * 3));
            for (row, bytes) in rows {
                for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                    let from = if draw.flip { side - 1 - x } else { x };
                    for (c, v) in pixel.iter_mut().enumerate() {
                        *v = (f32::from(bytes[from * 3 + c]) / 255.0 - draw.mean[c]) / draw.std[c];
                    }
                }
            }
        }
        Ok(Labelled { clip, label })
    }
}

/// A run in progress.
pub struct Finetune {
    recipe: Recipe,
    classifier: Classifier,
    params: Params,
    velocity: Params,
    device: Device,
    load: Arc<Load<Labelled>>,
    videos: usize,
}

/// What stands before the network's names in a weights file: nothing.
const PREFIX: &str = "";

impl Finetune {
    /// A run on `device` of the network `net` from the weights `trunk`, with a new classifier of `classes` classes, drawn
    /// from `seed`. `load` makes the clips of its `videos` videos: those of the steps come from the loop; the running
    /// statistics are computed from further ones.
    ///
    /// # Errors
    /// As [`Recipe::check`] and [`Classifier::start_from`]; on a GPU `OutOfMemory` and `Driver`.
    pub fn new(
        recipe: &Recipe,
        net: &Net,
        trunk: &Params,
        classes: usize,
        (load, videos): (Arc<Load<Labelled>>, usize),
        seed: u64,
        device: &Device,
    ) -> Result<Finetune> {
        recipe.check(net)?;
        let (classifier, mut params) = Classifier::new(net, classes, seed)?;
        Classifier::start_from(&mut params, trunk)?;
        let params = params.to(device)?;
        let velocity = still(&params)?;
        Ok(Finetune { recipe: recipe.clone(), classifier, params, velocity, device: device.clone(), load, videos })
    }

    /// The network and its weights.
    #[must_use]
    pub fn network(&self) -> (&Classifier, &Params) {
        (&self.classifier, &self.params)
    }

    /// The loss of some samples, how many are classified rightly, and `share` times the gradients of the loss.
    fn gradients(&mut self, some: &[Labelled], share: f32, at: At, first: usize) -> Result<Gradients> {
        let Finetune { recipe, classifier, params, device, .. } = self;
        let x = Var::constant(clips(some)?.to(device)?);
        let labels: Vec<u32> = some.iter().map(|sample| sample.label).collect();
        let fixed = if recipe.frozen {
            let silent = Tape::no_grad();
            let mut pass = Pass::new(&silent, params, Mode::Frozen).with_precision(recipe.precision);
            Some(Var::constant(classifier.trunk.forward(&mut pass, &x)?.value().clone()))
        } else {
            None
        };
        let mode = if recipe.frozen { Mode::Eval } else { Mode::Train { parts: 1 } };
        let tape = Tape::new();
        let mut pass = Pass::new(&tape, params, mode).with_precision(recipe.precision);
        let features = fixed.map_or_else(|| classifier.trunk.forward(&mut pass, &x), Ok)?;
        let mut rng = rng::stream(at.seed, at.step, first as u64, Purpose::Dropout);
        let features = dropout(&pass, &features, recipe.dropout, &mut rng)?;
        let logits = classifier.logits(&mut pass, &features)?;
        let loss = cross_entropy_of(&tape, &logits, &Integers::new(labels.clone()).to(device)?)?;
        let part = ops::scale(&tape, &loss, share)?;
        let leaves = pass.leaves();
        let grads = tape.grad(&part, &leaves.iter().map(|(_, leaf)| leaf).collect::<Vec<_>>(), tape::Mode::Free)?;
        let grads = leaves.iter().zip(grads).filter_map(|((id, _), grad)| Some((*id, grad?.value().clone()))).collect();
        let scores = logits.value().load()?;
        let rows = scores.chunks_exact(scores.len() / some.len());
        let right = rows.zip(&labels).filter(|(row, label)| best(row) == **label as usize).count();
        Ok(Gradients { loss: part.value().item()?, right, grads })
    }

    /// Running statistics as the mean of the statistics of batches that pass through the network as it is now.
    fn precise_statistics(&mut self, at: At) -> Result<()> {
        let Recipe { batch, micro_batch, precise_bn, precision, .. } = self.recipe;
        let per_epoch = steps_per_epoch(self.videos, batch)?;
        let used = per_epoch * batch as u64;
        let batches = precise_bn.min(used as usize / micro_batch);
        // The order and the clips of the epoch after the last.
        let (order, load) = (Order::new(at.seed, self.videos, per_epoch, batch), self.load.clone());
        let first = used * at.epochs;
        let mut samples = Prefetch::new(rayon::current_num_threads(), micro_batch, batches * micro_batch, move |i| {
            let (epoch, video) = order.at(first + i as u64);
            load(epoch, video)
        });
        let seen = self.params.batches;
        let running = |role: Role| matches!(role, Role::RunningMean | Role::RunningVar);
        let ids: Vec<ParamId> = self.params.iter().filter(|(_, p)| running(p.role)).map(|(id, _)| id).collect();
        let mut sums: Vec<Vec<f64>> = ids.iter().map(|id| vec![0.0; self.params[*id].value.shape().len()]).collect();
        for _ in 0..batches {
            for id in &ids {
                let shape = self.params[*id].value.shape();
                self.params[*id].value = Tensor::zeros_on(&self.device, shape)?;
            }
            let some = samples.by_ref().take(micro_batch).collect::<Result<Vec<_>>>()?;
            let x = Var::constant(clips(&some)?.to(&self.device)?);
            let tape = Tape::no_grad();
            let mut pass = Pass::new(&tape, &mut self.params, Mode::Train { parts: 1 }).with_precision(precision);
            self.classifier.trunk.forward(&mut pass, &x)?;
            drop(pass);
            // From 0, a running statistic is now the batch's times the momentum.
            for (id, sum) in ids.iter().zip(&mut sums) {
                let new = self.params[*id].value.load()?;
                let factor = 1.0 / (f64::from(Norm::MOMENTUM) * batches as f64);
                sum.iter_mut().zip(new.iter()).for_each(|(sum, v)| *sum += factor * f64::from(*v));
            }
        }
        for (id, sum) in ids.iter().zip(sums) {
            let values: Vec<f32> = sum.into_iter().map(|v| v as f32).collect();
            let value = Tensor::from_f32(self.params[*id].value.shape(), &values)?;
            self.params[*id].value = value.to(&self.device)?;
        }
        self.params.batches = seen;
        Ok(())
    }
}

/// What some samples add to a step.
struct Gradients {
    loss: f32,
    right: usize,
    grads: Vec<(ParamId, Tensor)>,
}

/// The clips of samples, `n t h w c`.
fn clips(some: &[Labelled]) -> Result<Tensor> {
    Ok(stack(some.iter().map(|sample| Some(&sample.clip)))?.unwrap_or_else(|| Tensor::zeros([0])))
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

/// Keeps a `share` of the videos of each class, at least one of each. Those of a smaller share are among those of a larger
/// one of the same `seed`.
pub fn keep_share(data: &mut Dataset, share: f64, seed: u64) {
    let mut classes: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (i, item) in data.items.iter().enumerate() {
        classes.entry(item.label).or_default().push(i);
    }
    let mut kept = BTreeSet::new();
    for (label, mut videos) in classes {
        videos.shuffle(&mut rng::stream(seed, label.unwrap_or(0) as u64, 0, Purpose::Labels));
        let n = ((videos.len() as f64 * share).round() as usize).max(1);
        kept.extend(videos.into_iter().take(n));
    }
    let mut i = 0..;
    data.items.retain(|_| i.next().is_some_and(|i| kept.contains(&i)));
}

impl Method for Finetune {
    type Sample = Labelled;

    fn name(&self) -> &'static str {
        "finetune"
    }

    fn step(&mut self, batch: Vec<Labelled>, at: At, lr: f32, sgd: &Sgd) -> Result<Report> {
        let (n, mut first) = (batch.len(), 0);
        let mut all = Gradients { loss: 0.0, right: 0, grads: Vec::new() };
        for some in batch.chunks(self.recipe.micro_batch) {
            let part = self.gradients(some, some.len() as f32 / n as f32, at, first)?;
            first += some.len();
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
        if let Some(most) = self.recipe.clip_norm.filter(|_| all.loss.is_finite()) {
            let norm = norm(&all.grads)?;
            if !norm.is_finite() {
                return Err(
                    ErrorKind::NotFinite { name: "the norm of the gradient", step: at.step, value: norm }.into()
                );
            }
            if norm > f64::from(most) {
                let factor = (f64::from(most) / norm) as f32;
                for (_, grad) in &mut all.grads {
                    *grad = arith::scale_forward(grad, factor)?;
                }
            }
            parts.push(("grad_norm", norm as f32));
        }
        let [lr, loss] = [lr, all.loss].map(|v| Tensor::scalar(v).to(&self.device));
        descend(&mut self.params, &mut self.velocity, &all.grads, &lr?, &loss?, sgd)?;
        Ok(Report { loss: all.loss, parts })
    }

    fn networks(&self) -> Vec<(&'static str, &Params)> {
        vec![(PREFIX, &self.params)]
    }

    fn networks_mut(&mut self) -> Vec<(&'static str, &mut Params)> {
        vec![(PREFIX, &mut self.params)]
    }

    fn save(&self, state: &mut State) {
        state.put_params("velocity.", &self.velocity);
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        state.get_params("velocity.", &mut self.velocity)
    }

    fn finish(&mut self, at: At) -> Result<()> {
        if self.recipe.precise_bn > 0 && !self.recipe.frozen { self.precise_statistics(at) } else { Ok(()) }
    }

    fn kept(&self) -> (&Trunk, &Params) {
        (&self.classifier.trunk, &self.params)
    }
}
