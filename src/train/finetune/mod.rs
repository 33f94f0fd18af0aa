//! Supervised training of a network with a linear classifier: fine-tuning after pre-training, training from random
//! weights, or of the classifier alone on a frozen trunk, with new random clips in each pass (`docs/papers/maclr.md`
//! section 6, `docs/papers/mcl.md` section 5).

mod recipe;

pub use recipe::Recipe;

use super::batch::Feed;
use super::checkpoint::State;
use super::order::Order;
use super::pretrain::{At, Load, Method, Seen, steps_per_epoch};
use super::share::Clips;
use super::views::{Loader, Part, segments};
use crate::augment::{Draw, rand_augment};
use crate::dist::{Alone, Collective, Spans};
use crate::error::Result;
use crate::nn::{Classifier, Net, Params, Trunk};
use crate::ops::sgd::Sgd;
use crate::rng::{self, Purpose};
use crate::ssl::Division;
use crate::ssl::supervised::{Learner, share_of};
use crate::tensor::{Device, Tensor};
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
    learner: Learner,
    load: Arc<Load<Labelled>>,
    videos: usize,
    division: Division,
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
        let learner = Learner::new(classifier, params.to(device)?)?;
        let division = recipe.division(Arc::new(Alone))?;
        Ok(Finetune { recipe: recipe.clone(), learner, load, videos, division })
    }

    /// The same run as one of `ranks`, which share each step.
    ///
    /// # Errors
    /// As [`Recipe::division`].
    pub fn over(mut self, ranks: Arc<dyn Collective>) -> Result<Finetune> {
        self.division = self.recipe.division(ranks)?;
        Ok(self)
    }

    /// The network and its weights.
    #[must_use]
    pub fn network(&self) -> (&Classifier, &Params) {
        self.learner.network()
    }
}

/// The clips of samples, `n t h w c`.
fn clips(some: &[Labelled]) -> Result<Tensor> {
    let feed = Feed::new(&Device::Cpu);
    Ok(feed.stack(some.iter().map(|sample| Some(&sample.clip)))?.unwrap_or_else(|| Tensor::zeros([0])))
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
    type Batch = Vec<Labelled>;

    fn name(&self) -> &'static str {
        "finetune"
    }

    fn division(&self) -> Division {
        self.division.clone()
    }

    fn trace(&mut self, spans: Arc<dyn Spans>) {
        self.division = self.division.clone().with_spans(spans);
    }

    fn batch(&mut self, samples: Vec<Labelled>) -> Result<Vec<Labelled>> {
        Ok(samples)
    }

    fn start(&mut self, batch: &mut Vec<Labelled>, at: At, lr: f32, sgd: &Sgd) -> Result<Seen> {
        let mut rng = rng::stream(at.seed, at.step, 0, Purpose::Dropout);
        let labels = |some: &[Labelled]| some.iter().map(|sample| sample.label).collect();
        let parts = batch.chunks(self.recipe.micro_batch).map(|some| Ok((clips(some)?, labels(some))));
        let n = batch.len() * self.division.ranks().size();
        self.learner.step_of(&self.recipe.supervised(), n, parts, &mut rng, lr, sgd, &self.division)
    }

    fn networks(&self) -> Vec<(&'static str, &Params)> {
        vec![(PREFIX, self.learner.network().1)]
    }

    fn networks_mut(&mut self) -> Vec<(&'static str, &mut Params)> {
        let [params, _] = self.learner.state_mut();
        vec![(PREFIX, params)]
    }

    fn save(&self, state: &mut State) {
        state.put_params("velocity.", self.learner.velocity());
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        let [_, velocity] = self.learner.state_mut();
        state.get_params("velocity.", velocity)
    }

    /// Computes the running statistics anew from the clips of the epoch after the last, in its order. Afterwards all ranks have
    /// the same ones.
    fn finish(&mut self, at: At) -> Result<()> {
        let Recipe { batch, micro_batch, precise_bn, frozen, precision, .. } = self.recipe;
        let per_epoch = steps_per_epoch(self.videos, batch)?;
        let used = per_epoch * batch as u64;
        let batches = precise_bn.min(used as usize / micro_batch);
        let ranks = self.division.ranks();
        if frozen || batches == 0 {
            return if frozen || ranks.size() == 1 { Ok(()) } else { self.learner.share_statistics(ranks) };
        }
        let (order, load) = (Order::new(at.seed, self.videos, per_epoch, batch), self.load.clone());
        let own = share_of(batches, ranks);
        let first = used * at.epochs + (own.start * micro_batch) as u64;
        let mut samples = Prefetch::new(rayon::current_num_threads(), micro_batch, own.len() * micro_batch, move |i| {
            let (epoch, video) = order.at(first + i as u64);
            load(epoch, video, Clips::ALL)
        });
        let next = own.map(|_| clips(&samples.by_ref().take(micro_batch).collect::<Result<Vec<_>>>()?));
        self.learner.precise_statistics(batches, next, precision, ranks)
    }

    fn kept(&self) -> (&Trunk, &Params) {
        let (classifier, params) = self.learner.network();
        (&classifier.trunk, params)
    }
}
