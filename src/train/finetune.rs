//! Supervised training of a network with a linear classifier: fine-tuning after pre-training, training from random
//! weights, or of the classifier alone on a frozen trunk, with new random clips in each pass (`docs/papers/maclr.md`
//! section 6, `docs/papers/mcl.md` section 5).

use super::batch::stack;
use super::checkpoint::State;
use super::limits;
use super::order::Order;
use super::pretrain::{At, Load, Method, Report, steps_per_epoch};
use super::recipe::{check_views, fitting};
use super::schedule::Schedule;
use super::views::{Loader, Part, ViewSpec, segments};
use crate::augment::{AugmentSpec, Draw, rand_augment, rand_augment::RandAugment};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::{Classifier, Mode, Net, Norm, ParamId, Params, Pass, Precision, Role, Trunk, dropout};
use crate::ops::arith::{self, Arith};
use crate::ops::cross_entropy::cross_entropy_of;
use crate::ops::{self, reduce::sum_to_forward, sgd::Sgd};
use crate::rng::{self, Purpose};
use crate::shape::Shape;
use crate::ssl::pathway::{descend, still};
use crate::tape::{self, Tape, Var};
use crate::tensor::{Device, Integers, Tensor};
use crate::video::{Dataset, Prefetch};
use crate::weights::{Config, Networks};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that defines a run except its network and its data.
#[derive(Clone, Debug, Serialize)]
pub struct Recipe {
    /// Clips and their augmentation.
    pub views: ViewSpec,
    /// Operations on the cropped clips, before flip and normalisation.
    pub rand_augment: Option<RandAugment>,
    /// Passes over the videos.
    pub epochs: u64,
    /// Videos per step.
    pub batch: usize,
    /// Videos that pass through the network at once: a step adds the gradients of `batch / micro_batch` of them, and
    /// each has batch statistics of its own.
    pub micro_batch: usize,
    /// Learning rate after the warm-up.
    pub lr: f32,
    /// Learning rate of the first step, if there is a warm-up.
    pub warmup_from: f32,
    /// Epochs of linear warm-up.
    pub warmup_epochs: f64,
    /// Whether the cosine spans the warm-up too ([`Schedule::whole_cosine`]).
    pub whole_cosine: bool,
    /// Instead of a cosine: the epochs from which on the rate is a tenth, and a hundredth.
    pub drop_epochs: Option<[u64; 2]>,
    /// The optimiser.
    pub sgd: Sgd,
    /// Share of the features that are dropped before the classifier.
    pub dropout: f32,
    /// Largest norm of the gradient of all parameters together; a longer one is scaled to it.
    pub clip_norm: Option<f32>,
    /// Batches from which the running statistics are computed anew after the last step (precise batch norm, Wu and
    /// Johnson 2021); 0 for none.
    pub precise_bn: usize,
    /// Whether the trunk is frozen, with its running statistics: only the classifier is trained.
    pub frozen: bool,
    /// Precision of the network.
    pub precision: Precision,
}

impl Recipe {
    /// For a few hundred videos on two cores: takes minutes. Chosen on validation videos (`docs/experiments.md`).
    #[must_use]
    pub fn small() -> Recipe {
        let views = ViewSpec::small();
        let augment = AugmentSpec { blur: 0.0, ..views.augment.clone() };
        Recipe {
            views: ViewSpec { augment, ..views },
            rand_augment: None,
            epochs: 30,
            batch: 16,
            micro_batch: 16,
            lr: 0.02,
            warmup_from: 0.0002,
            warmup_epochs: 1.0,
            whole_cosine: false,
            drop_epochs: None,
            sgd: Sgd::default(),
            dropout: 0.5,
            clip_norm: None,
            precise_bn: 200,
            frozen: false,
            precision: Precision::F32,
        }
    }

    /// MaCLR's fine-tuning on UCF101: its release's batch of 64 on 8 GPUs has statistics of 8 videos each.
    #[must_use]
    pub fn maclr_ucf101() -> Recipe {
        let colours = AugmentSpec { jitter: 0.6, grey: 0.5, blur: 0.0, ..AugmentSpec::default() };
        Recipe {
            views: ViewSpec { frames: 32, stride: 8, augment: colours, ..ViewSpec::paper() },
            epochs: 200,
            batch: 64,
            micro_batch: 8,
            lr: 0.01,
            warmup_from: 0.001,
            warmup_epochs: 34.0,
            whole_cosine: true,
            ..Self::small()
        }
    }

    /// MaCLR's linear evaluation on UCF101 as its release trains it: a classifier on the frozen trunk, with a new crop,
    /// flip and clip in each pass.
    #[must_use]
    pub fn maclr_ucf101_linear() -> Recipe {
        let plain = AugmentSpec { jitter: 0.0, grey: 0.0, blur: 0.0, ..AugmentSpec::default() };
        let fine = Self::maclr_ucf101();
        Recipe {
            views: ViewSpec { augment: plain, ..fine.views },
            batch: 256,
            micro_batch: 32,
            lr: 32.0,
            warmup_epochs: 0.0,
            sgd: Sgd { weight_decay: 0.0, ..Sgd::default() },
            dropout: 0.0,
            precise_bn: 0,
            frozen: true,
            ..fine
        }
    }

    /// MCL's fine-tuning, with the release's RandAugment for UCF101 or HMDB51: 4 GPUs with 16 videos each, and 4 such
    /// passes a step.
    #[must_use]
    pub fn mcl(rand_augment: RandAugment) -> Recipe {
        let crop = AugmentSpec {
            area: [0.2, 1.0],
            aspect: [0.75, 4.0 / 3.0],
            jitter: 0.0,
            grey: 0.0,
            blur: 0.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            ..AugmentSpec::default()
        };
        Recipe {
            views: ViewSpec { frames: 32, stride: 2, fps: None, augment: crop, ..ViewSpec::paper() },
            rand_augment: Some(rand_augment),
            epochs: 150,
            batch: 256,
            micro_batch: 16,
            lr: 0.01,
            warmup_epochs: 0.0,
            dropout: 0.9,
            clip_norm: Some(40.0),
            precise_bn: 0,
            ..Self::small()
        }
    }

    /// Fine-tuning on Something-Something v2, where direction matters: no flip. The number of frames is ours.
    #[must_use]
    pub fn ssv2() -> Recipe {
        let crop = AugmentSpec { flip: 0.0, jitter: 0.0, grey: 0.0, blur: 0.0, ..AugmentSpec::default() };
        Recipe {
            views: ViewSpec { frames: 16, stride: 1, segments: true, augment: crop, ..ViewSpec::paper() },
            epochs: 22,
            batch: 64,
            micro_batch: 8,
            lr: 0.12,
            warmup_epochs: 0.0,
            drop_epochs: Some([14, 18]),
            sgd: Sgd { weight_decay: 1e-6, ..Sgd::default() },
            ..Self::small()
        }
    }

    /// Checks every number, the constraints between them, and that `net` accepts clips of this size.
    ///
    /// # Errors
    /// `Param` naming the option, or the field if no option sets it, with its value and its range.
    pub fn check(&self, net: &Net) -> Result<()> {
        limits::EPOCHS.check(self.epochs)?;
        limits::BATCH.check(self.batch)?;
        limits::MICRO_BATCH.check(self.micro_batch)?;
        limits::LR.check(self.lr)?;
        limits::WARMUP_EPOCHS.check(self.warmup_epochs)?;
        limits::WEIGHT_DECAY.check(self.sgd.weight_decay)?;
        limits::DROPOUT.check(self.dropout)?;
        limits::CLIP_NORM.check(self.clip_norm.unwrap_or(1.0))?;
        limits::PRECISE_BN.check(self.precise_bn)?;
        self.rand_augment.map_or(Ok(()), |ops| ops.check())?;
        check_views(&self.views)?;
        if !self.batch.is_multiple_of(self.micro_batch) {
            let rule = format!("--batch {} must be a multiple of it", self.batch);
            return Err(Error::param("settings", limits::MICRO_BATCH.option, self.micro_batch, rule));
        }
        let [[t, h, w, _], _] = self.views.dims();
        fitting(net, [t, h, w], "--frames and --side").map(drop)
    }

    /// The learning rate over all epochs of `per_epoch` steps.
    #[must_use]
    pub fn schedule(&self, per_epoch: u64) -> Schedule {
        Schedule {
            base: self.lr,
            warmup_from: self.warmup_from.min(self.lr),
            warmup: (self.warmup_epochs * per_epoch as f64).round() as u64,
            steps: per_epoch.saturating_mul(self.epochs),
            floor: 0.0,
            whole_cosine: self.whole_cosine,
            drops: self.drop_epochs.map(|at| at.map(|epoch| epoch.saturating_mul(per_epoch))),
        }
    }

    /// What the network is, by the prefix of its names in the weights.
    #[must_use]
    pub fn networks(net: &Net, classes: usize, views: &ViewSpec) -> Networks {
        let [rgb, _] = views.inputs();
        let config = Config::new(net, "Trained with labels").classifier(classes).input(rgb);
        Networks::from([(PREFIX.to_owned(), config)])
    }

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

/// A clip of a video of known class.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The clip.
    pub clip: Part,
    /// Its class.
    pub label: u32,
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
