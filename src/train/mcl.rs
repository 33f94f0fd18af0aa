//! An MCL run: its settings as a plain struct, presets, and the implementation of the [loop](super::pretrain)'s method.

use super::batch::Feed;
use super::checkpoint::State;
use super::focus::{Focus, Quad};
use super::graph::Graph;
use super::limits;
use super::owners::Owners;
use super::pathway;
use super::pretrain::{At, Method, Seen};
use super::recipe::{MethodNumbers, Training, fitting};
use super::share::{Clips, Share, key_rng};
use super::views::ViewSpec;
use crate::augment::{AugmentSpec, BlurForm};
use crate::dist::sum::Wire;
use crate::dist::{Alone, Collective, Spans};
use crate::error::Result;
use crate::nn::{HeadSpec, MclEncoder, Net, Params, Trunk};
use crate::ops::sgd::Sgd;
use crate::ssl::Division;
use crate::ssl::alignment::Alignment;
use crate::ssl::mcl::{Mcl, Network, Views};
use crate::ssl::queue::Queue;
use crate::tensor::{Device, Integers, Tensor};
use crate::weights::{Config, ImageHead, Loaded, Networks, start_from};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Keys per video and step.
pub const KEYS: usize = 3;

/// Everything that defines a run except its data. Presets are starting points; every field may be changed.
#[derive(Clone, Debug, Serialize)]
pub struct Recipe {
    /// The trunk.
    pub net: Net,
    /// A file of weights to initialise the trunk from ([`start_from`]), and what to do with an image network's head;
    /// otherwise the trunk's weights are random. Paper and release start from MoCo v2's weights for ImageNet.
    #[serde(skip)] // a path, which may not be valid Unicode
    pub init: Option<(PathBuf, ImageHead)>,
    /// The three heads.
    pub heads: HeadSpec,
    /// Whether their linear layers start as PyTorch's do ([`MclEncoder::uniform`]).
    pub uniform_heads: bool,
    /// Losses and momentum.
    pub method: Mcl,
    /// Clips, queue, epochs and learning rate.
    pub training: Training,
}

impl Recipe {
    /// For procedural videos and first experiments: under three minutes on two cores.
    #[must_use]
    pub fn tiny() -> Recipe {
        let small = Self::small();
        let views = ViewSpec { stride: 2, ..small.training.views };
        Recipe { training: Training { views, probe_clips: 3, ..small.training }, ..small }
    }

    /// For a few hundred real videos on two cores, from random weights: takes minutes. It departs from the release
    /// where that did not learn (`docs/experiments.md`), above all in the alignment: [`Alignment::from_scratch`], one
    /// block below the top.
    #[must_use]
    pub fn small() -> Recipe {
        let alignment = Alignment::from_scratch("layer3.0");
        let focus = Focus { sampling: 0.7, crop: true, ..Focus::default() };
        let views = ViewSpec { focus, ..ViewSpec::small() };
        Recipe {
            net: super::maclr::small_net(3, 1),
            init: None,
            heads: HeadSpec { hidden: 128, code: 64, normalised: true },
            uniform_heads: false,
            method: Mcl { momentum: 0.99, in_batch: true, order_from: 0, alignment, ..Mcl::released("") },
            training: Training { views, queue_cap: 768, ..Training::small() },
        }
    }

    /// [`Recipe::small`], trained for longer.
    #[must_use]
    pub fn long() -> Recipe {
        let small = Self::small();
        Recipe { training: Training { epochs: 200, ..small.training }, ..small }
    }

    /// The release's network and settings for UCF101 (`docs/papers/mcl.md` sections 1, 2, 4), from random weights, for
    /// a machine with enough memory. Unlike in the release, there is no weight decay on normalisations.
    #[must_use]
    pub fn paper() -> Recipe {
        let focus = Focus { sampling: 0.7, crop: true, ..Focus::default() };
        let augment = AugmentSpec {
            area: [0.2, 1.0],
            aspect: [3.0 / 4.0, 4.0 / 3.0],
            hue: 0.1,
            blur_form: BlurForm::Boxes,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            ..AugmentSpec::default()
        };
        // UCF101 has 240 rows.
        let clips = ViewSpec { frames: 16, stride: 2, fps: None, cache_side: 240, flow_every: 1, ..ViewSpec::paper() };
        let views = ViewSpec { focus, augment, ..clips };
        Recipe {
            net: Net::p3d_a50(),
            init: None,
            heads: HeadSpec { hidden: 2048, code: 128, normalised: false },
            uniform_heads: true,
            // Four devices with eight videos each.
            method: Mcl { groups: 4, ..Mcl::released("layer4.2.conv3") },
            training: Training {
                views,
                min_frames: 64, // twice the span of a clip
                queue: Some(131_072),
                queue_cap: 131_072,
                epochs: 200,
                batch: 32,
                accumulate: 1,
                sync_bn: false,
                wire: Wire::F32,
                lr: 0.01,
                lr_floor: 1e-6,
                warmup_epochs: 5.0,
                whole_cosine: false,
                sgd: Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-4 },
                probe_clips: 20,
            },
        }
    }

    /// The same for Kinetics-400: frames of 256 rows, maps of frames over four fields, no order loss, videos longer than
    /// a clip, twice the epochs and the rate (`docs/papers/mcl.md` section 4).
    #[must_use]
    pub fn paper_kinetics() -> Recipe {
        let Recipe { method, training, .. } = Self::paper();
        let focus = Focus { window: 4, ..training.views.focus };
        let views = ViewSpec { focus, cache_side: 256, ..training.views };
        let method = Mcl { w_order: 0.0, ..method };
        // Videos are longer than a clip.
        let training = Training { views, min_frames: 33, epochs: 400, lr: 0.02, ..training };
        Recipe { method, training, ..Self::paper() }
    }

    /// Checks every number, the constraints between them, and that the network accepts clips of this size, before
    /// anything is read or decoded.
    ///
    /// # Errors
    /// `Param` naming the option, or the field if no option sets it, with its value and its range.
    pub fn check(&self) -> Result<()> {
        self.check_numbers()?;
        let [[t, h, w, _], _] = self.training.views.dims();
        fitting(&self.net, [t, h, w], "--frames and --side").map(|_| ())
    }

    fn check_numbers(&self) -> Result<()> {
        let m = &self.method;
        let alignment = m.alignment.weights();
        let weights = &[(limits::W_INTER, m.w_inter), (limits::W_INTRA, m.w_intra), (limits::W_ORDER, m.w_order)];
        let temperatures = &[m.temperature, m.temperature_intra];
        let numbers = MethodNumbers { weights, alignment, temperatures, momentum: m.momentum, groups: m.groups };
        numbers.check(&self.training)?;
        self.training.views.check_no_pair_options("MCL's samples")
    }

    /// What its network is, by the prefix of its names in the weights.
    #[must_use]
    pub fn networks(&self) -> Networks {
        let [input, _] = self.training.views.inputs();
        let config = Config::new(&self.net, "Pre-trained with MCL").mcl(self.heads).input(input);
        [(QUERY.to_owned(), config)].into_iter().collect()
    }

    /// Loads [`Recipe::init`] into a temporary network of the right kind, to report what it would do or why it cannot.
    ///
    /// # Errors
    /// As [`start_from`].
    pub fn check_init(&self) -> Result<Option<Loaded>> {
        Ok(self.init.is_some().then(|| self.first(0)).transpose()?.and_then(|(.., inflated)| inflated))
    }

    /// The encoder with its initial weights.
    fn first(&self, seed: u64) -> Result<(MclEncoder, Params, Option<Loaded>)> {
        let new = if self.uniform_heads { MclEncoder::uniform } else { MclEncoder::new };
        let (encoder, mut params) = new(&self.net, self.heads, seed)?;
        let start = self.init.as_ref().map(|(path, head)| start_from(path, &self.net, &mut params, *head));
        let inflated = start.transpose()?;
        Ok((encoder, params, inflated))
    }

    /// The grid `t h w` on which the network's gradients are aligned with motion; `None` without alignment.
    ///
    /// # Errors
    /// `Param` when the network has no such module, or its sizes are invalid.
    pub fn grid(&self) -> Result<Option<[usize; 3]>> {
        let (encoder, params) = MclEncoder::new(&self.net, self.heads, 0)?;
        let [[t, h, w, _], _] = self.training.views.dims();
        self.method.alignment.grid(&encoder.trunk, &params, [t, h, w])
    }

    /// The same recipe with its target on the grid of the aligned module.
    ///
    /// # Errors
    /// As [`Recipe::grid`].
    pub fn with_target(mut self) -> Result<Recipe> {
        self.training.views.focus.target = self.grid()?;
        Ok(self)
    }

    /// The network in its initial state, on `device`, and what was loaded from the file. Its initial weights do not
    /// depend on the device.
    ///
    /// # Errors
    /// As [`Training::queue_length`] and [`start_from`]; `Param` for invalid network sizes; on a GPU `OutOfMemory` and
    /// `Driver`.
    pub fn network(&self, videos: usize, seed: u64, device: &Device) -> Result<(Network, Option<Loaded>)> {
        let queue = self.training.queue_length(videos, KEYS, self.method.mask_own)?;
        let (encoder, params, inflated) = self.first(seed)?;
        let queue = Queue::new(queue, self.heads.code)?.to(device)?;
        Ok((Network::new(encoder, params.to(device)?, queue)?, inflated))
    }
}

/// An MCL run in progress.
pub struct MclRun {
    method: Mcl,
    network: Network,
    inflated: Option<Loaded>,
    device: Device,
    feed: Feed,
    graph: Graph<Mcl>,
    division: Division,
    /// Which losses were active in the last step.
    rates: Option<[bool; 2]>,
    warmup_epochs: f64,
    owners: Owners,
}

impl MclRun {
    /// The run in its initial state on `device`.
    ///
    /// # Errors
    /// As [`Recipe::network`]; `Param` for a number outside its [limit](limits).
    pub fn new(recipe: &Recipe, videos: usize, seed: u64, device: &Device) -> Result<MclRun> {
        recipe.check_numbers()?;
        let (network, inflated) = recipe.network(videos, seed, device)?;
        Ok(MclRun {
            method: recipe.method.clone(),
            network,
            inflated,
            device: device.clone(),
            feed: Feed::new(device),
            graph: Graph::Off,
            division: recipe.training.division(Arc::new(Alone), recipe.method.groups, None)?,
            rates: None,
            warmup_epochs: recipe.training.warmup_epochs,
            owners: Owners::new(videos, recipe.training.batch),
        })
    }

    /// The same run as one of `ranks`, which share each step of `recipe`.
    ///
    /// # Errors
    /// As [`Training::division`].
    pub fn over(mut self, ranks: Arc<dyn Collective>, recipe: &Recipe) -> Result<MclRun> {
        self.division = recipe.training.division(ranks, recipe.method.groups, Some(&recipe.method.alignment))?;
        Ok(self)
    }

    /// If `yes`, the same run with steps that need less memory and more time: blocks of the query network run again in
    /// the backward pass ([`crate::nn::Pass::recomputing`]).
    #[must_use]
    pub fn recomputing(mut self, yes: bool) -> MclRun {
        self.network = self.network.recomputing(yes);
        self
    }

    /// The same run with its step recorded as a graph after every loss has been active once, and replayed from then on:
    /// the same bits, in one launch per step. It has no effect on the CPU.
    #[must_use]
    pub fn recorded(mut self) -> MclRun {
        self.graph = Graph::wanted(&self.device);
        self
    }

    /// What the network loaded from [`Recipe::init`].
    #[must_use]
    pub fn inflated(&self) -> Option<&Loaded> {
        self.inflated.as_ref()
    }

    /// The query network and its key network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The gradient map `[n t h w]` of each sample's query clip, of the similarity with its `k1`, by the current
    /// networks with running statistics. The run's state is not changed.
    ///
    /// # Errors
    /// As [`Mcl::saliency`].
    pub fn saliency(&self, batch: &[Quad]) -> Result<Tensor> {
        self.method.saliency(&self.network, &collate(batch, &Share::default(), &Feed::new(&Device::Cpu))?)
    }
}

/// Prefix of the network's names in a weights file.
const QUERY: &str = "encoder_q.";

impl Method for MclRun {
    type Sample = Quad;
    type Batch = Views;

    fn name(&self) -> &'static str {
        "mcl"
    }

    fn batch(&mut self, samples: Vec<Quad>) -> Result<Views> {
        collate(&samples, &self.share(), &self.feed)
    }

    fn share(&self) -> Share {
        if self.division.ranks().size() == 1 || !self.method.shuffle_keys {
            return Share::default();
        }
        Share { own: Clips::of([Quad::QUERY, Quad::TARGET]), keys: Quad::KEYS.to_vec() }
    }

    fn division(&self) -> Division {
        self.division.clone()
    }

    fn trace(&mut self, spans: Arc<dyn Spans>) {
        self.division = self.division.clone().with_spans(spans);
    }

    fn start(&mut self, views: &mut Views, at: At, lr: f32, sgd: &Sgd) -> Result<Seen> {
        self.owners.complete(&mut views.owners, at, self.division.ranks())?;
        *views = views.to(&self.device)?; // the stream of the networks waits for the copies
        let mut rng = key_rng(at.seed, at.epoch, at.step);
        let rates = self.method.rates(lr, at.epoch, at.epochs, self.warmup_epochs);
        if self.rates.replace(rates.wanted()) != Some(rates.wanted()) {
            self.graph.forget(); // the recording has other losses
        }
        self.graph.start(&self.method, &mut self.network, views, &mut rng, rates, sgd, &self.division)
    }

    fn is_asynchronous(&self) -> bool {
        self.feed.is_asynchronous()
    }

    fn networks(&self) -> Vec<(&'static str, &Params)> {
        vec![(QUERY, self.network.query())]
    }

    fn networks_mut(&mut self) -> Vec<(&'static str, &mut Params)> {
        vec![(QUERY, self.network.query_mut())]
    }

    fn save(&self, state: &mut State) {
        pathway::save(state, "mcl", &self.network);
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.graph.forget();
        pathway::restore(state, "mcl", &mut self.network)
    }

    fn kept(&self) -> (&Trunk, &Params) {
        (&self.network.encoder().trunk, self.network.query())
    }
}

/// Collates samples into a batch.
fn collate(samples: &[Quad], share: &Share, feed: &Feed) -> Result<Views> {
    let (own, permuted) = share.split(samples);
    let clips = |x: Option<Tensor>| x.unwrap_or_else(|| Tensor::zeros([0]));
    let key = |i: usize, some: &[Quad]| feed.stack(some.iter().map(|s| Some(&s.keys[i]))).map(clips);
    let mut of_keys = [own; KEYS];
    for (to, (_, some)) in of_keys.iter_mut().zip(permuted) {
        *to = some;
    }
    let order: Vec<f32> = own.iter().map(|s| if s.order { 1.0 } else { -1.0 }).collect();
    Ok(Views {
        query: feed.stack(own.iter().map(|s| Some(&s.query))).map(clips)?,
        keys: [key(0, of_keys[0])?, key(1, of_keys[1])?, key(2, of_keys[2])?],
        target: feed.stack_maps(own.iter().map(|s| s.target.as_ref()))?,
        order: Tensor::from_f32([own.len(), 1], &order)?,
        owners: Integers::new(own.iter().map(|s| s.video).collect()),
        permuted: !share.keys.is_empty(),
    })
}
